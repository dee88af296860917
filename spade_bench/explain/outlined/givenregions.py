"""The regions that `explain` was given: every file read once, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import DataError
from spade_bench.explain.outlined.regionclasses import RegionClass, RegionKey
from spade_bench.regions.regionfiles import check_names, find_regions, read_regions

if TYPE_CHECKING:
    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.regions.outlines import SlideRegions

__all__ = ["GivenRegions"]


@dataclass(frozen=True)
class GivenRegions:
    """Regions of slides, as their files have them.

    Attributes:
        path: What was given: a folder of region files, or one.
        names: Classes or names that are asked for; empty for all.
        files: Slide -> its region file.
        regions: Slide -> the regions asked for, of slides that have such, in the file's own pixels.
    """

    path: Path
    names: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)
    regions: dict[str, SlideRegions] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, names: Sequence[str] = ()) -> GivenRegions:
        """Read all files.

        Raises:
            DataError: When there are none, one is damaged, or no region has a name asked for.
        """
        files = find_regions(path)
        every = {slide: read_regions(file, slide_id=slide) for slide, file in files.items()}
        if names:
            check_names(every.values(), names)
        called = {slide: one.called(names) if names else one for slide, one in every.items()}
        kept = {slide: one for slide, one in called.items() if one is not None}
        return cls(path, tuple(names), files, kept)

    def of(self, shown: SlideMap) -> SlideRegions | None:
        """Return the regions of a mapped slide in its level-0 pixels; None where it has none.

        Raises:
            DataError: When one reaches beyond the slide.
        """
        regions = self.regions.get(shown.slide_id)
        if regions is None:
            return None
        placed = regions.moved(*shown.offset)
        if shown.size is not None:
            placed.check_size(*shown.size, where=str(self.files[shown.slide_id]))
        return placed

    @cached_property
    def key(self) -> RegionKey:
        """The colours of their classes, the same on every slide."""
        return RegionKey.of(one for slide in self.regions.values() for one in slide.regions)

    def classes(self, regions: SlideRegions | None) -> list[RegionClass]:
        """Return the regions of a slide by class, as pictures outline them."""
        return [] if regions is None else self.key.classes(regions.regions)

    def expect(self, slides: Iterable[str]) -> None:
        """Refuse regions that belong to none of the slides that will be mapped.

        Raises:
            DataError: When there is no such slide.
        """
        if self.regions.keys().isdisjoint(slides):
            raise self.none_of_a_slide()

    def none_of_a_slide(self) -> DataError:
        """Return the error of regions none of which belongs to a mapped slide."""
        named = f" called {' or '.join(map(repr, self.names))}" if self.names else ""
        return DataError(
            f"holds no region{named} of a slide that is to be mapped",
            where=str(self.path),
            fix="Name each region file after its slide, SLIDE.geojson"
            + (", and a class or name that is in it" if self.names else ""),
        )

    def none_holds_a_patch(self) -> DataError:
        """Return the error of regions that lie beside all patches of the mapped slides."""
        return DataError(
            "has regions of slides that were mapped, and none holds the centre of a patch",
            where=str(self.path),
            fix="Look whether they were outlined on these slides, in pixels of full resolution",
        )
