"""Features that an encoder made of other features, kept on the disk for later heads, tasks, runs.

A mixture of experts over 10,000 patches takes a second, and a head trains for twenty epochs. So
each bag is encoded once: what comes out lies in the cache of the features it was made of, in
`encoded/MAKER/SOURCE.pack`, where MAKER is the digest of all that determines the encoder's numbers
and SOURCE that of the bag. Numbers are float32 as the encoder returned them, and carry a checksum:
a damaged file is made again. The folder has a size of its own (`SPADE_BENCH_CACHE_SIZE`); when it
is full, what was used longest ago goes, but nothing that the present run uses.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.config import parse_memory
from spade_bench.console import say, warn
from spade_bench.errors import ConfigError, DataError
from spade_bench.features.cache import FREE_SHARE, cache_places
from spade_bench.features.packs import PACK_SUFFIX, Pack
from spade_bench.features.packwriter import PackWriter
from spade_bench.types import Bag

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ENCODED", "ENCODED_BYTES", "EncodedBags", "encoded_limit"]

ENCODED = "encoded"
ENCODED_BYTES = 32 << 30
"""Bytes that the encoded bags of a folder of features may take where nobody says."""
SIZE_VARIABLE = "SPADE_BENCH_CACHE_SIZE"
_BESIDE = 8192  # bytes of a file beside its features: the header, and what the index may take
_BAG = "bag"  # name of the one bag in each file
_LOOK_AGAIN = 64  # files after which the folder is listed again: other processes write too
_told: set[Path] = set()  # folders of which this process has spoken
_used: set[Path] = set()  # files that this process has read or written, of whatever encoder


class EncodedBags:
    """The bags that one encoder has made.

    Args:
        home: The cache of a folder of features.
        maker: Digest of all that determines what the encoder returns.
    """

    def __init__(self, home: Path, maker: str) -> None:
        self.folder = home / ENCODED
        self._own = self.folder / maker
        self._checked: set[Path] = set()  # files that were held against their checksum, or written
        self._tried = self._bytes = 0
        self._limit, self._full = -1, False

    @classmethod
    def of(cls, files: Sequence[Path], maker: str, mode: str = "digests") -> EncodedBags | None:
        """Return the cache beside feature files; None when it is off or there is no place for it.

        Args:
            files: The files that the encoder starts from.
            maker: Digest of all that determines what it returns.
            mode: One of `CACHE_MODES`.
        """
        for home in cache_places(files, mode):
            with contextlib.suppress(OSError):  # a read-only disk: the next place will do
                (home / ENCODED / maker).mkdir(parents=True, exist_ok=True)
                return cls(home, maker)
        return None

    def read(self, source: str, dim: int) -> NDArray[np.float32] | None:
        """Return what was made of a bag, (n, dim); None when it is not there, or damaged.

        Args:
            source: Digest of the bag.
            dim: Width that it must have.
        """
        import numpy as np

        path = self._path(source)
        if not path.is_file():
            return None
        try:
            pack = Pack(path)  # not kept open: there may be thousands
            # Held against its checksum once by each process, as slides of packs are.
            bag = pack.rows if path in self._checked else pack.features(_BAG)
            if bag.shape[1] != dim:
                raise DataError(f"{bag.shape[1]} wide, not {dim}", where=str(path))
            found = np.array(bag, dtype=np.float32)  # (n, dim)
        except (DataError, OSError) as error:
            if path.is_file():  # not just removed by another process
                warn(f"{path}: damaged ({error}), and made again")
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            return None
        _used.add(path)
        if path not in self._checked:
            self._checked.add(path)
            with contextlib.suppress(OSError):
                os.utime(path)  # the time of last use decides what goes first
        return found

    def write(self, source: str, features: NDArray[np.floating]) -> None:
        """Keep what was made of a bag, where there is room for it.

        Args:
            source: Digest of the bag.
            features: (n, dim) float32.
        """
        path = self._path(source)
        if features.dtype.name != "float32" or not self._has_room(features.nbytes + _BESIDE):
            return
        try:
            writer = PackWriter(path, int(features.shape[1]), "float32", durable=False)
            try:
                writer.add(Bag(_BAG, features))
                writer.finish()
            finally:
                writer.abandon()
        except OSError as error:  # a full disk: the run goes on without
            warn(f"{self.folder}: encoded features are not kept ({error.strerror or error})")
            self._limit = 0
            return
        self._bytes += path.stat().st_size
        _used.add(path)
        self._checked.add(path)
        self._say()

    def _path(self, source: str) -> Path:
        return self._own / f"{source}{PACK_SUFFIX}"

    def _has_room(self, nbytes: int) -> bool:
        """Whether so much more may be kept; removes what was used longest ago for it."""
        if self._tried % _LOOK_AGAIN == 0 and self._limit:
            self._bytes = sum(size for _, size, _ in self._listed())
            # What lies here already counts as free: it makes way when others need it.
            share = (shutil.disk_usage(self.folder).free + self._bytes) // FREE_SHARE
            self._limit, self._full = min(encoded_limit(), share), False
        self._tried += 1
        if nbytes > 0.9 * self._limit:  # no room could be made for it
            return False
        if self._bytes + nbytes > self._limit and not self._full:
            self._make_room(nbytes)
        return self._bytes + nbytes <= self._limit

    def _make_room(self, nbytes: int) -> None:
        """Remove files until a tenth of the limit is free, beside what is to be written."""
        for _, size, path in sorted(self._listed()):
            if self._bytes + nbytes <= 0.9 * self._limit:
                return
            if path not in _used:
                with contextlib.suppress(OSError):  # another process did it, or has it open
                    path.unlink()
                    self._bytes -= size
        self._full = self._bytes + nbytes > self._limit  # not asked again for every bag

    def _listed(self) -> list[tuple[float, int, Path]]:
        """Time of last use, bytes and path of every file of every encoder."""
        found = []
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            for path in folder.glob(f"*{PACK_SUFFIX}") if folder.is_dir() else ():
                with contextlib.suppress(OSError):  # removed meanwhile
                    stat = path.stat()
                    found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _say(self) -> None:
        if self.folder not in _told:
            _told.add(self.folder)
            say(
                f"features that encoders make of others are kept in {self.folder} (at most "
                f"{self._limit / 1e9:.0f} GB; --cache off keeps none)"
            )


def encoded_limit() -> int:
    """Bytes that encoded bags may take: what `SPADE_BENCH_CACHE_SIZE` says, or the default.

    Raises:
        ConfigError: When that is no amount.
    """
    said = os.environ.get(SIZE_VARIABLE, "")
    if not said:
        return ENCODED_BYTES
    try:
        return parse_memory(said)
    except ConfigError as error:
        raise ConfigError(error.clause, where=SIZE_VARIABLE, fix=error.fix) from None
