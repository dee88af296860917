"""What is known about feature files from earlier runs, and fast copies of those that read slowly.

Reading and hashing every bag at the start of every run costs minutes on real cohorts. The cache
beside the features (`.spade-bench`) remembers the digest, size and problems of each file as long
as the file is unchanged by size and times. Only where copies are asked for it also holds packs of
bags that read slowly where they lie: chunked or compressed HDF5, `.pt`, `.npz`, and small files.
Bags in those packs are named by the digest of their values and have the files' own number type, so
nothing computed from them can differ. Where a file that was read before holds other numbers now,
that is said. A damaged index or pack is never believed: the files themselves are read, and it is
made anew. `SPADE_BENCH_CACHE` names another folder for all caches, or is `off`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say, warn
from spade_bench.errors import DataError, UserError
from spade_bench.features.packs import PACK_SUFFIX, Pack, open_pack, split_path
from spade_bench.features.packwriter import PackWriter
from spade_bench.features.plainformats import companion
from spade_bench.files import hash_obj, read_sealed, write_sealed
from spade_bench.types import Bag

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CACHE_FOLDER",
    "CACHE_MODES",
    "FeatureCache",
    "Known",
    "KnownFiles",
    "Signature",
    "cache_places",
    "check_cache_mode",
    "discard",
    "signature",
]

CACHE_MODES = ("digests", "copy", "off")
"""What a run may do: remember digests; also copy what reads slowly; remember nothing."""
CACHE_FOLDER = ".spade-bench"
SETTLED_SECONDS = 2.0  # a file changed less long ago may change again under the same time stamp
FREE_SHARE = 4  # packs take at most this fraction of the free disk: one in ...
STALE_SECONDS = 7 * 24 * 3600.0  # packs that no file needs any more go after this long
ADVICE_BYTES = 256 << 20  # slow files of fewer bytes than this are not worth a word
_UP = 4  # folders above the features in which a cache is looked for
_VERSION = 1

Signature = list[Any]
_discarded: set[Pack] = set()  # packs that this process found damaged
_latest: list[tuple[tuple[Any, ...], dict[str, dict[str, Any]]]] = []
"""The index that was read last, and what its file was like: a command asks for it several times."""
_advised: set[Path] = set()  # caches whose slow files this process has spoken of


@dataclass(frozen=True)
class Known:
    """What an earlier look at a file found.

    Attributes:
        digest: Hash of the features; empty when unusable.
        n: Patches.
        dim: Width.
        encoder: Encoder named by the file or its folder, or None.
        problem: Why the file cannot be used; empty when it can.
        mpp: Resolution of the patches, or None.
        said_mpp: Whether ``mpp`` was looked at; indexes of older versions do not say.
    """

    digest: str
    n: int
    dim: int
    encoder: str | None
    problem: str
    mpp: float | None = None
    said_mpp: bool = False


class FeatureCache:
    """The cache of a folder of features.

    Args:
        root: The folder of features.
        home: Where its cache lies.
        copies: Whether it makes copies of what reads slowly; those that are there are used anyway.
    """

    def __init__(self, root: Path, home: Path, *, copies: bool = False) -> None:
        self.root, self.home, self.copies = root, home, copies
        self._inside = f"{root.absolute()}{os.sep}"  # with what the paths of its files begin
        self._entries: dict[str, dict[str, Any]] = _load(home / "index.json")
        self._packed: dict[str, Path] = {}
        self._damaged: list[Path] = []
        for file in sorted(home.glob(f"bags-*{PACK_SUFFIX}")):
            try:
                pack = open_pack(file)
            except DataError:  # what it held is read from the files again
                self._damaged.append(file)
                continue
            self._packed |= {digest: pack.slide_path(digest) for digest in pack.slides}
        self._writers: dict[tuple[int, str], PackWriter] = {}
        self._room: int | None = None
        self._changed = False
        self._differ: list[str] = []  # files with other numbers than when they were last read

    @classmethod
    def of(cls, files: Sequence[Path], mode: str = "digests") -> FeatureCache | None:
        """Return the cache for these files, new or from an earlier run; None when it is off.

        Args:
            files: The feature files.
            mode: One of `CACHE_MODES`.
        """
        root = _root(files, mode)
        if root is None:
            return None
        copies = mode == "copy"
        for folder in _upwards(root):
            for home in _homes(folder):
                if (home / "index.json").is_file():
                    return cls(folder, home, copies=copies)
        for home in _homes(root):
            try:
                home.mkdir(parents=True, exist_ok=True)
            except OSError:  # a read-only disk: the next place will do
                continue
            return cls(root, home, copies=copies)
        return None

    def get(self, path: Path) -> Known | None:
        """Return what is known about a file.

        Returns:
            None when it is unknown, has changed since, or a copy of it is to be made.
        """
        entry = self._entries.get(self._name(path))
        if entry is None or entry["signature"] != signature(path):
            return None
        known = Known(**entry["known"])
        if not self.copies or not _is_slow(entry) or not known.digest:
            return known
        # Its number type is not known before it is read: it must fit as float32.
        fits = 4 * known.n * known.dim <= self._free()
        return None if fits and known.digest not in self._packed else known

    def __contains__(self, path: Path) -> bool:
        """Whether a file was looked at before; it may have changed since."""
        return self._name(path) in self._entries

    def put(
        self,
        path: Path,
        before: Signature | None,
        known: Known,
        *,
        slow: bool = False,
        read_at: float | None = None,
    ) -> None:
        """Remember a file.

        Args:
            path: The file.
            before: Its signature from before it was read.
            known: What was found in it.
            slow: Whether it reads slowly where it lies.
            read_at: When it was read; now, where that is not told.
        """
        if before is None or before != signature(path):
            return  # changed while it was read
        name = self._name(path)
        old = self._entries.get(name, {}).get("known", {}).get("digest")
        if old and known.digest not in ("", old):
            self._differ.append(name)
        newest = max(before[1], before[2]) / 1e9
        if (time.time() if read_at is None else read_at) - newest < SETTLED_SECONDS:
            return
        entry = {"signature": before, "known": dict(vars(known)), "slow": slow}
        self._entries[name] = entry
        self._changed = True

    def packed(self, digest: str) -> Path | None:
        """Return the path of a bag in the cache's packs; None when they lack it."""
        return self._packed.get(digest)

    def keep(self, digest: str, features: NDArray[np.floating]) -> bool:
        """Add a bag to the packs, where copies are asked for and the disk has room for it.

        Args:
            digest: Hash of the features.
            features: (n, dim) float16 or float32.

        Returns:
            Whether they hold it.
        """
        key = (int(features.shape[1]), str(features.dtype.name))
        if digest in self._packed:
            return True
        if not self.copies or features.nbytes > self._free():
            return False
        if key not in self._writers:
            name = f"bags-new-{uuid.uuid4().hex[:8]}{PACK_SUFFIX}"  # other processes write too
            self._writers[key] = PackWriter(self.home / name, *key)
        if digest not in self._writers[key]:
            self._writers[key].add(Bag(digest, features), digest)
            self._room = self._free() - features.nbytes
        return True

    def advise(self, files: Sequence[Path]) -> None:
        """Say, once per process and folder, what copies would be good for.

        Args:
            files: The files of a run.
        """
        if self.copies or self.home in _advised:
            return
        entries = [self._entries.get(self._name(path)) for path in files]
        slow = [
            entry
            for entry in entries
            if entry and _is_slow(entry) and entry["known"]["digest"] not in self._packed
        ]
        size = sum(entry["signature"][0] for entry in slow)
        if size < ADVICE_BYTES:
            return
        _advised.add(self.home)
        say(f"{self.root}: {len(slow)} of {len(files)} feature files ({size / 1e9:.1f} GB) read "
            f"slowly (chunked or compressed HDF5, .pt, .npz); `run --cache copy` keeps fast copies "
            f"in {self.home}, `spade-bench pack` writes one fast file for all")  # fmt: skip

    def commit(self) -> None:
        """Complete the packs, write the index, and say which files hold other numbers now."""
        for writer in self._writers.values():
            file = writer.finish(self.home / f"bags-{writer.content}{PACK_SUFFIX}")
            pack = open_pack(file)
            self._packed |= {digest: pack.slide_path(digest) for digest in pack.slides}
        self._writers.clear()
        if self._changed:
            # Another process may have added files meanwhile.
            self._entries = _load(self.home / "index.json", quiet=True) | self._entries
            gone = [name for name in self._entries if not (self.root / name).exists()]
            for name in gone:
                del self._entries[name]
            write_sealed(self.home / "index.json", {"version": _VERSION, "files": self._entries})
            self._drop_unused()
            self._changed = False
        if self._differ:
            more = f" and {len(self._differ) - 5} more" if len(self._differ) > 5 else ""
            say(f"{self.root}: {len(self._differ)} feature file(s) hold other numbers than when "
                f"they were last read: {', '.join(self._differ[:5])}{more}")  # fmt: skip
            self._differ.clear()
        self.abandon()

    def abandon(self) -> None:
        """Drop packs that are not complete, and the folder when nothing is in it."""
        for writer in self._writers.values():
            writer.abandon()
        self._writers.clear()
        with contextlib.suppress(OSError):  # not empty, as it should be
            self.home.rmdir()

    def _drop_unused(self) -> None:
        for file in self._damaged:
            if file not in {path.parent for path in self._packed.values()}:  # not made anew
                _remove(file)
        needed = {entry["known"]["digest"] for entry in self._entries.values()}
        for file in {path.parent for path in self._packed.values()}:
            old = time.time() - file.stat().st_mtime > STALE_SECONDS
            if old and needed.isdisjoint(open_pack(file).slides):
                _remove(file)
                self._packed = {d: p for d, p in self._packed.items() if p.parent != file}

    def _free(self) -> int:
        """Bytes that copies may still take."""
        if self._room is None:
            self._room = shutil.disk_usage(self.home).free // FREE_SHARE
        return self._room

    def _name(self, path: Path) -> str:
        absolute = str(path.absolute())
        if absolute.startswith(self._inside) and ".." not in absolute:
            return absolute[len(self._inside) :]
        return os.path.relpath(absolute, self.root)


