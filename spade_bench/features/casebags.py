"""Bags of cases as heads see them: by position, pooled, or passed through a feature encoder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.console import track
from spade_bench.errors import DataError, UserError
from spade_bench.features.cache import FeatureCache, Known, KnownFiles, discard, signature
from spade_bench.features.formats import read_bag, reads_quickly
from spade_bench.features.packs import Pack, open_pack, split_path
from spade_bench.files import hash_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BagInfo", "CaseBags", "bad_values", "scan_bags"]

CACHE_BYTES = 4 << 30


@dataclass(frozen=True)
class BagInfo:
    """What a look at one feature file found.

    Attributes:
        path: The file.
        digest: Hash of the feature array, 16 hex digits; empty when unusable.
        n: Patches.
        dim: Width.
        encoder: Encoder named in the file, or None.
        problem: Why the file cannot be used; empty when it can.
        mpp: Resolution of the patches, or None.
        said_mpp: Whether ``mpp`` was looked at.
    """

    path: Path
    digest: str = ""
    n: int = 0
    dim: int = 0
    encoder: str | None = None
    problem: str = ""
    mpp: float | None = None
    said_mpp: bool = False


def scan_bags(
    files: Mapping[str, Path],
    description: str = "Reading features",
    *,
    whole: bool = False,
    cache: str = "digests",
) -> dict[str, BagInfo]:
    """Look at every file: width, digest, and whether it can be used at all.

    A file is read only where nothing is known about it from an earlier run, or it has changed.
    Where copies are asked for, files that read slowly are copied into the cache on the way; see
    `spade_bench.features.cache`.
    Of a pack only the index is read, because it may be larger than memory: each of its slides is
    held against its checksum when it is first used.

    Args:
        files: Slide id -> feature file.
        description: Shown while reading.
        whole: Hold every slide of a pack against its checksum now.
        cache: One of `CACHE_MODES`.

    Returns:
        Slide id -> what was found. Empty bags, NaN and infinite values are problems, as is a
        width other than that of most files.
    """
    loose = [path for path in files.values() if split_path(path) is None]
    store = FeatureCache.of(loose, cache)
    infos = {}
    try:
        for slide, path in track(files.items(), description, len(files), "slides"):
            infos[slide] = _look(path, store, whole)
        if store is not None:
            store.commit()
            store.advise(loose)
    finally:
        if store is not None:
            store.abandon()
    widths = [info.dim for info in infos.values() if not info.problem]
    if widths:
        usual = max(set(widths), key=widths.count)
        for slide, info in infos.items():
            if not info.problem and info.dim != usual:
                infos[slide] = BagInfo(info.path, problem=f"{info.dim} wide, others {usual}")
    return infos


class CaseBags:
    """The bags of a cohort's cases, read when first needed and kept while memory allows.

    Args:
        load: Returns the features of the case at a position, (n, dim).
        n_cases: Number of cases.
        dim: Width of the features.
        cache_bytes: Memory that cached bags may take.
    """

    def __init__(
        self,
        load: Callable[[int], NDArray[np.floating]],
        n_cases: int,
        dim: int,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._load = load
        self._n = n_cases
        self.dim = dim
        self._room = cache_bytes
        self._kept: dict[int, NDArray[np.floating]] = {}
        self._pooled: NDArray[np.float64] | None = None
        self._files: Sequence[Sequence[Path]] | None = None

    @classmethod
    def from_files(
        cls, cases: Sequence[Sequence[Path]], dim: int, *, cache: str = "digests"
    ) -> CaseBags:
        """Bags from feature files; the slides of a case are concatenated.

        Args:
            cases: For each case the files of its slides.
            dim: Width of the features.
            cache: One of `CACHE_MODES`; all but `off` read copies that are there.
        """
        import numpy as np

        known = KnownFiles()
        find = _Source if cache == "off" else lambda path: _Source.of(path, known)
        sources = [[find(path) for path in paths] for paths in cases]

        def load(index: int) -> NDArray[np.floating]:
            parts = [source.read() for source in sources[index]]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        bags = cls(load, len(cases), dim)
        bags._files = cases
        return bags

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return the bag of one case, (n, dim) float32; read-only where it is a view of a map."""
        import numpy as np

        bag = self._kept.get(index)
        if bag is None:
            bag = self._load(index)
            if bag.ndim != 2 or bag.shape[1] != self.dim or not len(bag):
                files = () if self._files is None else self._files[index]
                raise DataError(
                    f"the slides of case {index} hold {bag.shape[0] if bag.ndim == 2 else 'no'} "
                    f"patches, as an array of shape {bag.shape}; needed are one or more of width "
                    f"{self.dim}",
                    where=", ".join(map(str, files)),
                    fix="Extract these slides again, or leave the case out",
                )
            # A view of a map takes no memory of ours.
            taken = 0 if not bag.flags.writeable else bag.nbytes
            if taken <= self._room:
                self._room -= taken
                self._kept[index] = bag
        return np.asarray(bag, dtype=np.float32)

    def pooled(self) -> NDArray[np.float64]:
        """Mean over the patches of each case, (n_cases, dim); computed once."""
        import numpy as np

        if self._pooled is None:
            self._pooled = np.stack(
                [
                    self[i].mean(axis=0, dtype=np.float64)
                    for i in track(range(self._n), "Pooling", self._n, "cases")
                ]
            )
        return self._pooled

    def map(
        self, encode: Callable[[NDArray[np.float32]], NDArray[np.floating]], dim: int
    ) -> CaseBags:
        """Return these bags passed through ``encode``, (n, dim) -> (n, ``dim``)."""
        import numpy as np

        def load(index: int) -> NDArray[np.floating]:
            bag = self[index]
            # Encoders get an array of their own: torch warns about memory it may not write to.
            return np.asarray(encode(bag if bag.flags.writeable else bag.copy()))

        return CaseBags(load, self._n, dim)

    def map_slides(self, encode: Callable[[Path], NDArray[np.floating]], dim: int) -> CaseBags:
        """Return one row per slide: the file of each slide through ``encode``, -> (``dim``,).

        Raises:
            DataError: When these bags were not read from files.
        """
        import numpy as np

        files = self._files
        if files is None:
            raise DataError("bags that are not files have no slides to encode")

        def load(index: int) -> NDArray[np.floating]:
            return np.stack([encode(path) for path in files[index]])  # (slides, dim)

        return CaseBags(load, self._n, dim)


