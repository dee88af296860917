"""What stored features must be before they count as numbers: dtype, size, place."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import warn
from spade_bench.errors import DataError

if TYPE_CHECKING:
    import h5py
    import numpy as np

__all__ = [
    "check_archive",
    "check_dataset",
    "check_dtype",
    "dataset",
    "pixel_coords",
    "positive",
    "read_barcodes",
    "read_dataset",
    "text_of",
]

_LARGE = 1 << 30  # bytes from which a declared size is held against what is stored
_MOST = 1000  # times that features may shrink when they are compressed
_LINKS = 16  # soft links that may lead to each other
_MICRONS = frozenset({"um", "µm", "μm", "micron", "microns", "micrometer", "micrometers",
                      "micrometre", "micrometres"})  # fmt: skip
_PIXELS = frozenset({"px", "pixel", "pixels"})
_STAMP_PX = 224.0  # STAMP's default side of a tile; its version 2.0 does not store it
_told: list[Path] = []  # the file for which that was said


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


def dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset | None:
    """Find a dataset by name, without opening anything outside the file.

    Soft links are followed within the file only.

    Returns:
        The dataset; None when there is none of this name.

    Raises:
        DataError: When its numbers lie in another file, or it links to nothing.
    """
    import h5py

    parts, here, links = name.split("/"), file, 0
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            if links:
                raise DataError(f"'{name}' links to nothing in this file", where=str(path))
            return None
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _LINKS:
                raise DataError(f"'{name}' links to itself", where=str(path))
            here = file if link.path.startswith("/") else here
            parts = [*link.path.split("/"), *parts]
        elif isinstance(link, h5py.HardLink):
            here = here[part]
        else:
            raise _elsewhere(name, path)
    if not isinstance(here, h5py.Dataset):
        return None
    plist = here.id.get_create_plist()
    # Its shape is not asked for before: that of a virtual dataset may open what it points to.
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise _elsewhere(name, path)
    return here


def _elsewhere(name: str, path: Path) -> DataError:
    return DataError(
        f"'{name}' lies in another file, and is not followed for safety",
        where=str(path),
        fix="Copy the numbers into this file",
    )


def check_dataset(data: h5py.Dataset, path: Path) -> None:
    """Refuse an HDF5 dataset that claims more than it stores.

    Raises:
        DataError: Naming what is wrong.
    """
    name = data.name.lstrip("/")
    _judge(data.nbytes, data.id.get_storage_size(), f"'{name}' declares shape {data.shape}", path)


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


def read_barcodes(data: h5py.Dataset, path: Path) -> tuple[str, ...]:
    """Read spot barcodes.

    Raises:
        DataError: When they cannot be read, or are not text.
    """
    check_dataset(data, path)
    values = read_dataset(data, path).reshape(-1)
    try:
        if values.dtype.kind not in "SUO":
            raise TypeError
        return tuple(text_of(value) for value in values)
    except (TypeError, UnicodeDecodeError):
        raise DataError(
            f"barcodes are {values.dtype.name}, not text in UTF-8",
            where=str(path),
            fix="Store them as text",
        ) from None


def text_of(value: Any) -> str:
    """Return text that HDF5 stores as such or as UTF-8 bytes.

    Raises:
        TypeError: When it is neither.
        UnicodeDecodeError: When it is in another encoding.
    """
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is not text")
    return str(value)


def positive(value: Any) -> float | None:
    """Return a finite number above zero; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def pixel_coords(
    stored: np.ndarray, n: int, attrs: Mapping[str, Any], path: Path
) -> tuple[np.ndarray, float | None]:
    """Return coordinates as pixels, (n, 2) int64, whatever form and unit they are stored in.

    The level-0 resolution is not known to files in micrometres (STAMP's). Theirs become pixels
    of the resolution that was encoded, and the side of a patch likewise.

    Args:
        stored: (n, 2 or more), (1, n, 2 or more), flat (2 n,), or records with x and y.
        n: Number of features.
        attrs: What the file says beside: unit, tile sizes, mpp.
        path: Of the file, for messages.

    Returns:
        The coordinates, and the side of a patch in the same pixels where its unit tells it.

    Raises:
        DataError: When they have another form or unit, or are not finite numbers.
    """
    import numpy as np

    coords = _shaped(np.asarray(stored), n, path)
    if coords.dtype.kind not in "iuf":
        raise DataError(f"coordinates are {coords.dtype.name}, not numbers", where=str(path))
    if not np.isfinite(coords).all():
        raise DataError("coordinates hold NaN or infinite values", where=str(path))
    scale, side = _pixels(attrs, path)
    return np.rint(coords * scale if scale != 1 else coords).astype(np.int64), side


def _pixels(attrs: Mapping[str, Any], path: Path) -> tuple[float, float | None]:
    """Pixels in one unit of the coordinates, and the side of a patch in pixels if it is told."""
    unit = str(attrs.get("unit", "")).strip().lower()
    um, px = positive(attrs.get("tile_size_um")), positive(attrs.get("tile_size_px"))
    if unit in _MICRONS:
        um = um or positive(attrs.get("tile_size"))  # STAMP 2.0
    elif unit in _PIXELS or not (unit or um):
        return 1.0, px or positive(attrs.get("tile_size"))
    elif unit:
        raise DataError(
            f"coordinates are in '{unit}'", where=str(path), fix="Store them in pixels or in um"
        )
    mpp = positive(attrs.get("mpp"))
    if px is None and um is not None:
        px = um / mpp if mpp else _stamp_px(path)
    if um is not None and px is not None:
        return px / um, px
    if mpp is not None:
        return 1 / mpp, px
    raise DataError(
        "coordinates are in micrometres, and the file does not say how large a tile is",
        where=str(path),
        fix="Store tile_size_um and tile_size_px, or coordinates in pixels",
    )


def _stamp_px(path: Path) -> float:
    """STAMP's side of a tile in pixels, said once. Relative to a tile nothing depends on it."""
    if not _told:
        _told.append(path)
        warn(
            f"{path}: coordinates in micrometres without tile_size_px; tiles are taken as "
            f"{_STAMP_PX:g} px wide, STAMP's default, here and in other such files"
        )
    return _STAMP_PX


def _shaped(stored: np.ndarray, n: int, path: Path) -> np.ndarray:
    """Coordinates as (n, 2); refused when they are in no form that is known."""
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