class KnownFiles:
    """Looks files up in whatever caches lie at or above their folders; reads only."""

    def __init__(self) -> None:
        self._caches: dict[Path, FeatureCache | None] = {}

    def get(self, path: Path) -> Known | None:
        """Return what is known about a file; None when it is unknown or has changed since."""
        cache = self._of(path)
        return None if cache is None else cache.get(path)

    def fastest(self, path: Path) -> Path:
        """Return where the features of a file read fastest: a bag in a pack, or the file."""
        cache = self._of(path)
        known = None if cache is None else cache.get(path)
        if cache is None or known is None or not known.digest:
            return path
        return cache.packed(known.digest) or path

    def _of(self, path: Path) -> FeatureCache | None:
        folder = path.absolute().parent
        if folder not in self._caches:
            self._caches[folder] = self._find(folder)
        return self._caches[folder]

    def _find(self, folder: Path) -> FeatureCache | None:
        if os.environ.get("SPADE_BENCH_CACHE") == "off":
            return None
        for above in _upwards(folder):
            for home in _homes(above):
                if (home / "index.json").is_file():
                    return self._caches.get(above) or FeatureCache(above, home)
        return None


def cache_places(files: Sequence[Path], mode: str = "digests") -> list[Path]:
    """Return where the cache of these files may lie, best first; none when it is off.

    Args:
        files: Feature files, or bags in packs.
        mode: One of `CACHE_MODES`.
    """
    root = _root([path if split_path(path) is None else path.parent for path in files], mode)
    if root is None:
        return []
    there = [home for folder in _upwards(root) for home in _homes(folder)]
    return [home for home in there if home.is_dir()] + _homes(root)


