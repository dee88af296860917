"""List and read the feature files of a table's slides, without stopping at the first problem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import UserError
from spade_bench.features.bags import feature_files, find_bags
from spade_bench.features.cache import FeatureCache
from spade_bench.features.casebags import BagInfo, scan_bags
from spade_bench.features.formats import SUFFIXES, look, read_bag
from spade_bench.features.packs import is_pack
from spade_bench.features.slideids import match_files
from spade_bench.files import hash_array

if TYPE_CHECKING:
    from spade_bench.types import Bag

__all__ = ["BagFacts", "FeatureScan", "scan_features"]


@dataclass
class FeatureScan:
    """What lies in a features folder.

    Attributes:
        files: Slide -> its file.
        twice: Slide -> several files.
        unreadable: File or slide -> why it cannot be read.
        bags: Slide -> patches, width, encoder, mpp and digest of each bag that was read.
        encoders: Encoders named by the files of a folder that `find_bags` refused.
    """

    files: dict[str, Path] = field(default_factory=dict)
    twice: dict[str, list[Path]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    bags: dict[str, BagFacts] = field(default_factory=dict)
    encoders: set[str | None] = field(default_factory=set)


@dataclass(frozen=True)
class BagFacts:
    """What reading one bag found. See `types.Bag`; ``bad`` counts rows with NaN or infinity."""

    n: int
    dim: int
    encoder: str | None
    mpp: float | None
    digest: str
    bad: int


def scan_features(
    folder: Path, slides: Iterable[str], encoder: str | None = None, match_ids: str = "exact"
) -> FeatureScan:
    """List feature files and read those of the table's slides.

    Sound files that an earlier run or check has read, and that have not changed since, are not
    read again; see `spade_bench.features.cache`. Packs are read in full.

    Args:
        folder: Searched recursively, whatever tool wrote it.
        slides: Slides of the table.
        encoder: Take this encoder's files where the folder holds several encoders'.
        match_ids: `exact`, or `loose`; see `spade_bench.features.slideids`.

    Raises:
        DataError: When the folder is missing or holds no features at all.
    """
    scan, slides = FeatureScan(), list(slides)
    try:
        _read_ahead(folder, slides)
        scan.files = find_bags(folder, encoder)
    except UserError:
        # The strict listing refuses the folder as a whole; the lenient one says what is wrong
        # with which file. Where that finds nothing wrong, the refusal stands.
        _list_leniently(folder, scan)
        if not scan.files and not scan.unreadable:
            raise
    scan.files = dict(match_files(scan.files, slides, match_ids, str(folder)))
    wanted = {slide: scan.files[slide] for slide in slides if slide in scan.files}
    for slide, info in scan_bags(wanted, whole=True).items():
        try:
            scan.bags[slide] = _known(info) or _facts(read_bag(info.path))
        except UserError as problem:
            scan.unreadable[slide] = problem.clause
    return scan


def _read_ahead(folder: Path, slides: Collection[str]) -> None:
    """Read files that nothing is known of before the folder is listed, which then opens none.

    Opening a file and finding its features takes longer than reading small ones, so that a first
    check would otherwise take twice the time. What is found is handed on in the cache; without
    one, nothing is read ahead.

    Raises:
        DataError: When the folder is missing.
    """
    wanted = set(slides)
    files = [path for path in feature_files(folder) if path.stem in wanted]
    cache = FeatureCache.of(files)
    if cache is not None:
        new = [path for path in files if path not in cache and not is_pack(path)]
        scan_bags({str(path): path for path in new}, beside=True)


def _known(info: BagInfo) -> BagFacts | None:
    """What an earlier look at a sound file found; None where the file must say what is wrong."""
    if info.problem:
        return None
    mpp = info.mpp
    if not info.said_mpp:
        header = look(info.path)
        if header is None:
            return None
        mpp = header.mpp
    return BagFacts(info.n, info.dim, info.encoder, mpp, info.digest, 0)


def _list_leniently(folder: Path, scan: FeatureScan) -> None:
    by_slide: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.suffix not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if path.name.endswith((".coordinates.npz", "_patches.h5")):
            continue
        try:
            header = look(path)
        except UserError as problem:
            scan.unreadable[path.stem] = problem.clause
            continue
        if header is not None:
            by_slide[header.slide_id].append(path)
            scan.encoders.add(header.encoder)
    scan.files = {slide: paths[0] for slide, paths in by_slide.items()}
    scan.twice = {slide: paths for slide, paths in by_slide.items() if len(paths) > 1}


def _facts(bag: Bag) -> BagFacts:
    import numpy as np

    values = bag.features
    bad = int((~np.isfinite(values).all(axis=1)).sum()) if values.size else 0
    return BagFacts(
        len(values),
        values.shape[1],
        bag.encoder,
        bag.mpp,
        hash_array(values) if len(values) else "",
        bad,
    )
