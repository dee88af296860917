"""Bags of cases as heads see them: by position, pooled, or passed through a feature encoder."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from spade_bench.console import track
from spade_bench.errors import DataError, UserError
from spade_bench.features.bagfiles import BagFiles
from spade_bench.features.bagmemory import BagMemory
from spade_bench.features.cache import FeatureCache, Known, Signature, signature
from spade_bench.features.formats import read_bag, reads_quickly
from spade_bench.features.otherprocesses import in_order
from spade_bench.features.packs import open_pack, split_path
from spade_bench.files import hash_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BagInfo", "CaseBags", "Looks", "bad_values", "scan_bags"]


Looks: TypeAlias = "dict[Path, tuple[list[Any], BagInfo]]"
"""Feature file -> its signature when it was looked at, and what was found."""


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
    seen: Looks | None = None,
    beside: bool = False,
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
        seen: What this process has found in files before; files that have not changed since are
            not read again, and what is found is added.
        beside: Read many files in several processes, with the same result; not together with
            copies, which this process writes.

    Returns:
        Slide id -> what was found. Empty bags, NaN and infinite values are problems, as is a
        width other than that of most files.
    """
    loose = [path for path in files.values() if split_path(path) is None]
    store = FeatureCache.of(loose, cache)
    infos = {}
    ahead = _Ahead(_unknown(loose, store) if beside and cache != "copy" else ())
    try:
        for slide, path in track(files.items(), description, len(files), "slides"):
            infos[slide] = _look_once(path, store, whole, {} if seen is None else seen, ahead)
        if store is not None:
            store.commit()
            store.advise(loose)
    finally:
        ahead.stop()
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
        memory: Where bags are kept; None for a budget of its own.
        names: What tells the bag of each case from all others in ``memory``, so that tasks share
            it; None for bags that nobody else has.
        lengths: Number of patches of each case, where it is known without reading.
    """

    def __init__(
        self,
        load: Callable[[int], NDArray[np.floating]],
        n_cases: int,
        dim: int,
        *,
        memory: BagMemory | None = None,
        names: Sequence[Hashable] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self._load = load
        self._n = n_cases
        self.dim = dim
        self._memory = BagMemory() if memory is None else memory
        self._names = names
        self._lengths = lengths
        self._files: BagFiles | None = None
        self._owner = object()  # what nobody else has goes with it
        weakref.finalize(self, self._memory.forget, self._owner)

    @classmethod
    def from_files(
        cls,
        cases: Sequence[Sequence[Path]],
        dim: int,
        *,
        cache: str = "digests",
        infos: Mapping[Path, BagInfo] | None = None,
        memory: BagMemory | None = None,
    ) -> CaseBags:
        """Bags from feature files; the slides of a case are concatenated.

        Args:
            cases: For each case the files of its slides.
            dim: Width of the features.
            cache: One of `CACHE_MODES`; all but `off` read copies that are there.
            infos: What was found in each file, so that nothing is read for it again.
            memory: Where bags are kept; None for a budget of their own.
        """
        known = {path: (info.digest, info.n) for path, info in (infos or {}).items()}
        files = BagFiles(cases, cache, known)
        room = BagMemory() if memory is None else memory
        bags = cls(
            lambda index: files.read(index, room),
            len(cases),
            dim,
            memory=room,
            names=files.names,
            lengths=files.lengths,
        )
        bags._files = files
        return bags

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return the bag of one case, (n, dim) float32; read-only where it is a view of a map."""
        import numpy as np

        key = self._key("bag", index)
        bag = self._memory.get(key)
        if bag is None:
            bag = self._load(index)
            if bag.ndim != 2 or bag.shape[1] != self.dim or not len(bag):
                files = () if self._files is None else self._files.cases[index]
                raise DataError(
                    f"the slides of case {index} hold {bag.shape[0] if bag.ndim == 2 else 'no'} "
                    f"patches, as an array of shape {bag.shape}; needed are one or more of width "
                    f"{self.dim}",
                    where=", ".join(map(str, files)),
                    fix="Extract these slides again, or leave the case out",
                )
            if bag.flags.writeable:  # a view of a map takes no memory of ours
                self._memory.keep(key, bag)
        return np.asarray(bag, dtype=np.float32)

    def length(self, index: int) -> int:
        """Return the number of patches of a case, without reading them where it is known."""
        return len(self[index]) if self._lengths is None else self._lengths[index]

    def once(self, what: str, index: int, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Compute a few numbers from a bag once for all heads and tasks.

        Args:
            what: What they are.
            index: Position of the case.
            make: Reads the bag and returns them.
        """
        key = self._key(what, index)
        found = self._memory.get(key)
        if found is None:
            found = self._memory.keep_small(key, make())
        return found

    def mean(self, index: int) -> NDArray[np.float64]:
        """Mean over the patches of a case, (dim,); computed once."""
        import numpy as np

        return self.once("mean", index, lambda: self[index].mean(axis=0, dtype=np.float64))

    def pooled(self) -> NDArray[np.float64]:
        """Mean over the patches of each case, (n_cases, dim); each is computed once."""
        import numpy as np

        key = self._owner, "pooled"
        pooled: NDArray[np.float64] | None = self._memory.get(key)
        if pooled is None:
            cases = track(range(self._n), "Pooling", self._n, "cases")
            pooled = self._memory.keep_small(key, np.stack([self.mean(index) for index in cases]))
        return pooled

    def map(
        self,
        encode: Callable[[NDArray[np.float32]], NDArray[np.floating]],
        dim: int,
        *,
        made_by: str = "",
    ) -> CaseBags:
        """Return these bags passed through ``encode``, (n, dim) -> (n, ``dim``).

        Args:
            encode: Turns features into others, patch by patch.
            dim: Their width.
            made_by: Digest of all that determines what it returns. Where it is given, and these
                bags come from files, what was made is kept on the disk too, for later heads, tasks
                and runs; see `spade_bench.features.encodedbags`.
        """
        import numpy as np

        def make(index: int) -> NDArray[np.floating]:
            bag = self[index]
            # Encoders get an array of their own: torch warns about memory it may not write to.
            return np.asarray(encode(bag if bag.flags.writeable else bag.copy()))

        return self._made(make, dim, made_by, self._lengths)

    def map_slides(
        self, encode: Callable[[Path], NDArray[np.floating]], dim: int, *, made_by: str = ""
    ) -> CaseBags:
        """Return one row per slide: the file of each slide through ``encode``, -> (``dim``,).

        Args:
            encode: Turns the file of a slide into its vector.
            dim: Its width.
            made_by: As for `map`.

        Raises:
            DataError: When these bags were not read from files.
        """
        import numpy as np

        if self._files is None:
            raise DataError("bags that are not files have no slides to encode")
        files = self._files.cases

        def make(index: int) -> NDArray[np.floating]:
            return np.stack([encode(path) for path in files[index]])  # (slides, dim)

        lengths = [len(paths) for paths in files]
        return self._made(make, dim, made_by, lengths, whole_files=True)

    def _made(
        self,
        make: Callable[[int], NDArray[np.floating]],
        dim: int,
        made_by: str,
        lengths: Sequence[int] | None,
        *,
        whole_files: bool = False,
    ) -> CaseBags:
        """Bags made of these, kept under what made them where that is known."""
        names: list[Hashable] | None = None
        load = make
        if made_by and self._names is not None:
            # What is made of whole files may rest on more than their features: on places, or sizes.
            places = self._files.cases if whole_files and self._files is not None else ()
            files = [tuple(map(str, paths)) for paths in places] or [()] * self._n
            names = [(made_by, *pair) for pair in zip(self._names, files, strict=True)]
        if made_by and self._files is not None:
            load = self._files.kept(make, made_by, dim, whole_files)
        return CaseBags(load, self._n, dim, memory=self._memory, names=names, lengths=lengths)

    def _key(self, what: str, index: int) -> Hashable:
        if self._names is None:
            return self._owner, what, index
        return what, self._names[index]


_Found: TypeAlias = "tuple[Signature | None, BagInfo, bool, float]"
"""The signature of a file before it was read, what was found, if it reads slowly, and when."""
_WORTH_A_PROCESS = 1000  # small files for which another process is worth its start


class _Ahead:
    """Files that are read in several processes, where there are many of them.

    Args:
        paths: The files, in the order in which they will be asked for.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._waiting = set(paths)
        self._read = in_order(_found, paths, _WORTH_A_PROCESS)
        self._paths = iter(paths)

    def take(self, path: Path) -> _Found | None:
        """Return what was found in a file; None where it is not one of these."""
        while path in self._waiting:
            read = next(self._paths)
            self._waiting.remove(read)
            found = next(self._read)
            if read == path:
                return found
        return None

    def stop(self) -> None:
        """End the processes."""
        self._read.close()


def _unknown(files: Iterable[Path], cache: FeatureCache | None) -> list[Path]:
    """Files of which nothing is known, each once."""
    unlike = dict.fromkeys(files)
    return [path for path in unlike if cache is None or cache.get(path) is None]


def _look_once(
    path: Path, cache: FeatureCache | None, whole: bool, seen: Looks, ahead: _Ahead
) -> BagInfo:
    now = signature(path)  # None of a bag in a pack, of which the index is at hand
    if now is not None and path in seen and seen[path][0] == now:
        return seen[path][1]
    info = _look(path, cache, whole, ahead)
    if now is not None and now == signature(path):
        seen[path] = now, info
    return info


_KNOWN = tuple(field.name for field in dataclasses.fields(Known))


def _look(
    path: Path, cache: FeatureCache | None, whole: bool = False, ahead: _Ahead | None = None
) -> BagInfo:
    packed = split_path(path)
    if packed is not None:
        return _look_packed(path, *packed, whole)
    known = None if cache is None else cache.get(path)
    if known is None:
        features = None
        found = None if ahead is None else ahead.take(path)
        if found is None:
            found, features = _found_whole(path)
        before, info, slow, read_at = found
        if cache is not None:
            known = Known(**{name: getattr(info, name) for name in _KNOWN})
            if slow and features is not None:
                cache.keep(info.digest, features)
            cache.put(path, before, known, slow=slow, read_at=read_at)
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


def _found(path: Path) -> _Found:
    return _found_whole(path)[0]


def _found_whole(path: Path) -> tuple[_Found, NDArray[np.floating] | None]:
    """Read a file of which nothing is known; the features are None when they cannot be used."""
    before, now = signature(path), time.time()
    info, features = _read(path)
    slow = features is not None and not reads_quickly(path)
    return (before, info, slow, now), features


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
