"""What stored features must be before they count as numbers: dtype, size, place."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import h5py
    import numpy as np

__all__ = ["check_archive", "check_dataset", "check_dtype", "read_dataset", "shaped_coords"]

_LARGE = 1 << 30  # bytes from which a declared size is held against what is stored
_MOST = 1000  # times that features may shrink when they are compressed


def check_dtype(dtype: Any, path: Path) -> None:
    """Refuse features that are not stored as real floating-point numbers.

    Raises:
        DataError: Naming the dtype and, for unsigned 16-bit integers, what they may be.
    """
    import numpy as np

    kind = np.dtype(dtype)
    if kind.kind == "f":
        return
    guess = ": perhaps the bits of bfloat16 numbers" if kind == np.uint16 else ""
    if kind.kind in "iu" and not guess:
        guess = ": perhaps quantised, and their scale is not known"
    raise DataError(
        f"features are {kind.name}{guess}",
        where=str(path),
        fix="Store them as float16 or float32",
    )


def check_dataset(file: h5py.File, key: str, path: Path) -> None:
    """Refuse an HDF5 dataset whose numbers lie elsewhere, or that claims more than it stores.

    Raises:
        DataError: Naming what is wrong.
    """
    import h5py

    if isinstance(file.get(key, getlink=True), h5py.ExternalLink) or file[key].external:
        raise DataError(
            f"'{key}' lies in another file, and is not followed for safety",
            where=str(path),
            fix="Copy the numbers into this file",
        )
    data = file[key]
    _judge(data.nbytes, data.id.get_storage_size(), f"'{key}' declares shape {data.shape}", path)


def check_archive(path: Path) -> None:
    """Judge the sizes of an `.npz` before anything of it is inflated.

    Raises:
        DataError: When it is no archive, or would grow beyond reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"unreadable ({error})", where=str(path)) from error
    size = sum(member.file_size for member in members)
    _judge(size, sum(member.compress_size for member in members), "its arrays", path)


def read_dataset(data: h5py.Dataset, path: Path) -> np.ndarray:
    """Read a whole HDF5 dataset.

    Raises:
        DataError: When a chunk is damaged or its filter is not installed.
    """
    try:
        return data[()]  # type: ignore[no-any-return]
    except (OSError, RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or ["damaged"])[0]
        raise DataError(
            f"'{data.name}' cannot be read ({first}): a damaged chunk, or a filter that is not "
            "installed",
            where=str(path),
            fix="Write the file again, or install hdf5plugin",
        ) from error


def shaped_coords(stored: np.ndarray, n: int, path: Path) -> np.ndarray:
    """Return coordinates as (n, 2) whatever form they are stored in.

    Args:
        stored: (n, 2 or more), (1, n, 2 or more), flat (2 n,), or records with x and y.
        n: Number of features.
        path: Of the file, for messages.

    Raises:
        DataError: When they are none of these.
    """
    import numpy as np

    if stored.dtype.names:
        lower = {name.lower(): name for name in stored.dtype.names}
        if {"x", "y"} <= lower.keys():
            return np.stack([stored[lower["x"]], stored[lower["y"]]], axis=-1).reshape(-1, 2)
        raise DataError(
            f"coordinates have fields {', '.join(stored.dtype.names)}, not x and y", where=str(path)
        )
    if stored.ndim == 3 and stored.shape[0] == 1:
        stored = stored[0]
    if stored.ndim == 1 and stored.size == 2 * n and n:
        stored = stored.reshape(n, 2)
    if stored.size == 0 and not n:
        return np.zeros((0, 2), dtype=np.int64)
    if stored.ndim != 2 or stored.shape[1] < 2:
        raise DataError(
            f"coordinates of shape {stored.shape} for {n} features",
            where=str(path),
            fix="Store them as (n, 2), x before y",
        )
    return stored[:, :2]


def _judge(size: int, stored: int, what: str, path: Path) -> None:
    if size > _LARGE and size > _MOST * max(1, stored):
        raise DataError(
            f"{what}: {size:,} bytes from {stored:,} stored, which no features are",
            where=str(path),
            fix="Write the file again",
        )
