"""Bags cut to the patches that lie inside what was outlined on each slide.

The patches inside are written as feature files of their own, so that whatever reads features
reads them, and no cache or pack of the whole slides can be taken for them. Their identity says
what was outlined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import track, warn
from spade_bench.errors import DataError, name_some
from spade_bench.features.bags import placement, read_bag, write_features
from spade_bench.features.cache import signature
from spade_bench.features.formats import HDF5, opened
from spade_bench.features.identity import ATTRIBUTE, read_identity
from spade_bench.features.packs import split_path
from spade_bench.features.slideids import match_files
from spade_bench.files import file_name, hash_obj
from spade_bench.regions.outlines import CENTRE, SlideRegions, check_share
from spade_bench.regions.regionfiles import find_regions, read_regions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.types import Bag

__all__ = ["Cut", "PatchRule", "RegionChoice", "cut_bags", "patches_inside"]

_KEY = "cut_from"  # attribute of a cut file: what it was made of
# What of a source is true of its parts and not known to a bag.
_CARRIED = ("patch_size", "level0_magnification", "target_magnification", "overlap")


@dataclass(frozen=True)
class PatchRule:
    """Which patches are taken, whatever the slide.

    Attributes:
        names: Classes or names of regions to take; empty takes all.
        share: Least share of a patch's area inside; None asks for its centre.
    """

    names: tuple[str, ...] = ()
    share: float | None = None

    @property
    def words(self) -> str:
        """The rule in words."""
        which = f" called {' or '.join(self.names)}" if self.names else ""
        if self.share is None:
            return f"{CENTRE}{which}"
        return f"patches of which {self.share:.0%} or more lie in a region{which}"


@dataclass(frozen=True)
class RegionChoice:
    """What restricts bags: where the region files lie, and how patches are chosen by them.

    Attributes:
        path: A folder with `SLIDE.geojson`, or one such file.
        rule: Which patches are taken.
        match: `exact`, or `loose`; see `spade_bench.features.slideids`.
    """

    path: Path
    rule: PatchRule = PatchRule()
    match: str = "exact"
    _read: dict[str, SlideRegions] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a share that is none.

        Raises:
            UserError: When it is not above 0 and at most 1.
        """
        check_share(self.rule.share)

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Slide id -> region file.

        Raises:
            DataError: When there are none.
        """
        return find_regions(self.path)

    def files_of(self, slides: Sequence[str]) -> Mapping[str, Path]:
        """Region files by the slide that they serve, ids matched as the choice has it."""
        return match_files(self.files, slides, self.match, str(self.path))

    def of(self, slide: str, file: Path) -> SlideRegions:
        """The regions of a slide as its file has them, read once, in the file's own pixels."""
        if slide not in self._read:
            self._read[slide] = read_regions(file, slide_id=slide, names=self.rule.names)
        return self._read[slide]


@dataclass(frozen=True)
class Cut:
    """Bags that were restricted to regions.

    Attributes:
        files: Slide id -> file with the patches inside; slides without any are not among them.
        digests: Slide id -> hash of what was outlined on it and of how patches were chosen.
    """

    files: Mapping[str, Path]
    digests: Mapping[str, str]

    def key(self, slides: Sequence[str]) -> str:
        """Hash of what restricts these slides."""
        return hash_obj([[slide, self.digests[slide]] for slide in sorted(slides)])


def patches_inside(
    bag: Bag, regions: SlideRegions, share: float | None, where: str
) -> NDArray[Any]:
    """Say which patches of a bag lie inside, (n,) bool.

    Args:
        bag: The bag.
        regions: What was outlined, in pixels as QuPath counts them.
        share: Least share of a patch's area; None asks for its centre.
        where: The region file, for messages.

    Raises:
        DataError: When the bag does not say where its patches lie, or a region lies outside the
            slide.
    """
    if bag.coords is None or bag.patch_size_level0 is None:
        raise DataError(
            "the features do not say where their patches lie, or how large they are",
            where=bag.slide_id,
            fix="Extract them with `spade-bench extract`, or leave out --regions",
        )
    placed = regions.moved(*bag.offset)
    if bag.size is not None:
        placed.check_size(*bag.size, where=where)
    return placed.inside(bag.coords, bag.patch_size_level0, share=share)


