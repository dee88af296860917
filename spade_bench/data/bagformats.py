"""Reads one file of patch features, whoever wrote it, and says what is in it.

TRIDENT, CLAM, STAMP and slide2vec files, plain `.npy`, `.npz` and `.pt` arrays and our own packs
are recognised by their content, so that nobody has to convert anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.data.bagchecks import check_dataset, check_dtype, read_dataset, shaped_coords
from spade_bench.data.bagformats_plain import load_plain, slide2vec_coords, slide2vec_meta
from spade_bench.data.pack import PACK_SUFFIX, open_pack, split_path
from spade_bench.errors import DataError
from spade_bench.types import Bag

if TYPE_CHECKING:
    import h5py
    import numpy as np

__all__ = ["SUFFIXES", "BagHeader", "is_slide_vector", "look", "read_bag", "reads_quickly"]

HDF5 = frozenset({".h5", ".hdf5"})
SUFFIXES = HDF5 | {".npy", ".npz", ".pt", ".pth", PACK_SUFFIX}
# HDF5 datasets that hold patch features: TRIDENT and CLAM; STAMP; older STAMP.
_FEATURE_KEYS = ("features", "feats", "patch_embeddings")
_SLIDE_FOLDER = "slide_features_"  # TRIDENT's folders of slide vectors
_QUICK_BYTES = 1 << 20  # opening a file takes about as long as reading this much


@dataclass(frozen=True)
class BagHeader:
    """What a feature file holds, without its features.

    Attributes:
        path: The file.
        slide_id: Name of the slide: the file name without its suffix.
        n: Number of patches.
        dim: Width of the features; 0 for a slide without patches.
        encoder: Encoder named by the file or its folder, or None.
        mpp: Resolution at which patches were encoded, in micrometres per pixel, or None.
    """

    path: Path
    slide_id: str
    n: int
    dim: int
    encoder: str | None
    mpp: float | None = None


def is_slide_vector(path: Path) -> bool:
    """Whether a file lies in a folder of slide vectors, `slide_features_{encoder}`."""
    return path.parent.name.startswith(_SLIDE_FOLDER)


def look(path: Path) -> BagHeader | None:
    """Look at a file and say what it holds; None when it holds no patch features.

    The vector of a slide in a folder `slide_features_{encoder}` counts as a bag of one row.

    Args:
        path: A file with one of `SUFFIXES`.

    Raises:
        DataError: When the file cannot be read at all.
    """
    import numpy as np

    if (packed := split_path(path)) is not None:
        pack, slide_id = open_pack(packed[0]), packed[1]
        slide = pack.slide(slide_id)
        dim = pack.dim if slide.stop > slide.start else 0
        return BagHeader(path, slide_id, slide.stop - slide.start, dim, slide.encoder, slide.mpp)
    if path.suffix in HDF5:
        with _open(path) as file:
            key = _feature_key(file)
            if key is None:
                return None
            shape = _bag_shape(_stored_shape(path, file[key].shape))
            if shape is not None:
                check_dataset(file, key, path)
                check_dtype(file[key].dtype, path)
            attrs = _attributes(file, key)
            encoder, mpp = _hdf5_encoder(attrs), _mpp(attrs)
    else:
        array = load_plain(path, mmap=True)
        shape, encoder = _bag_shape(getattr(array, "shape", ())), _meta_encoder(path)
        if shape is not None and isinstance(dtype := getattr(array, "dtype", None), np.dtype):
            check_dtype(dtype, path)
        mpp = _plain_mpp(path)
    if shape is None:
        return None
    return BagHeader(path, path.stem, *shape, encoder or _folder_encoder(path), mpp)


def reads_quickly(path: Path) -> bool:
    """Whether features read where they lie about as fast as from a pack.

    So does one contiguous block that is large enough for the opening of the file not to count.
    """
    if path.stat().st_size < _QUICK_BYTES:
        return False
    if path.suffix in HDF5:
        with _open(path) as file:
            key = _feature_key(file)
            return key is not None and file[key].chunks is None
    return path.suffix == ".npy"


def read_bag(path: Path | str) -> Bag:
    """Read the patch features of one slide.

    Coordinates come back in level-0 pixels, top-left, (x, y). STAMP stores micrometres and no
    level-0 resolution, so there they are in pixels of the resolution that was encoded.

    Args:
        path: A file of any format named above.

    Returns:
        The bag; a slide without patches has features of shape (0, 0). NaN values are kept.

    Raises:
        DataError: When the file is unreadable, holds no patch features, or its coordinates do
            not match its features in number.
    """
    path = Path(path)
    if (packed := split_path(path)) is not None:
        return open_pack(packed[0]).bag(packed[1])
    if not path.is_file():
        raise DataError("no such feature file", where=str(path))
    if path.suffix in HDF5:
        with _open(path) as file:
            bag = _read_hdf5(path, file)
    else:
        bag = _read_plain(path)
    for name, values in (("coords", bag.coords), ("barcodes", bag.barcodes)):
        if values is not None and len(values) != len(bag.features):
            raise DataError(
                f"{len(values)} {name} for {len(bag.features)} features", where=str(path)
            )
    return bag


def _read_plain(path: Path) -> Bag:
    array = load_plain(path, mmap=False)
    if _bag_shape(getattr(array, "shape", ())) is None:
        raise _no_features(path)
    meta = slide2vec_meta(path)
    side = _number(meta.get("tile_size_lv0"))
    return Bag(
        slide_id=path.stem,
        features=_two_dimensional(array, path),
        coords=slide2vec_coords(path),
        patch_size_level0=None if side is None else round(side),
        mpp=_plain_mpp(path),
        encoder=_meta_encoder(path) or _folder_encoder(path),
    )


def _read_hdf5(path: Path, file: h5py.File) -> Bag:
    import numpy as np

    key = _feature_key(file)
    if key is None or _bag_shape(_stored_shape(path, file[key].shape)) is None:
        raise _no_features(path)
    check_dataset(file, key, path)
    shape = _stored_shape(path, file[key].shape)
    features = _two_dimensional(read_dataset(file[key], path).reshape(shape), path)
    attrs = _attributes(file, key)
    coords: np.ndarray | None = None
    if "coords" in file and not is_slide_vector(path):
        check_dataset(file, "coords", path)
        coords = shaped_coords(read_dataset(file["coords"], path), len(features), path)
        if attrs.get("unit") == "um" and (size := _number(attrs.get("tile_size_um"))):
            coords = coords * ((_number(attrs.get("tile_size_px")) or 224.0) / size)
        coords = np.rint(coords).astype(np.int64)
    side = _number(attrs.get("patch_size_level0") or attrs.get("tile_size_px"))
    barcodes: tuple[str, ...] | None = None
    for name in ("barcode", "barcodes"):
        if name in file:
            barcodes = tuple(_text(value) for value in file[name][()].reshape(-1))
    return Bag(
        slide_id=path.stem,
        features=features,
        coords=coords,
        patch_size_level0=None if side is None else round(side),
        mpp=_mpp(attrs),
        encoder=_hdf5_encoder(attrs) or _folder_encoder(path),
        barcodes=barcodes,
    )


def _open(path: Path) -> h5py.File:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"not a readable HDF5 file ({error})", where=str(path)) from error


def _feature_key(file: h5py.File) -> str | None:
    import h5py

    if _text(file.attrs.get("feat_type", "tile")) not in {"tile", ""}:
        return None  # STAMP keeps slide and patient vectors in the same layout
    return next((key for key in _FEATURE_KEYS if isinstance(file.get(key), h5py.Dataset)), None)


def _stored_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of stored features; that of a slide's vector as one row."""
    one_row = is_slide_vector(path) and len(shape) == 1 and shape[0] > 0
    return (1, shape[0]) if one_row else shape