def discard(copy: Pack, path: Path) -> None:
    """Remove a pack of a cache that turned out damaged, and say so; the next run makes it anew.

    Args:
        copy: The pack.
        path: The file that is read in its place.
    """
    if copy in _discarded:
        return
    _discarded.add(copy)
    warn(f"{copy.path}: damaged, and removed; {path} is read instead, and the next run with "
         "`--cache copy` makes the copy anew")  # fmt: skip
    _remove(copy.path)


def check_cache_mode(mode: str) -> None:
    """Refuse a word that is no way to use the cache.

    Raises:
        UserError: When it is none of `CACHE_MODES`.
    """
    if mode not in CACHE_MODES:
        raise UserError(f"unknown value '{mode}'", where="--cache",
                        fix=f"Use {', '.join(CACHE_MODES)}")  # fmt: skip


def _is_slow(entry: dict[str, Any]) -> bool:
    """Whether a file reads slowly; indexes of older versions say only whether it was copied."""
    return bool(entry.get("slow", entry.get("kept", False)))


def _remove(file: Path) -> None:
    """Remove a pack, unless the disk is read-only, another process did it or has it mapped."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def signature(path: Path) -> Signature | None:
    """What tells that a file has not changed: size, times, folder name, slide2vec's description.

    The time of the last change of the inode is part of it: copying another file over this one
    with its old time stamp does not go unnoticed.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    described = 0
    if path.suffix in {".pt", ".npz"}:
        meta = companion(path)
        described = meta.stat().st_mtime_ns if meta.is_file() else 0
    return [
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
        path.absolute().parent.name,
        described,
    ]


