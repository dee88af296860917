"""What an encoder returns, held against its card: rows, width and finite numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.plugins import contained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["checked_encode"]


def checked_encode(encoder: Any, *, finite: bool = True) -> Callable[[Any], NDArray[np.float32]]:
    """Return an encoder's `encode`, with what it returns checked.

    Args:
        encoder: A patch encoder or an encoder of features.
        finite: Whether numbers that are not finite are refused here; those who check whole slides
            later pass False.

    Returns:
        A function of (n, ...) inputs that returns (n, dim) float32. It raises a PluginError when
        the encoder ends the program, and a DataError when rows, width or numbers are wrong.
    """
    import numpy as np

    card = encoder.card
    dim = getattr(encoder, "dim", None) or card.dim

    def encode(inputs: Any) -> NDArray[np.float32]:
        where = f"encoder '{card.name}'"
        with contained("", where):
            found = encoder.encode(inputs)
        try:
            out = np.asarray(found, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"returned no array of numbers ({error})", where=where) from error
        if out.ndim != 2 or len(out) != len(inputs):
            raise DataError(f"returned shape {out.shape} for {len(inputs)} inputs", where=where)
        if dim and out.shape[1] != dim:
            raise DataError(
                f"returned features of width {out.shape[1]}, but its card says {dim}",
                where=where,
                fix="Correct `dim` on the card, or the encoder",
            )
        if finite and not np.isfinite(out).all():
            bad = int((~np.isfinite(out)).any(axis=1).sum())
            raise DataError(f"returned NaN or infinity for {bad} of {len(out)} inputs", where=where)
        return out

    return encode