@dataclass
class _Source:
    """Where the features of a slide are read.

    Attributes:
        path: The user's file, or a bag in a pack.
        digest: Hash of its features when it was first read; empty when that is not known.
        copy: A fast copy, a pack and the name in it, or None. The pack stays open: its sound bags
            are read even when a damaged one has it removed.
        sound: Whether the file was held against its digest.
    """

    path: Path
    digest: str = ""
    copy: tuple[Pack, str] | None = None
    sound: bool = False

    @classmethod
    def of(cls, path: Path, known: KnownFiles) -> _Source:
        """Look a file up in the caches."""
        earlier, fastest = known.get(path), known.fastest(path)
        source = cls(path, "" if earlier is None else earlier.digest)
        copy = None if fastest == path else split_path(fastest)
        if copy is not None:
            with contextlib.suppress(DataError):  # another process has just removed it
                source.copy = open_pack(copy[0]), copy[1]
        return source

    def read(self) -> NDArray[np.floating]:
        """Features (n, dim); from a pack a view of the map.

        Raises:
            DataError: When the file cannot be read, or does not hold what it held before.
        """
        if self.copy is not None:
            try:
                return self.copy[0].features(self.copy[1])
            except DataError:
                discard(self.copy[0], self.path)
                self.copy = None
        if (packed := split_path(self.path)) is not None:
            return open_pack(packed[0]).features(packed[1])
        features = read_bag(self.path).features
        if self.digest and not self.sound and hash_array(features) != self.digest:
            raise DataError(
                "holds other numbers than when it was first read: it is damaged, or was replaced "
                "a moment ago",
                where=str(self.path),
                fix="Restore it, or `touch` it to take it as it is, and repeat the command",
            )
        self.sound = True
        return features


_KNOWN = tuple(field.name for field in dataclasses.fields(Known))


def _look(path: Path, cache: FeatureCache | None, whole: bool = False) -> BagInfo:
    packed = split_path(path)
    if packed is not None:
        return _look_packed(path, *packed, whole)
    known = None if cache is None else cache.get(path)
    if known is None:
        before = signature(path)
        info, features = _read(path)
        if cache is not None:
            found = {name: getattr(info, name) for name in _KNOWN}
            known = Known(**found)
            slow = features is not None and not reads_quickly(path)
            if slow and features is not None:
                cache.keep(info.digest, features)
            cache.put(path, before, known, slow=slow)
        return info
    return BagInfo(path, **{name: getattr(known, name) for name in _KNOWN})


def _look_packed(path: Path, file: Path, slide_id: str, whole: bool) -> BagInfo:
    """What a pack says about a slide; that its values are numbers was checked when packing."""
    try:
        pack = open_pack(file)
        slide = pack.slide(slide_id)
        if whole:
            pack.features(slide_id)  # held against their digest
    except UserError as error:
        return BagInfo(path, problem=f"{file.name}: {error.clause}")
    n = slide.stop - slide.start
    if not n:
        return BagInfo(path, problem="no patches")
    return BagInfo(path, slide.digest, n, pack.dim, slide.encoder, "", slide.mpp, True)


def _read(path: Path) -> tuple[BagInfo, NDArray[np.floating] | None]:
    """Read a file; the features are None when they cannot be used."""
    try:
        bag = read_bag(path)
    except UserError as error:
        return BagInfo(path, problem=error.clause), None
    features = bag.features
    if features.ndim != 2 or not features.size:
        return BagInfo(path, problem="no patches"), None
    problem = bad_values(features)
    if problem:
        return BagInfo(path, problem=problem), None
    n, dim = features.shape
    info = BagInfo(path, hash_array(features), n, dim, bag.encoder, "", bag.mpp, True)
    return info, features


def bad_values(features: NDArray[np.floating]) -> str:
    """Say in a clause how many rows hold NaN or infinite values; nothing when none does.

    Args:
        features: (n, dim).
    """
    import numpy as np

    if np.isfinite(features).all():
        return ""
    nan = int(np.isnan(features).any(axis=1).sum())
    infinite = int(np.isinf(features).any(axis=1).sum())
    rows = f"of {len(features)} rows"
    problems = [f"{nan} {rows} are NaN"] if nan else []
    if infinite:
        cause = " (float16 overflow)" if features.dtype == np.float16 else ""
        problems.append(f"{infinite} {rows} are infinite{cause}")
    return ", ".join(problems)
