"""Plain arrays in `.npy`, `.npz` and `.pt` files, and what slide2vec keeps beside its own."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.data.bagchecks import check_archive, check_dtype
from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

_ARCHIVE = (zipfile.BadZipFile, zlib.error, KeyError)  # a damaged npz

__all__ = ["companion", "load_plain", "slide2vec_coords", "slide2vec_meta"]


def load_plain(path: Path, *, mmap: bool) -> Any:
    """The array in an `.npy`, `.npz` or `.pt` file; None when there is no single such array.

    Args:
        path: The file.
        mmap: Map it where the format allows, to learn its shape without reading it.

    Raises:
        DataError: When the file cannot be read, or holds pickled objects.
    """
    import numpy as np

    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
        if path.suffix == ".npz":
            check_archive(path)
            with np.load(path, allow_pickle=False) as archive:
                if "features" in archive:
                    return archive["features"]
                return archive[archive.files[0]] if len(archive.files) == 1 else None
        return _torch_array(path, mmap=mmap)
    except (OSError, ValueError, EOFError, RuntimeError, TypeError, *_ARCHIVE) as error:
        raise DataError(f"unreadable ({_first_line(error)})", where=str(path)) from error


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
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid JSON ({error})", where=str(file)) from error
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
        with np.load(file, allow_pickle=False) as archive:
            return np.stack([archive["x"], archive["y"]], axis=1).astype(np.int64)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"unreadable ({_first_line(error)})", where=str(file)) from error


def _torch_array(path: Path, *, mmap: bool) -> Any:
    import pickle

    import torch

    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except RuntimeError:  # files of old torch cannot be mapped
            if not mmap:
                raise
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            "holds more than tensors, and is not loaded for safety", where=str(path)
        ) from error
    if isinstance(loaded, Mapping):
        loaded = loaded.get("features")
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
