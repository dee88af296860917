"""The packed store: the features of many slides in one array that is mapped, not read.

A pack is one file and at the same time a valid `.npy` file: the rows of all slides, one slide
behind the other, as a contiguous float16 or float32 array. Behind the array follow the coordinates
and an index (JSON) with the offsets and ids of the slides, and a trailer that says where the index
begins. A slide of a pack is named by a path as if the pack were a folder: `cohort.pack/ID.bag`.

Features, coordinates and index carry checksums. Those of a slide are compared when it is first
used in a process; packs of version 1 have none for index and coordinates.
"""

from __future__ import annotations

import functools
import io
import json
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.files import hash_array, hash_obj
from spade_bench.types import Bag

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PACK_SUFFIX", "Pack", "PackedBag", "is_pack", "open_pack", "split_path"]

PACK_SUFFIX = ".pack"
_BAG_SUFFIX = ".bag"
HEADER = 4096  # bytes before the array: the npy header, padded to a page
MAGIC = b"SPADEPCK"
VERSION = 2
_READS = (1, VERSION)
_DTYPES = ("<f2", "<f4")
_LISTS = ("barcodes", "offset")  # tuples, which JSON holds as lists
TRAILER = struct.Struct("<QQQ8s")  # version, offset and length of the index, magic


@dataclass(frozen=True)
class PackedBag:
    """One slide in a pack.

    Attributes:
        slide_id: Name of the slide.
        start: First row.
        stop: Row behind the last.
        digest: Hash of its features as stored.
        encoder: Encoder that made them, or None.
        mpp: Resolution of the patches, µm/px, or None.
        patch_size_level0: Side of a patch in level-0 pixels, or None.
        coords_start: First row of its coordinates, or None when it has none.
        barcodes: Spot barcodes, or None.
        coords_digest: Hash of its coordinates; None when it has none, or in a pack of version 1.
        source: Hash of the file that it was packed from, or None when that is not known.
        identity: What made the features, as the file said it; None where it did not.
        offset: Level-0 pixel where what was scanned begins; None where that is (0, 0).
        level0_mpp: Resolution of level 0, µm/px, or None.
    """

    slide_id: str
    start: int
    stop: int
    digest: str
    encoder: str | None = None
    mpp: float | None = None
    patch_size_level0: int | None = None
    coords_start: int | None = None
    barcodes: tuple[str, ...] | None = None
    coords_digest: str | None = None
    source: str | None = None
    identity: str | None = None
    offset: tuple[int, int] | None = None
    level0_mpp: float | None = None


