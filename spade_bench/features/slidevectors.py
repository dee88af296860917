"""Vectors of whole slides on disk, in TRIDENT's layout, and the patches that they were made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.features.bags import same_encoder
from spade_bench.features.formats import HDF5, opened
from spade_bench.features.storedarrays import dataset
from spade_bench.files import atomic_hdf5, file_name

if TYPE_CHECKING:
    import numpy as np

    from spade_bench.types import Bag, EncoderCard

__all__ = ["check_patches", "patch_px", "slide_vector_path", "write_slide_vector"]

_TOLERANCE = 0.02  # of the field of view: magnifications are written rounded


def slide_vector_path(out: Path, encoder: str, slide_id: str) -> Path:
    """Return `OUT/slide_features_{encoder}/{slide}.h5`."""
    name = re.sub(r"[:/\\]+", "-", encoder)
    return out / f"slide_features_{file_name(name)}" / f"{file_name(slide_id)}.h5"


def write_slide_vector(
    path: Path | str,
    vector: np.ndarray,
    *,
    slide_id: str,
    encoder: str,
    coords: np.ndarray | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Path:
    """Write the vector of one slide, atomically.

    Args:
        path: File to write, `.h5`, in a folder `slide_features_{encoder}`.
        vector: (dim,); stored as float32 under `features`.
        slide_id: Name of the slide.
        encoder: Slide encoder that made it.
        coords: Level-0 corners of the patches it was made of, (n, 2).
        attrs: Further attributes of `features`.

    Raises:
        DataError: When the vector is none, or not finite.
    """
    import numpy as np

    values = np.ascontiguousarray(vector, dtype=np.float32)
    if values.ndim != 1 or not values.size:
        raise DataError(f"a vector of shape {values.shape} is not (dim,)", where=slide_id)
    if not np.isfinite(values).all():
        raise DataError("the slide's vector holds NaN or infinite values", where=slide_id)
    with atomic_hdf5(path) as file:
        stored = file.create_dataset("features", data=values)
        stored.attrs.update({"name": slide_id, "encoder": encoder})
        for key, value in (attrs or {}).items():
            stored.attrs[key] = "None" if value is None else value
        if coords is not None:
            file.create_dataset("coords", data=np.asarray(coords, dtype=np.int64))
    return Path(path)


def patch_px(path: Path) -> int | None:
    """Side in pixels of the patches a feature file was made of; None when it does not say."""
    if path.suffix not in HDF5 or not path.is_file():
        return None
    with opened(path) as file:
        for name in ("coords", "features"):
            data = dataset(file, name, path)
            value = None if data is None else data.attrs.get("patch_size")
            if value is not None and str(value).isdigit():
                return int(value)
    return None


def check_patches(card: EncoderCard, bag: Bag, px: int | None) -> tuple[str, ...]:
    """Refuse patches that a slide encoder was not made for.

    What counts is the encoder of the patches and the side of a patch in micrometres: 512 px at
    0.5 µm/px and 448 px at 0.571 µm/px show the same.

    Args:
        card: The slide encoder's; its `upstream`, `patch_px` and `mpp` are what it needs.
        bag: The patch features.
        px: Side of a patch in pixels at `bag.mpp`, or None when unknown.

    Returns:
        What the file does not say, so that it could not be checked.

    Raises:
        DataError: When the features are another encoder's, or of patches of another size.
    """
    unstated = []
    if card.upstream not in (None, "", "any"):
        if bag.encoder is None:
            unstated.append("its patch encoder")
        elif not same_encoder(bag.encoder, str(card.upstream)):
            raise DataError(
                f"'{card.name}' takes features of '{card.upstream}', these are of '{bag.encoder}'",
                where=bag.slide_id,
                fix=f"Extract with --encoder {card.upstream}",
            )
    if card.patch_px is None or card.mpp is None:
        return tuple(unstated)
    wanted = card.patch_px * card.mpp
    if bag.mpp is None or px is None:
        return (*unstated, "the size of its patches")
    side = px * bag.mpp
    if abs(side - wanted) > _TOLERANCE * wanted:
        raise DataError(
            f"'{card.name}' needs patches of {wanted:g} µm ({card.patch_px} px at {card.mpp:g} "
            f"µm/px), these are {side:g} µm ({px} px at {bag.mpp:g})",
            where=bag.slide_id,
            fix=f"Extract with --mpp {wanted / px:.4g}",
        )
    return tuple(unstated)
