"""Says which files look like features and are not taken as such, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from spade_bench.console import say
from spade_bench.errors import DataError
from spade_bench.features.formats import HDF5, SUFFIXES, opened
from spade_bench.features.packs import PACK_SUFFIX
from spade_bench.features.plainformats import first_line, load_torch
from spade_bench.features.storedarrays import dataset

__all__ = ["OTHERS", "say_not_taken", "unlike", "why_no_features"]

OTHERS = frozenset({".safetensors", ".parquet", ".feather", ".pkl", ".pickle", ".zarr"})
"""Formats that hold features elsewhere and are not read here."""

_ZARR = (".zgroup", ".zarray", "zarr.json")
_SHOWN = 20  # lines about one folder
_WIDE = 8  # columns from which a table of numbers may be features, and is not coordinates
_said: set[Path] = set()  # files that this process has spoken of


def unlike(path: Path) -> str | None:
    """Say why an entry of a folder is no candidate for features, though its name looks like it.

    Args:
        path: An entry that is not a file with one of `SUFFIXES`.

    Returns:
        The reason; None when it does not look like features.
    """
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _folder(path, suffix)
        if suffix in SUFFIXES and path.is_symlink() and not path.exists():
            return "a link to nothing"
    except OSError as error:  # links in a circle, folders that may not be entered
        return first_line(error)
    if suffix in OTHERS:
        return f"{suffix} files are not read; convert it to .h5 or .npy"
    if suffix not in SUFFIXES:
        return None
    return f"named {path.suffix}, not {suffix}; rename it" if path.is_file() else "not a file"


def _folder(path: Path, suffix: str) -> str | None:
    if suffix == ".zarr" or any((path / name).exists() for name in _ZARR):
        return "zarr is not read; convert it to .h5 or .npy"
    if suffix in SUFFIXES and suffix != PACK_SUFFIX:
        return "a folder, not a file"
    if path.is_symlink() and any(entry.suffix.lower() in SUFFIXES for entry in path.iterdir()):
        return "a link to a folder, which is not followed; name that folder"
    return None


def why_no_features(path: Path) -> str | None:
    """Say why a readable file is not taken as features.

    Returns:
        The reason; None for what is known to be something else: coordinates, slides' vectors.
    """
    if path.suffix == PACK_SUFFIX:
        return None
    try:
        if path.suffix in HDF5:
            return _why_hdf5(path)
        if path.suffix == ".npz":
            return _why_npz(path)
        return _why_pt(path) if path.suffix in {".pt", ".pth"} else _why_shape(path)
    except (OSError, ValueError, RuntimeError) as error:  # it changed a moment ago
        return first_line(error)


def _why_hdf5(path: Path) -> str | None:
    with opened(path) as file:
        if file.attrs.get("feat_type", "tile") not in {"tile", ""}:
            return None
        for name in file:
            try:
                data = dataset(file, name, path)
            except DataError:  # it lies in another file, which stays closed
                continue
            if data is not None and name in {"features", "feats"}:
                return _shape(data.shape)
            if data is not None and _like(data.shape, data.dtype.kind):
                return f"its numbers are named '{name}', not 'features'"
    return None


def _why_npz(path: Path) -> str | None:
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        if "features" in names or len(names) == 1:
            return _shape(archive["features" if "features" in names else names[0]].shape)
    return f"arrays {_listed(names)}, none named 'features'" if names else "it holds no array"


def _why_pt(path: Path) -> str | None:
    import torch

    loaded = load_torch(path, mmap=True)
    if isinstance(loaded, dict) and "features" in loaded:
        loaded = loaded["features"]
    elif isinstance(loaded, dict):
        return f"a dict with {_listed(loaded) or 'nothing'}, without 'features'"
    if isinstance(loaded, torch.Tensor):
        return _shape(tuple(loaded.shape))
    return f"of type {type(loaded).__name__}, not a tensor"


def _why_shape(path: Path) -> str | None:
    import numpy as np

    return _shape(np.load(path, mmap_mode="r", allow_pickle=False).shape)


def _shape(shape: Sequence[int] | None) -> str | None:
    """What is wrong with a shape; nothing with that of one slide's vector."""
    if shape is None:
        return "it has no values"
    return None if len(shape) == 1 else f"of shape {tuple(shape)}, not (patches, width)"


def _like(shape: Sequence[int] | None, kind: str) -> bool:
    return kind == "f" and shape is not None and len(shape) == 2 and shape[1] >= _WIDE


def _listed(names: Iterable[object]) -> str:
    shown = [f"'{name}'" for name in names]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(shown[:4]) + more


def say_not_taken(root: Path, strangers: Iterable[tuple[Path, str]]) -> None:
    """Say in one line each which files of a folder are not taken; once in a process.

    Args:
        root: The folder.
        strangers: Files and why.
    """
    new = [(path, why) for path, why in strangers if path.absolute() not in _said]
    _said.update(path.absolute() for path, _ in new)
    for path, why in new[:_SHOWN]:
        say(" ".join(f"not taken: {path.relative_to(root)}: {why}".split()))  # names may have lines
    if len(new) > _SHOWN:
        say(f"not taken: {len(new) - _SHOWN} more files in {root}")