def cut_bags(
    files: Mapping[str, Path],
    slides: Sequence[str],
    choice: RegionChoice,
    folder: Path,
    *,
    label: str,
    allow_missing: bool = False,
    fix: str = "Outline these slides, or leave them out with --allow-missing",
) -> Cut:
    """Write the patches of each slide that lie inside its regions, and name the new files.

    A file that an earlier call wrote from the same features and regions is taken as it is.

    Args:
        files: Slide id -> feature file.
        slides: Slides to cut; those without features are passed over.
        choice: The regions.
        folder: Where the new files go.
        label: Whose features they are, for messages.
        allow_missing: Leave out slides without a region file or a patch inside, and say so.
        fix: What to do about them where they are not left out.

    Raises:
        DataError: When a region file is unsound, or slides have none or no patch inside and this
            was not allowed.
    """
    region_files = choice.files_of(slides)
    wanted = [slide for slide in dict.fromkeys(slides) if slide in files]
    without = [slide for slide in wanted if slide not in region_files]
    if without and not allow_missing:
        raise _left_out(label, choice, without, [], fix)
    made: dict[str, Path] = {}
    digests: dict[str, str] = {}
    empty: list[str] = []
    todo = [slide for slide in wanted if slide in region_files]
    for slide in track(todo, f"Cutting {label} to its regions", len(todo), "slides"):
        file = region_files[slide]
        regions = choice.of(slide, file)
        digests[slide] = hash_obj([regions.digest, choice.rule.share])
        target = folder / f"{file_name(slide)}.h5"
        if _cut(files[slide], target, regions, choice, digest=digests[slide], where=str(file)):
            made[slide] = target
        else:
            empty.append(slide)
    if empty and not allow_missing:
        raise _left_out(label, choice, without, empty, fix)
    if without or empty:
        warn(f"{_left_out(label, choice, without, empty, fix).what}; going on without them")
    return Cut(made, digests)


def _cut(
    source: Path,
    target: Path,
    regions: SlideRegions,
    choice: RegionChoice,
    *,
    digest: str,
    where: str,
) -> bool:
    """Write one slide, unless it is there; False where no patch lies inside."""
    packed = split_path(source)
    key = hash_obj([str(source.absolute()), signature(packed[0] if packed else source), digest])
    if _made_of(target) == key:
        return True
    bag = read_bag(source)
    keep = patches_inside(bag, regions, choice.rule.share, where)  # (n,)
    if not keep.any():
        target.unlink(missing_ok=True)
        return False
    _write(source, target, bag, keep, {_KEY: key, "regions": digest})
    return True


def _write(
    source: Path, target: Path, bag: Bag, keep: NDArray[np.bool_], attrs: Mapping[str, Any]
) -> None:
    """Write the patches that are kept, with all that the source says of itself."""
    identity = read_identity(bag.identity)
    if identity is not None:
        attrs = {**attrs, ATTRIBUTE: replace(identity, regions=attrs["regions"]).to_json()}
    spots = bag.barcodes
    write_features(
        target,
        bag.features[keep],
        None if bag.coords is None else bag.coords[keep],
        slide_id=bag.slide_id,
        encoder=bag.encoder or "",
        barcodes=None if spots is None else [s for s, k in zip(spots, keep, strict=True) if k],
        attrs={**_carried(source, bag), **attrs},
    )


def _carried(source: Path, bag: Bag) -> dict[str, Any]:
    """What a source says of its patches, beside what the bag knows."""
    said: dict[str, Any] = {}
    if source.suffix in HDF5 and split_path(source) is None:
        with opened(source) as file:
            for attrs in (file[key].attrs for key in ("features", "coords") if key in file):
                said |= {name: attrs[name] for name in _CARRIED if name in attrs}
    said |= {"mpp": bag.mpp, "patch_size_level0": bag.patch_size_level0, **placement(bag)}
    return {name: value for name, value in said.items() if value is not None}


def _made_of(target: Path) -> str:
    """What a finished file was cut from; empty without one."""
    import h5py

    if not target.is_file():
        return ""
    try:
        with h5py.File(target, "r") as file:
            return str(file["features"].attrs.get(_KEY, ""))
    except (OSError, RuntimeError, KeyError):  # damaged: it is made again
        return ""


def _left_out(
    label: str, choice: RegionChoice, without: Sequence[str], empty: Sequence[str], fix: str
) -> DataError:
    """The error of slides that regions leave nothing of."""
    parts = []
    if without:
        parts.append(f"{len(without)} slide(s) have no region file ({name_some(without)})")
    if empty:
        of_those = f" called {' or '.join(choice.rule.names)}" if choice.rule.names else ""
        parts.append(
            f"{len(empty)} slide(s) have no patch inside a region{of_those} ({name_some(empty)})"
        )
    return DataError(
        f"{label}: {', '.join(parts)}",
        where=str(choice.path),
        fix=fix,
    )
