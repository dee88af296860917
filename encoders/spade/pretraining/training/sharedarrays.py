"""Training data that several processes read without a copy each: memory maps."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade_bench.encoders.spade.pretraining.training.trainingdata import TrainingData
from spade_bench.files import atomic_path

__all__ = ["open_shared", "share"]


def share(data: TrainingData, folder: Path) -> dict[str, Any]:
    """Describe the data so that another process can map it.

    Arrays that already are memory maps of a file are described as they lie; the others are written
    to ``folder`` once.

    Args:
        data: The data.
        folder: Where arrays that live in memory are written.

    Returns:
        A description for :func:`open_shared`, made of plain JSON types.
    """
    matrix = data.expression
    parts: dict[str, Any] = {"features": data.features}
    if hasattr(matrix, "indptr"):
        parts |= {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    else:
        parts["expression"] = matrix
    parts["expert"] = np.asarray(data.expert, dtype=np.int64)
    if data.group is not None:
        parts["group"] = np.asarray(data.group, dtype=np.int64)
    parts["split"] = np.asarray(data.split).astype("S5")
    return {
        "arrays": {name: _describe(array, folder / f"{name}.npy") for name, array in parts.items()},
        "shape": [int(n) for n in matrix.shape],
        "n_experts": data.n_experts,
    }


def open_shared(description: dict[str, Any]) -> TrainingData:
    """Map the data that :func:`share` described."""
    arrays = {name: _open(entry) for name, entry in description["arrays"].items()}
    if "indptr" in arrays:
        from scipy import sparse

        triple = (arrays["data"], arrays["indices"], arrays["indptr"])
        expression: Any = sparse.csr_matrix(triple, shape=tuple(description["shape"]), copy=False)
    else:
        expression = arrays["expression"]
    return TrainingData(
        arrays["features"],
        expression,
        np.asarray(arrays["expert"]),
        np.char.decode(np.asarray(arrays["split"]), "ascii"),
        description["n_experts"],
        group=np.asarray(arrays["group"]) if "group" in arrays else None,
    )


def _describe(array: Any, path: Path) -> dict[str, Any]:
    # A slice of a map keeps the offset of the whole, so only a whole map can be described.
    whole = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)
    if whole and array.filename and array.flags.c_contiguous:
        return _entry(Path(array.filename), int(array.offset), array)
    array = np.ascontiguousarray(array)
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)
    return _entry(path, path.stat().st_size - array.nbytes, array)


def _entry(path: Path, offset: int, array: NDArray[Any]) -> dict[str, Any]:
    return {
        "path": str(path.resolve()),
        "offset": offset,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def _open(entry: dict[str, Any]) -> NDArray[Any]:
    shape = tuple(entry["shape"])
    if 0 in shape:
        return np.empty(shape, dtype=entry["dtype"])
    return np.memmap(
        entry["path"], dtype=entry["dtype"], mode="r", offset=entry["offset"], shape=shape
    )