def _bag_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(N, D) of an array of patch features, None for anything else, such as one slide vector."""
    if shape == (0,):  # how TRIDENT writes a slide without patches
        return 0, 0
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    return (shape[0], shape[1]) if len(shape) == 2 else None


def _two_dimensional(array: Any, path: Path) -> np.ndarray:
    import numpy as np

    values = np.asarray(array)
    check_dtype(values.dtype, path)
    if values.ndim == 1:
        values = values.reshape(0, 0)
    if values.ndim == 3:
        values = values[0]
    return values if values.dtype in (np.float16, np.float32) else values.astype(np.float32)


def _attributes(file: h5py.File, key: str) -> dict[str, Any]:
    """All attributes that describe the bag; TRIDENT spells a missing one as the text 'None'."""
    merged: dict[str, Any] = {}
    for holder in (file, file[key], file.get("coords")):
        if holder is not None:
            merged.update(holder.attrs)
    return {k: v for k, v in merged.items() if not (isinstance(v, str) and v in {"None", ""})}


def _hdf5_encoder(attrs: Mapping[str, Any]) -> str | None:
    value = attrs.get("encoder", attrs.get("extractor"))
    return None if value is None else _text(value)


def _meta_encoder(path: Path) -> str | None:
    name = slide2vec_meta(path).get("encoder_name")
    return name if isinstance(name, str) and name else None


def _plain_mpp(path: Path) -> float | None:
    return _number(slide2vec_meta(path).get("requested_spacing_um"))


def _folder_encoder(path: Path) -> str | None:
    name = path.parent.name.removeprefix("slide_")
    return name.removeprefix("features_") if name.startswith("features_") else None


def _mpp(attrs: Mapping[str, Any]) -> float | None:
    if mpp := _number(attrs.get("mpp")):
        return mpp
    um, px = _number(attrs.get("tile_size_um")), _number(attrs.get("tile_size_px"))
    if um and px:
        return um / px
    magnification = _number(attrs.get("target_magnification"))
    return 10.0 / magnification if magnification else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _no_features(path: Path) -> DataError:
    return DataError(
        "holds no patch features",
        where=str(path),
        fix="Expected an (N, D) array, in HDF5 under 'features' or 'feats'",
    )
