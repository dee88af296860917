"""What an encoder returns, held against its card and against what lies in the folder already."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.features.formats import SUFFIXES, look
from spade_bench.plugins import contained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["check_width", "checked_encode"]


def check_width(targets: Collection[Path], dim: int | None) -> None:
    """Refuse to write into folders of features in which files of another width would stay.

    Args:
        targets: All files that are to be written; what they replace does not matter.
        dim: Their width; None when it is not known.

    Raises:
        DataError: Naming a file of another width.
    """
    replaced = frozenset(targets)
    for folder in sorted({_features_root(target) for target in replaced}):
        for path in sorted(folder.rglob("*")) if dim and folder.is_dir() else []:
            if path.suffix not in SUFFIXES or path.name.startswith(".") or path in replaced:
                continue
            try:
                header = look(path) if path.is_file() else None
            except DataError:  # a damaged file is named where the features are used
                continue
            if header is not None and header.n and header.dim != dim:
                raise DataError(
                    f"'{path.relative_to(folder)}' is {header.dim} wide and stays; features "
                    f"{dim} wide may not be mixed with it",
                    where=str(folder),
                    fix="Choose another --out, remove it, or give its slide too",
                )


def _features_root(target: Path) -> Path:
    named = (p for p in target.parents if p.name.startswith(("features_", "slide_features_")))
    return next(named, target.parent)


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
            returned = encoder.encode(inputs)
        try:
            out = np.asarray(returned, dtype=np.float32)
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
