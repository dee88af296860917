"""Outlined regions by class, each class in one colour on every slide, picture and page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spade_bench.explain.colours import outline_colours
from spade_bench.regions.outlines import Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.regions.outlines import Colour

__all__ = ["RegionClass", "RegionKey"]

UNNAMED = "no class"
_MOST_NAMES = 8  # of regions without a class; more are numbers, or notes to single regions
_NEAR = 60.0  # of 441 between black and white: colours nearer than this look alike on tissue


@dataclass(frozen=True)
class RegionClass:
    """The regions of one class on one slide.

    Attributes:
        name: What a legend calls them.
        colour: Red, green and blue of their outline, 0 to 255.
        regions: The annotations.
    """

    name: str
    colour: Colour
    regions: tuple[Region, ...]

    @cached_property
    def _whole(self) -> Any:
        import shapely

        return shapely.union_all([region.shape for region in self.regions])

    @property
    def area(self) -> float:
        """Area of their union in square level-0 pixels."""
        return float(self._whole.area)

    @property
    def rings(self) -> list[NDArray[np.float64]]:
        """Borders of their union and of its holes, closed, (k, 2) each, in level-0 pixels."""
        import numpy as np
        import shapely

        parts = shapely.get_parts(self._whole)
        rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
        return [np.asarray(ring.coords)[:, :2] for ring in rings]


@dataclass(frozen=True)
class RegionKey:
    """Which colour each class of regions has.

    A class has the colour that its file gives it, unless another class has it already; the others
    follow in colours that readers with any colour vision tell apart, the first one in black.

    Attributes:
        colours: Class -> red, green and blue.
        by_name: Whether regions without a class go by their names.
    """

    colours: Mapping[str, Colour]
    by_name: bool = True

    @classmethod
    def of(cls, regions: Iterable[Region]) -> RegionKey:
        """Choose the colours of all regions that somebody will see beside each other."""
        every = list(regions)
        by_name = len({one.name for one in every if not one.label}) <= _MOST_NAMES
        names = list(dict.fromkeys(_class_of(one, by_name) for one in every))
        given: dict[str, Colour] = {}
        for one in every:
            name = _class_of(one, by_name)
            if one.colour and name not in given and one.colour not in given.values():
                given[name] = one.colour
        rows = outline_colours(2 * len(names) + 8).tolist()
        defaults: list[Colour] = [(red, green, blue) for red, green, blue in rows]
        free = iter([one for one in defaults if _apart(one, given.values())] + defaults)
        colours = {name: given[name] if name in given else next(free) for name in names}
        return cls(colours, by_name)

    def classes(self, regions: Sequence[Region]) -> list[RegionClass]:
        """Return the regions of a slide by class, in the order of the key."""
        sorted_in: dict[str, list[Region]] = {name: [] for name in self.colours}
        for one in regions:
            sorted_in[_class_of(one, self.by_name)].append(one)
        return [
            RegionClass(name, self.colours[name], tuple(listed))
            for name, listed in sorted_in.items()
            if listed
        ]


def _class_of(region: Region, by_name: bool) -> str:
    return region.label or (region.name if by_name else "") or UNNAMED


def _apart(colour: Sequence[int], others: Iterable[Sequence[int]]) -> bool:
    return all(
        sum((a - b) ** 2 for a, b in zip(colour, other, strict=True)) >= _NEAR**2
        for other in others
    )
