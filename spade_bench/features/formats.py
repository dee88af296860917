"""Reads one file of patch features, whoever wrote it, and says what is in it.

TRIDENT, CLAM, STAMP and slide2vec files, plain `.npy`, `.npz` and `.pt` arrays and our own packs
are recognised by their content, so that nobody has to convert anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.features.packs import PACK_SUFFIX, open_pack, split_path
from spade_bench.features.plainformats import (
    COORDS,
    Plain,
    first_line,
    load_plain,
    slide2vec_coords,
    slide2vec_meta,
)
from spade_bench.features.storedarrays import (
    check_dataset,
    check_dtype,
    dataset,
    pixel_coords,
    positive,
    read_barcodes,
    read_dataset,
)
from spade_bench.types import Bag

if TYPE_CHECKING:
    import h5py
    import numpy as np

__all__ = [
    "SUFFIXES",
    "BagHeader",
    "is_slide_vector",
    "look",
    "opened",
    "read_bag",
    "reads_quickly",
]

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
        with opened(path) as file:
            data = _feature_dataset(file, path)
            if data is None:
                return None
            shape = _bag_shape(_stored_shape(path, data.shape))
            if shape is not None:
                check_dataset(data, path)
                check_dtype(data.dtype, path)
            attrs = _attributes(file, data, _coords_dataset(file, path))
    else:
        plain = load_plain(path, mmap=True)
        shape, attrs = _bag_shape(getattr(plain.features, "shape", ())), _plain_attrs(plain, path)
        dtype = getattr(plain.features, "dtype", None)
        if shape is not None and isinstance(dtype, np.dtype):
            check_dtype(dtype, path)
    if shape is None:
        return None
    return BagHeader(path, path.stem, *shape, _encoder(attrs, path), _mpp(attrs))


def reads_quickly(path: Path) -> bool:
    """Whether features read where they lie about as fast as from a pack.

    So does one contiguous block that is large enough for the opening of the file not to count.
    """
    if path.stat().st_size < _QUICK_BYTES:
        return False
    if path.suffix in HDF5:
        with opened(path) as file:
            data = _feature_dataset(file, path)
            return data is not None and data.chunks is None
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
        with opened(path) as file:
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
    plain = load_plain(path, mmap=False)
    if _bag_shape(getattr(plain.features, "shape", ())) is None:
        raise _no_features(path)
    features, attrs = _two_dimensional(plain.features, path), _plain_attrs(plain, path)
    coords: np.ndarray | None
    if plain.coords is not None and not is_slide_vector(path):
        coords, side = pixel_coords(plain.coords, len(features), attrs, path)
    else:
        coords, side = slide2vec_coords(path), positive(attrs.get("tile_size_px"))
    side = positive(attrs.get("patch_size_level0")) or side
    return Bag(
        slide_id=path.stem,
        features=features,
        coords=coords,
        patch_size_level0=None if side is None else round(side),
        mpp=_mpp(attrs),
        encoder=_encoder(attrs, path),
    )


def _read_hdf5(path: Path, file: h5py.File) -> Bag:
    data = _feature_dataset(file, path)
    if data is None or _bag_shape(_stored_shape(path, data.shape)) is None:
        raise _no_features(path)
    check_dataset(data, path)
    shape = _stored_shape(path, data.shape)
    features = _two_dimensional(read_dataset(data, path).reshape(shape), path)
    placed = _coords_dataset(file, path)
    attrs = _attributes(file, data, placed)
    coords: np.ndarray | None = None
    side = positive(attrs.get("tile_size_px"))
    if placed is not None and not is_slide_vector(path):
        check_dataset(placed, path)
        coords, side = pixel_coords(read_dataset(placed, path), len(features), attrs, path)
    side = positive(attrs.get("patch_size_level0")) or side
    datasets = (dataset(file, name, path) for name in ("barcodes", "barcode"))
    barcodes = next((read_barcodes(spots, path) for spots in datasets if spots is not None), None)
    return Bag(
        slide_id=path.stem,
        features=features,
        coords=coords,
        patch_size_level0=None if side is None else round(side),
        mpp=_mpp(attrs),
        encoder=_encoder(attrs, path),
        barcodes=barcodes,
        identity=str(attrs["identity"]) if "identity" in attrs else None,
        offset=_pair(attrs, "bounds_x", "bounds_y") or (0, 0),
        size=_pair(attrs, "level0_width", "level0_height"),
        level0_mpp=positive(attrs.get("level0_mpp")),
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file of features for reading.

    Raises:
        DataError: When it, or anything that is read from it meanwhile, is damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"not a readable HDF5 file ({first_line(error)})", where=str(path)
        ) from error


def _feature_dataset(file: h5py.File, path: Path) -> h5py.Dataset | None:
    kind = file.attrs.get("feat_type", "tile")
    if (kind.decode() if isinstance(kind, bytes) else str(kind)) not in {"tile", ""}:
        return None  # STAMP keeps slide and patient vectors in the same layout
    datasets = (dataset(file, key, path) for key in _FEATURE_KEYS)
    return next((data for data in datasets if data is not None and data.shape is not None), None)


def _coords_dataset(file: h5py.File, path: Path) -> h5py.Dataset | None:
    datasets = (dataset(file, name, path) for name in COORDS)
    return next((data for data in datasets if data is not None), None)


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


def _attributes(file: h5py.File, data: h5py.Dataset, coords: h5py.Dataset | None) -> dict[str, Any]:
    """All attributes that describe the bag; TRIDENT spells a missing one as the text 'None'."""
    merged: dict[str, Any] = {}
    for holder in (file, data, coords):
        if holder is not None:
            merged.update(holder.attrs)
    return _stated(merged)


def _plain_attrs(plain: Plain, path: Path) -> dict[str, Any]:
    """What a plain file, or slide2vec's description beside it, says about the bag."""
    meta = slide2vec_meta(path)
    named = {"encoder": "encoder_name", "mpp": "requested_spacing_um"}
    named["patch_size_level0"] = "tile_size_lv0"
    return _stated(plain.attrs) | _stated({key: meta.get(name) for key, name in named.items()})


def _stated(attrs: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for key, value in attrs.items()
    }
    return {
        key: value
        for key, value in plain.items()
        if value is not None and not (isinstance(value, str) and value in {"None", ""})
    }


def _encoder(attrs: Mapping[str, Any], path: Path) -> str | None:
    """The encoder that a file names, or else the folder it lies in."""
    value = attrs.get("encoder", attrs.get("extractor"))
    if isinstance(value, str):
        return str(value)
    name = path.parent.name.removeprefix("slide_")
    return name.removeprefix("features_") if name.startswith("features_") else None


def _mpp(attrs: Mapping[str, Any]) -> float | None:
    if mpp := positive(attrs.get("mpp")):
        return mpp
    um, px = positive(attrs.get("tile_size_um")), positive(attrs.get("tile_size_px"))
    if um and px:
        return um / px
    magnification = positive(attrs.get("target_magnification"))
    return 10.0 / magnification if magnification else None


def _pair(attrs: Mapping[str, Any], *names: str) -> tuple[int, int] | None:
    """Two whole numbers, such as the size of a slide; None unless both stand there."""
    try:
        first, second = (int(attrs[name]) for name in names)
    except (KeyError, TypeError, ValueError):
        return None
    return first, second


def _no_features(path: Path) -> DataError:
    return DataError(
        "holds no patch features",
        where=str(path),
        fix="Expected an (N, D) array, in HDF5 under 'features' or 'feats'",
    )
