"""Predictions of genes in spots: one compressed file per run id, from which numbers are rebuilt.

An npz archive of plain arrays, read without unpickling: `observed` and `predicted` (m, G) float32,
`genes` (G,), `barcodes` (m,), `section` (m,) into `sections` (S,) with their `patients` (S,), and
`coords` (m, 2), the centre of each spot in full-resolution pixels.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SpotPredictions", "spot_bytes", "spots_from"]

_TEXTS = ("genes", "barcodes", "sections", "patients")


@dataclass(frozen=True, eq=False)
class SpotPredictions:
    """What a head said about the genes of the test spots of one fold.

    Attributes:
        genes: Names of the G genes.
        sections: Names of the S test sections.
        patients: Patient of each of them.
        section: Section of each spot, (m,), by position in ``sections``.
        barcodes: Barcode of each spot, m of them.
        coords: Centre of each spot in full-resolution pixels, (m, 2) as (x, y).
        observed: What was measured, in the unit of the head's target, (m, G).
        predicted: What was predicted, (m, G).
    """

    genes: tuple[str, ...]
    sections: tuple[str, ...]
    patients: tuple[str, ...]
    section: NDArray[np.int64]
    barcodes: tuple[str, ...]
    coords: NDArray[np.float64]
    observed: NDArray[np.float32]
    predicted: NDArray[np.float32]

    def of_sections(self, names: set[str]) -> NDArray[np.int64]:
        """Return the positions of the spots that lie in some sections."""
        import numpy as np

        wanted = [i for i, name in enumerate(self.sections) if name in names]
        return np.flatnonzero(np.isin(self.section, wanted))


def spot_bytes(spots: SpotPredictions) -> bytes:
    """Return the content of the file of some predictions; equal ones have equal bytes."""
    import numpy as np

    arrays: dict[str, Any] = {n: np.array(getattr(spots, n), dtype=np.str_) for n in _TEXTS}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        **arrays,
        section=np.asarray(spots.section, dtype=np.int32),
        coords=np.asarray(spots.coords, dtype=np.float64),
        observed=np.asarray(spots.observed, dtype=np.float32),
        predicted=np.asarray(spots.predicted, dtype=np.float32),
    )
    return buffer.getvalue()


def _array(stored: Mapping[str, Any], name: str, kinds: str, ndim: int) -> NDArray[Any]:
    """An array of a file.

    Raises:
        ValueError: When it is of another kind or shape than is ever written.
    """
    array: NDArray[Any] = stored[name]
    if array.dtype.kind not in kinds or array.ndim != ndim:
        raise ValueError(f"{name} holds {array.dtype} of shape {array.shape}")
    return array


def spots_from(content: bytes, where: str) -> SpotPredictions:
    """Read what `spot_bytes` wrote.

    Raises:
        DataError: When it is no such file, or its arrays do not fit each other.
    """
    import numpy as np

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            texts = {name: tuple(_array(stored, name, "U", 1).tolist()) for name in _TEXTS}
            section = _array(stored, "section", "iu", 1).astype(np.int64)
            coords = _array(stored, "coords", "f", 2).astype(np.float64)
            observed, predicted = (
                _array(stored, name, "f", 2) for name in ("observed", "predicted")
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"damaged predictions ({error})", where=where) from error
    spots = SpotPredictions(
        **texts, section=section, coords=coords, observed=observed, predicted=predicted
    )
    m, genes, sections = len(spots.barcodes), len(spots.genes), len(spots.sections)
    fits = (
        spots.observed.shape == spots.predicted.shape == (m, genes)
        and spots.coords.shape == (m, 2)
        and spots.section.shape == (m,)
        and len(spots.patients) == sections > 0
        and m > 0
        and bool(((spots.section >= 0) & (spots.section < sections)).all())
    )
    if not fits:
        raise DataError("damaged predictions (arrays that do not fit each other)", where=where)
    return spots