class Pack:
    """A pack, open for reading. Use `open_pack`.

    Attributes:
        path: The file.
        slides: Slide id -> where it lies.
        dim: Width of the features.
        content: Hash of what the pack holds: ids and digests of the slides, width and type.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.path = path
        index, self._coords_offset = _read_index(path)
        self.dim: int = index["dim"]
        self.content = str(index["content"])
        self._dtype = np.dtype(index["dtype"])
        self._n: int = index["rows"]
        self.slides: dict[str, PackedBag] = index["slides"]
        self._sound: set[tuple[str, str]] = set()  # what this process has held against its digest
        # Read-only: a private writable map of a large file can be refused for want of memory.
        self.rows: NDArray[np.floating] = (
            np.memmap(path, self._dtype, mode="r", offset=HEADER, shape=(self._n, self.dim))
            if self._n
            else np.empty((0, self.dim), self._dtype)
        )

    def slide_path(self, slide_id: str) -> Path:
        """Return the path that names a slide of this pack."""
        return self.path / f"{slide_id}{_BAG_SUFFIX}"

    def features(self, slide_id: str) -> NDArray[np.floating]:
        """Return the features of a slide, (n, dim): a read-only view of the map.

        Raises:
            DataError: When the pack lacks the slide, or it is damaged.
        """
        import numpy as np

        slide = self.slide(slide_id)
        features = np.asarray(self.rows)[slide.start : slide.stop]
        self._check(slide_id, "features", features, slide.digest)
        return features

    def let_go(self, slide_id: str) -> None:
        """Let the pages of a slide's features go: the system counts them as ours while mapped.

        They are read again when they are used again, also through a view that is still held.
        """
        pages: Any = self.rows.base
        slide = self.slide(slide_id)
        if not isinstance(pages, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
            return  # nothing is mapped, or the system manages it without a word of ours
        # Offsets count from where the map begins, which is a whole number of pages of the file.
        lead = HEADER % mmap.ALLOCATIONGRANULARITY
        width = self.dim * self._dtype.itemsize
        start, stop = lead + slide.start * width, lead + slide.stop * width
        start -= start % mmap.PAGESIZE
        pages.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def bag(self, slide_id: str) -> Bag:
        """Return a slide with its coordinates.

        Raises:
            DataError: When the pack lacks the slide, or it is damaged.
        """
        import numpy as np

        slide = self.slide(slide_id)
        coords = None
        if slide.coords_start is not None:
            n = slide.stop - slide.start
            offset = self._coords_offset + 16 * slide.coords_start
            coords = np.fromfile(self.path, np.int64, 2 * n, offset=offset).reshape(n, 2)
            if slide.coords_digest is not None:
                self._check(slide_id, "coordinates", coords, slide.coords_digest)
        return Bag(
            slide.slide_id,
            self.features(slide_id),
            coords,
            slide.patch_size_level0,
            slide.mpp,
            slide.encoder,
            slide.barcodes,
            slide.identity,
            slide.offset or (0, 0),
            level0_mpp=slide.level0_mpp,
        )

    def slide(self, slide_id: str) -> PackedBag:
        """Return where a slide lies and what is known about it.

        Raises:
            DataError: When the pack lacks the slide.
        """
        slide = self.slides.get(slide_id)
        if slide is None:
            raise DataError(f"holds no slide '{slide_id}'", where=str(self.path))
        return slide

    def _check(self, slide_id: str, part: str, values: NDArray[Any], digest: str) -> None:
        """Hold values against their digest, once for each part of a slide."""
        if (slide_id, part) in self._sound:
            return
        if hash_array(values) != digest:
            raise DataError(
                f"the {part} of slide '{slide_id}' are damaged: their checksum does not fit",
                where=str(self.path),
                fix="Pack it again, from its features or with --allow-missing from itself",
            )
        self._sound.add((slide_id, part))


def is_pack(path: Path) -> bool:
    """Whether a file is a pack, whatever its name."""
    try:
        with path.open("rb") as file:
            file.seek(-TRAILER.size, io.SEEK_END)
            return file.read().endswith(MAGIC)
    except OSError:  # missing, unreadable, a folder, or shorter than a trailer
        return False


def open_pack(path: Path) -> Pack:
    """Open a pack; opening the same unchanged file again costs nothing.

    Raises:
        DataError: When the file is not a complete pack.
    """
    if not is_pack(path):
        raise DataError("not a pack, or an incomplete one", where=str(path), fix="Pack it again")
    stat = path.stat()
    return _open(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def split_path(path: Path) -> tuple[Path, str] | None:
    """Split `cohort.pack/ID.bag` into pack and slide id; None for any other path."""
    if path.suffix != _BAG_SUFFIX or not path.parent.is_file():
        return None
    return path.parent, path.stem


@functools.lru_cache(maxsize=64)
def _open(path: Path, size: int, mtime: int, inode: int) -> Pack:
    return Pack(path)


def _read_index(path: Path) -> tuple[dict[str, Any], int]:
    """The index of a pack, its slides by id, and where its coordinates begin."""
    import numpy as np

    damaged = DataError("a damaged pack", where=str(path), fix="Pack it again")
    with path.open("rb") as file:
        end = file.seek(-TRAILER.size, io.SEEK_END)
        version, offset, length, _ = TRAILER.unpack(file.read())
        if version not in _READS:
            raise DataError(f"a pack of version {version}, this reads {VERSION}", where=str(path),
                            fix="Pack it again")  # fmt: skip
        if offset + length != end:
            raise damaged
        file.seek(offset)
        text = file.read(length)
    try:
        index = json.loads(text)
        seal = index.pop("seal", None)
        if (version > 1 or seal is not None) and seal != hash_obj(index):
            raise damaged
        shape, dtype = (index["rows"], index["dim"]), np.dtype(index["dtype"])
        if dtype.str not in _DTYPES:
            raise DataError(f"a pack of {dtype.name} numbers", where=str(path),
                            fix="Pack it again")  # fmt: skip
        behind = HEADER + math.prod(shape) * dtype.itemsize
        slides = [_packed(entry) for entry in index["slides"]]
        placed = [s.coords_start + s.stop - s.start for s in slides if s.coords_start is not None]
        fits = (
            min(shape) >= 0
            and behind + 16 * max(placed, default=0) <= offset
            and all(0 <= s.start <= s.stop <= shape[0] for s in slides)
            and all(s.coords_start is None or s.coords_start >= 0 for s in slides)
        )
    # RecursionError: brackets in brackets; OverflowError: numbers beyond any file
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise damaged from None
    if not fits:
        raise damaged
    return {**index, "slides": {slide.slide_id: slide for slide in slides}}, behind


def _packed(entry: dict[str, Any]) -> PackedBag:
    """A slide from its entry in the index."""
    lists: dict[str, Any] = {
        name: tuple(entry.pop(name)) for name in _LISTS if entry.get(name) is not None
    }
    slide = PackedBag(**entry, **lists)
    if not (isinstance(slide.slide_id, str) and isinstance(slide.digest, str)):
        raise TypeError("names and digests are text")
    return slide
