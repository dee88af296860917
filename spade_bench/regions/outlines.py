"""Regions of interest of one slide: what was outlined, and which patches lie inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, UserError, name_some
from spade_bench.files import hash_obj

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CENTRE", "Colour", "Region", "SlideRegions", "check_share"]

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

CENTRE = "patches whose centre lies in a region"
"""How patches are chosen by default, in words."""


@dataclass(frozen=True)
class Region:
    """One annotation.

    Attributes:
        shape: Its area, a shapely `Polygon` or `MultiPolygon` in level-0 pixels.
        name: What the annotator called it; may be empty.
        label: Its class, such as "Tumor"; may be empty.
        colour: The colour of its class, where the file gives one.
    """

    shape: Any
    name: str = ""
    label: str = ""
    colour: Colour | None = None


@dataclass(frozen=True)
class SlideRegions:
    """What was outlined on one slide.

    A patch counts by its centre unless a share of its area is asked for: by their centres the
    patches of a grid are divided among regions that lie side by side, none is counted twice, and
    their number grows as the area does, whatever the size of a patch.

    Attributes:
        slide_id: Name of the slide.
        regions: The annotations, one or more.
    """

    slide_id: str
    regions: tuple[Region, ...]

    @cached_property
    def outline(self) -> Any:
        """Their union, a shapely geometry in level-0 pixels; overlaps count once."""
        import shapely

        whole = shapely.union_all([region.shape for region in self.regions])
        shapely.prepare(whole)
        return whole

    @property
    def area(self) -> float:
        """Area of the union in square level-0 pixels."""
        return float(self.outline.area)

    @property
    def digest(self) -> str:
        """Hash of what was outlined and how it is called, whatever file holds it."""
        import shapely

        listed = [
            [region.name, region.label, shapely.to_wkb(shapely.normalize(region.shape), hex=True)]
            for region in self.regions
        ]
        return hash_obj(sorted(listed))

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes and names that the regions go by, in their order."""
        words = (word for region in self.regions for word in (region.label, region.name))
        return tuple(dict.fromkeys(word for word in words if word))

    def called(self, names: Sequence[str]) -> SlideRegions | None:
        """Return the regions whose class or name is one of these; None where there are none."""
        wanted = {name.casefold() for name in names}
        kept = tuple(r for r in self.regions if {r.label.casefold(), r.name.casefold()} & wanted)
        return replace(self, regions=kept) if kept else None

    def moved(self, x: float, y: float) -> SlideRegions:
        """Return the regions moved by so many level-0 pixels."""
        from shapely import affinity

        if not x and not y:
            return self
        moved = (replace(r, shape=affinity.translate(r.shape, x, y)) for r in self.regions)
        return replace(self, regions=tuple(moved))

    def inside(
        self, coords: NDArray[np.int64], side: float, *, share: float | None = None
    ) -> NDArray[np.bool_]:
        """Say which patches lie inside, (n,).

        Args:
            coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
            side: Side of a patch in level-0 pixels.
            share: Least share of a patch's area, in 0..1, that must lie inside; None asks for its
                centre. A centre on the line lies inside.

        Raises:
            UserError: When the share is not above 0 and at most 1.
        """
        import numpy as np
        import shapely

        check_share(share)
        if share is not None:
            # Areas are sums of rounded products: a patch that lies inside must not miss by a bit.
            return np.asarray(self.shares(coords, side) >= share - 1e-9)
        centres = np.asarray(coords, dtype=np.float64) + side / 2  # (n, 2)
        return np.asarray(shapely.intersects_xy(self.outline, centres[:, 0], centres[:, 1]))

    def shares(self, coords: NDArray[np.int64], side: float) -> NDArray[np.float64]:
        """Return the share of each patch's area that lies inside, (n,) in 0..1.

        Args:
            coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
            side: Side of a patch in level-0 pixels.
        """
        import numpy as np
        import shapely

        at = np.asarray(coords, dtype=np.float64)  # (n, 2)
        boxes = shapely.box(at[:, 0], at[:, 1], at[:, 0] + side, at[:, 1] + side)  # (n,)
        inside = shapely.covers(self.outline, boxes)  # (n,)
        out = np.asarray(inside, dtype=np.float64)
        # Only what the outline crosses has to be cut, which costs a hundred times as much.
        crossed = np.flatnonzero(shapely.intersects(self.outline, boxes) & ~inside)
        cut = shapely.intersection(self.outline, boxes[crossed])  # (m,)
        out[crossed] = np.clip(shapely.area(cut) / side**2, 0.0, 1.0)
        return out

    def check_size(self, width: float, height: float, where: str) -> None:
        """Refuse regions that reach beyond the slide.

        Args:
            width: Level-0 width of the slide.
            height: Its height.
            where: The file of the regions, for messages.

        Raises:
            DataError: Naming the region and how far it reaches.
        """
        for number, region in enumerate(self.regions, start=1):
            left, top, right, bottom = region.shape.bounds
            if left >= -1 and top >= -1 and right <= width + 1 and bottom <= height + 1:
                continue  # QuPath's brush may lie half a pixel off the edge
            raise DataError(
                f"annotation {number}{_called(region)} spans x {left:.0f} to {right:.0f} and "
                f"y {top:.0f} to {bottom:.0f}, which is outside the slide ({width:.0f} x "
                f"{height:.0f} px)",
                where=where,
                fix="Export it from this slide, in pixels of full resolution",
            )


def check_share(share: float | None) -> None:
    """Refuse a share of a patch's area that is none.

    Raises:
        UserError: When it is not above 0 and at most 1.
    """
    if share is not None and not 0 < share <= 1:
        raise UserError(
            f"the share of a patch that must lie inside is {share:g}",
            fix="Give a number above 0, at most 1",
        )


def no_such_region(regions: SlideRegions, names: Sequence[str], where: str) -> DataError:
    """Return the error of a slide none of whose regions is called so."""
    called = name_some(regions.labels) or "none has a class or a name"
    return DataError(
        f"no region is called {' or '.join(names)} (there are: {called})",
        where=where,
        fix="Name one of these",
    )


def _called(region: Region) -> str:
    words = region.name or region.label
    return f" ('{words}')" if words else ""