def _root(files: Sequence[Path], mode: str) -> Path | None:
    """The folder that has all files; None without one, or where the cache is off."""
    if not files or "off" in (mode, os.environ.get("SPADE_BENCH_CACHE")):
        return None
    try:
        return Path(os.path.commonpath([path.absolute().parent for path in files]))
    except ValueError:  # on several drives of Windows: no folder has them all
        return None


def _upwards(folder: Path) -> list[Path]:
    return [folder, *list(folder.parents)[:_UP]]


def _homes(folder: Path) -> list[Path]:
    """Where the cache of a folder may lie, best first."""
    name = f"{folder.name}-{hash_obj(str(folder.resolve()))[:8]}"
    if chosen := os.environ.get("SPADE_BENCH_CACHE"):
        return [Path(chosen) / name]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    central = Path(base) / "spade-bench" / name
    # A folder that its owner made read-only stays as it is, even where we could write to it.
    open_to_us = folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK)
    return [folder / CACHE_FOLDER, central] if open_to_us else [central]


def _load(file: Path, *, quiet: bool = False) -> dict[str, dict[str, Any]]:
    """The entries of an index; none when it is missing, damaged or of another version.

    Args:
        file: The index.
        quiet: Say nothing of its damage, because that was said before.
    """
    try:
        stat = file.stat()
        key = (str(file.absolute()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    except OSError:
        return {}
    if _latest and _latest[0][0] == key:
        return dict(_latest[0][1])
    try:
        content = read_sealed(file)
        if content.get("version") != _VERSION:
            return {}
        files: dict[str, dict[str, Any]] = content["files"]
        for entry in files.values():
            Known(**entry["known"])  # one of another shape is another version's
            entry["signature"]
    except DataError as error:
        if file.exists() and not quiet:
            warn(f"{error} All files are read again")
        return {}
    except (KeyError, TypeError, AttributeError):
        return {}  # everything is read again, and the index written anew
    _latest[:] = [(key, files)]
    return dict(files)
