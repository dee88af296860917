"""What a head returns, checked once: shape, numbers and range, of built-in heads and plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, PluginError, UserError
from spade_bench.heads._fitted import FittedHead, Head, Keep, fitting
from spade_bench.plugins import contained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags
    from spade_bench.heads._base import Fit

__all__ = ["checked_scores", "fit", "fit_predict"]

_ROUNDING = 1e-6  # how far beyond 0 and 1 a probability may lie


def fit_predict(
    head: Head,
    bags: CaseBags,
    fits: Sequence[Fit],
    n_outputs: int,
    *,
    name: str,
    keep: Keep | None = None,
) -> list[Any]:
    """Run a head, keeping stdout for results; what it returns goes to :func:`checked_scores`.

    Args:
        head: The head.
        bags: Bags of all cases.
        fits: Jobs.
        n_outputs: Number of classes; 1 for a value or a survival risk.
        name: Of the head, for messages.
        keep: Takes the fitted heads, from a head that has them.

    Returns:
        One unchecked result per fit.

    Raises:
        PluginError: When the head ends the program instead of returning, or does not return one
            result per fit: that is no fault of a single fit.
    """
    able = None if keep is None else fitting(head)
    with contained(f"head '{name}'"):
        if able is None:
            results: Any = head.fit_predict(bags, fits, n_outputs)
        else:
            results = able.fit_predict(bags, fits, n_outputs, keep)
    return _one_per_fit(results, fits, name)


def fit(
    head: Head, bags: CaseBags, fits: Sequence[Fit], n_outputs: int, *, name: str
) -> list[FittedHead]:
    """Fit a head and return what it has learnt.

    Args:
        head: The head.
        bags: Bags of all cases.
        fits: Jobs.
        n_outputs: Number of classes; 1 for a value or a survival risk.
        name: Of the head, for messages.

    Returns:
        One fitted head per fit.

    Raises:
        UserError: When the head only predicts.
        PluginError: When the head ends the program instead of returning, or does not return one
            fitted head per fit.
    """
    able = fitting(head)
    if able is None:
        raise UserError(
            f"The head '{name}' returns no fitted object: it can be used in `run` only",
            fix="Use another head, or give it `fit`, `layout` and `restore`",
        )
    with contained(f"head '{name}'"):
        results: Any = able.fit(bags, fits, n_outputs)
    for one in _one_per_fit(results, fits, name):
        if not isinstance(one, FittedHead):
            raise PluginError(
                f"head '{name}' returned a {type(one).__name__}", fix="Return a FittedHead per fit"
            )
    return list(results)


def _one_per_fit(found: Any, fits: Sequence[Fit], name: str) -> list[Any]:
    if not isinstance(found, (list, tuple)) or len(found) != len(fits):
        got = f"{len(found)} results" if isinstance(found, (list, tuple)) else type(found).__name__
        raise PluginError(
            f"head '{name}' returned {got} for {len(fits)} fits", fix="Return a list, one per fit"
        )
    return list(found)


def checked_scores(
    found: Any, n_cases: int, n_outputs: int, *, name: str, probabilities: bool
) -> NDArray[np.float64]:
    """Return a head's predictions as numbers that may be scored, or say what is wrong with them.

    Args:
        found: What the head returned for one fit.
        n_cases: Cases that were to be predicted, m.
        n_outputs: Number of classes; 1 for a value or a survival risk.
        name: Of the head, for messages.
        probabilities: Whether they must lie within 0 and 1.

    Returns:
        (m, n_outputs) float64.

    Raises:
        DataError: When they are no array, of another shape, not finite or out of range.
    """
    import numpy as np

    where, wanted = f"predictions of head '{name}'", f"({n_cases}, {n_outputs})"
    if not hasattr(found, "__array__"):
        raise DataError(f"are a {type(found).__name__}, not an array {wanted}", where=where)
    try:
        scores = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"are no real numbers ({error})", where=where) from error
    if scores.shape != (n_cases, n_outputs):
        raise DataError(f"have shape {scores.shape}, not {wanted}", where=where)
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise DataError(
            f"are not finite for {bad} of {n_cases} cases",
            where=where,
            fix="Training may have diverged: lower its learning rate, and look at the features",
        )
    if probabilities and (scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING):
        raise DataError(
            f"reach from {scores.min():.4g} to {scores.max():.4g}, but probabilities lie within "
            "0 and 1",
            where=where,
        )
    return np.clip(scores, 0.0, 1.0) if probabilities else scores
