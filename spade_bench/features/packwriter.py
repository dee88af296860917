"""Writes packs: slide by slide, or a whole folder of features."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from spade_bench.errors import DataError, UserError
from spade_bench.features.packs import HEADER, MAGIC, TRAILER, VERSION, PackedBag, open_pack
from spade_bench.files import atomic_path, hash_array, hash_obj
from spade_bench.types import Bag

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PackWriter"]


class PackWriter:
    """Writes a pack slide by slide; the file appears, complete, on `finish`.

    Args:
        path: File to write.
        dim: Width of the features.
        dtype: `float16` or `float32`; how rows are stored.
        durable: Wait for the disk; see `atomic_path`.
    """

    def __init__(self, path: Path, dim: int, dtype: str, *, durable: bool = True) -> None:
        import numpy as np

        self.path, self.dim, self.dtype = path, dim, np.dtype(dtype).newbyteorder("<")
        self._placed = ExitStack()  # left without an error, the file is in place
        self._temporary = self._placed.enter_context(atomic_path(path, durable=durable))
        self._file: IO[bytes] = self._temporary.open("wb")
        self._file.seek(HEADER)
        self._coords: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - until finish
        self._slides: dict[str, PackedBag] = {}
        self._rows = self._n_coords = 0

    def __contains__(self, slide_id: str) -> bool:
        return slide_id in self._slides

    @property
    def nbytes(self) -> int:
        """Bytes of features written so far."""
        return self._rows * self.dim * self.dtype.itemsize

    def add(self, bag: Bag, digest: str | None = None, source: str | None = None) -> None:
        """Append a slide.

        Args:
            bag: Its features (n, dim) and what else is known.
            digest: Hash of the features, when it is known and they are stored as they are.
            source: Hash of the file that the slide comes from.

        Raises:
            DataError: When it has another width, is there already, or holds values beyond the
                range of float16 in a float16 pack.
        """
        import numpy as np

        values = np.ascontiguousarray(bag.features)
        if values.ndim != 2 or values.shape[1] != self.dim:
            raise DataError(f"features of shape {values.shape}, not (n, {self.dim})",
                            where=bag.slide_id)  # fmt: skip
        if bag.slide_id in self._slides:
            raise DataError("slide is given twice", where=bag.slide_id)
        with np.errstate(over="ignore"):
            stored = values.astype(self.dtype, copy=False)
        if not np.isfinite(stored).all() and np.isfinite(values).all():
            raise DataError(
                f"values up to {np.abs(values).max():.4g} overflow float16 (at most 65504)",
                where=bag.slide_id,
                fix="Pack with --float32",
            )
        self._file.write(stored.tobytes())
        start, n = self._rows, len(stored)
        coords_start = coords_digest = None
        if bag.coords is not None:
            coords = np.ascontiguousarray(bag.coords, dtype=np.int64).reshape(n, 2)
            self._coords.write(coords.tobytes())
            coords_digest = hash_array(coords)
            coords_start, self._n_coords = self._n_coords, self._n_coords + n
        self._rows += n
        self._slides[bag.slide_id] = PackedBag(
            bag.slide_id, start, start + n, digest or hash_array(stored), bag.encoder, bag.mpp,
            bag.patch_size_level0, coords_start, bag.barcodes, coords_digest, source,
            bag.identity, bag.offset if any(bag.offset) else None, bag.level0_mpp,
        )  # fmt: skip

    @property
    def content(self) -> str:
        """Hash of what was added so far."""
        listed = [[slide.slide_id, slide.digest] for slide in self._slides.values()]
        return hash_obj([self.dim, self.dtype.name, listed])

    def finish(self, path: Path | None = None) -> Path:
        """Complete the file and put it in place, under another name when ``path`` is given."""
        try:
            self._coords.seek(0)
            shutil.copyfileobj(self._coords, self._file)
            offset = self._file.tell()
            text = json.dumps(self._index(), separators=(",", ":")).encode()
            self._file.write(text)
            self._file.write(TRAILER.pack(VERSION, offset, len(text), MAGIC))
            self._file.seek(0)
            self._file.write(_npy_header((self._rows, self.dim), self.dtype))
            self._file.close()
            self._placed.close()
        finally:
            self.abandon()
        if path is None:
            return self.path
        try:
            return self.path.replace(path)
        except PermissionError:  # Windows keeps a file of that name while somebody has it mapped
            self.path.unlink()
            if path.is_file() and open_pack(path).content == self.content:
                return path
            raise

    def abandon(self) -> None:
        """Drop what was written; nothing is left behind. Does nothing after `finish`."""
        self._file.close()
        self._coords.close()
        self._placed.__exit__(UserError, UserError("abandoned"), None)

    def _index(self) -> dict[str, Any]:
        slides = []
        for slide in self._slides.values():
            known = {key: value for key, value in vars(slide).items() if value is not None}
            slides.append(known)
        index = {"content": self.content, "dim": self.dim, "dtype": self.dtype.str,
                 "rows": self._rows, "slides": slides}  # fmt: skip
        return {**index, "seal": hash_obj(index)}


def _npy_header(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """Header of an `.npy` file (format 1.0), padded with spaces to `HEADER` bytes."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    room = HEADER - 10  # magic, version and length take ten bytes
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + text.ljust(room - 1).encode() + b"\n"
