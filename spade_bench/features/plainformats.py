"""Plain arrays in `.npy`, `.npz` and `.pt` files, and what slide2vec keeps beside its own."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.features.storedarrays import check_archive, check_dtype, pixel_coords
from spade_bench.files import read_json

if TYPE_CHECKING:
    import numpy as np

COORDS = ("coords", "coordinates")  # names of coordinates, in HDF5 files too
# What may be said beside features, under the names that HDF5 files have for it.
_SAID = ("unit", "tile_size_um", "tile_size_px", "tile_size", "mpp", "patch_size_level0",
         "target_magnification", "encoder", "extractor")  # fmt: skip
_ARCHIVE = (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError)  # a damaged npz

__all__ = [
    "COORDS",
    "Plain",
    "companion",
    "first_line",
    "load_plain",
    "load_torch",
    "slide2vec_coords",
    "slide2vec_meta",
]


@dataclass(frozen=True)
class Plain:
    """What a plain file holds.

    Attributes:
        features: Its array or tensor; None when there is no single one.
        coords: Coordinates beside it as they are stored, or None.
        attrs: Numbers and texts beside it.
    """

    features: Any
    coords: np.ndarray | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)


def load_plain(path: Path, *, mmap: bool) -> Plain:
    """Load an `.npy`, `.npz` or `.pt` file.

    Args:
        path: The file.
        mmap: Map it where the format allows, to learn its shape without reading it.

    Raises:
        DataError: When the file cannot be read, or holds pickled objects.
    """
    import numpy as np

    try:
        if path.suffix == ".npy":
            return Plain(np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False))
        if path.suffix == ".npz":
            check_archive(path)
            with np.load(path, allow_pickle=False) as archive:
                if "features" in archive:
                    return _named(archive, archive["features"], mmap=mmap)
                return Plain(archive[archive.files[0]] if len(archive.files) == 1 else None)
        return _torch_plain(path, mmap=mmap)
    except (OSError, ValueError, EOFError, RuntimeError, TypeError, *_ARCHIVE) as error:
        raise DataError(f"unreadable ({first_line(error)})", where=str(path)) from error


def _named(holder: Mapping[str, Any], features: Any, *, mmap: bool) -> Plain:
    """Features with what a dict or archive holds beside them."""
    import numpy as np

    values = {name: np.asarray(holder[name]) for name in _SAID if name in holder}
    attrs = {name: value.item() for name, value in values.items() if value.size == 1}
    if mmap:
        return Plain(features, None, attrs)
    coords = next((_array(holder[name]) for name in COORDS if name in holder), None)
    if coords is None and "x" in holder and "y" in holder:
        coords = np.stack([_array(holder["x"]), _array(holder["y"])], axis=-1)
    return Plain(features, coords, attrs)


def _array(value: Any) -> np.ndarray:
    import numpy as np

    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def companion(path: Path) -> Path:
    """Where slide2vec describes a file of features: `{id}.meta.json` beside `{id}.pt`."""
    return path.with_name(f"{path.stem}.meta.json")


def slide2vec_meta(path: Path) -> dict[str, Any]:
    """What slide2vec says about a file of features; empty for anybody else's file.

    Raises:
        DataError: When the description is there and is not JSON.
    """
    file = companion(path)
    if path.suffix not in {".pt", ".npz"} or not file.is_file():
        return {}
    meta = read_json(file)
    return meta if isinstance(meta, dict) else {}


def slide2vec_coords(path: Path) -> np.ndarray | None:
    """Coordinates that slide2vec keeps beside its `tile_embeddings` folder, (N, 2) as (x, y).

    Raises:
        DataError: When the coordinates file is there and cannot be read.
    """
    import numpy as np

    file = path.parent.parent / "tiles" / f"{path.stem}.coordinates.npz"
    if path.parent.name != "tile_embeddings" or not file.is_file():
        return None
    try:
        check_archive(file)
        with np.load(file, allow_pickle=False) as archive:
            stored = np.stack([archive["x"], archive["y"]], axis=1)
    except (OSError, ValueError, EOFError, *_ARCHIVE) as error:
        raise DataError(f"unreadable ({first_line(error)})", where=str(file)) from error
    return pixel_coords(stored, len(stored), {}, file)[0]


def load_torch(path: Path, *, mmap: bool) -> Any:
    """Load what a `.pt` file holds, on the CPU.

    Args:
        path: The file.
        mmap: Map tensors where the file allows it, to look at their shapes without reading them.

    Raises:
        DataError: When it holds more than tensors and plain values.
    """
    import pickle

    import torch

    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except RuntimeError:  # files of old torch cannot be mapped
            if not mmap:
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            "holds more than tensors, and is not loaded for safety", where=str(path)
        ) from error


def _torch_plain(path: Path, *, mmap: bool) -> Plain:
    loaded = load_torch(path, mmap=mmap)
    if not isinstance(loaded, Mapping):
        return Plain(_dense(loaded, path, mmap=mmap))
    return _named(loaded, _dense(loaded.get("features"), path, mmap=mmap), mmap=mmap)


def _dense(loaded: Any, path: Path, *, mmap: bool) -> Any:
    """A tensor of features as an array, or itself when only its shape is wanted.

    Raises:
        DataError: When it is of another kind than dense floating-point numbers.
    """
    import torch

    if not isinstance(loaded, torch.Tensor):
        return None
    loaded = loaded.detach()
    if loaded.layout != torch.strided or loaded.is_quantized or "float8" in str(loaded.dtype):
        kind = "sparse" if loaded.layout != torch.strided else str(loaded.dtype)
        raise DataError(
            f"features are {kind}", where=str(path), fix="Store them as dense float16 or float32"
        )
    if loaded.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        check_dtype(loaded.numpy().dtype, path)
    if mmap:
        return loaded  # only its shape is wanted
    return loaded.float().numpy() if loaded.dtype == torch.bfloat16 else loaded.numpy()


def first_line(error: Exception) -> str:
    """Return the first line of an error's text; libraries print whole dumps."""
    return (str(error).splitlines() or [type(error).__name__])[0]
