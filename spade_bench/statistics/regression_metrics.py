"""Metrics of predicted numbers that take many case weightings at once.

Unweighted results agree with scipy (`pearsonr`, `spearmanr`, ties included) and scikit-learn
(`r2_score`, `mean_absolute_error`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from spade_bench.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Metric = Callable[[Floats, Floats, Floats], Floats]

__all__ = [
    "REGRESSION_METRICS",
    "mae",
    "pearson",
    "pearsons",
    "r2",
    "regression_score_many",
    "spearman",
]

_TINY = 1e-28  # of the mean square, below which values are equal but for rounding
_HUGE = 1e100  # whose squares and their sums leave the range of float64


def pearson(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    """Pearson's correlation.

    Args:
        truth: (n,) or (B, n) true values.
        predicted: (n,) or (B, n) predictions.
        weights: (B, n) case weights.

    Returns:
        (B,) values, NaN where either side does not vary.
    """
    return next(pearsons(truth, [predicted], weights))


def pearsons(truth: Floats, predicted: Iterable[Floats], weights: Floats) -> Iterator[Floats]:
    """:func:`pearson` of several predictions of the same values; what they share is done once."""
    import numpy as np

    total = weights.sum(axis=1)  # (B,)
    truth = truth / _unit(truth)
    first = _centred(truth, weights, total)  # (B, n)
    weighted = weights * first  # (B, n)
    a = np.einsum("bn,bn->b", weighted, first)  # (B,)
    varies = a > _floor(truth, total)  # (B,)
    for values in predicted:
        one = values / _unit(values)
        second = _centred(one, weights, total)  # (B, n)
        b = np.einsum("bn,bn->b", weights * second, second)  # (B,)
        known = varies & (b > _floor(one, total))
        both = np.einsum("bn,bn->b", weighted, second)  # (B,)
        scale = np.sqrt(np.where(known, a * b, 1.0))
        yield np.where(known, np.clip(both / scale, -1.0, 1.0), np.nan)


def spearman(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    """Spearman's correlation: Pearson's of the ranks, ties at their middle, (B,).

    Ranks are those within each resample, in which a case that is drawn twice counts as two that
    tie. Arguments as for :func:`pearson`.
    """
    return pearson(_ranks(truth, weights), _ranks(predicted, weights), weights)


def r2(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    """Coefficient of determination: 1 is perfect, 0 what the mean of the test cases would reach.

    Arguments and result as for :func:`pearson`.
    """
    import numpy as np

    total = weights.sum(axis=1)  # (B,)
    unit = max(_unit(truth), _unit(predicted))
    truth, predicted = truth / unit, predicted / unit
    spread = (weights * _centred(truth, weights, total) ** 2).sum(axis=1)  # (B,)
    error = weights @ (truth - predicted) ** 2  # (B,)
    known = spread > _floor(truth, total)
    return np.where(known, 1.0 - error / np.where(known, spread, 1.0), np.nan)


def mae(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    """Mean absolute error, in the unit of the target. Arguments as for :func:`pearson`."""
    import numpy as np

    unit = max(_unit(truth), _unit(predicted))
    error: Floats = weights @ np.abs(truth / unit - predicted / unit) / weights.sum(axis=1)
    return error * unit


REGRESSION_METRICS: Mapping[str, Metric] = {
    "pearson": pearson,
    "spearman": spearman,
    "r2": r2,
    "mae": mae,
}


def regression_score_many(
    name: str, target: Floats, scores: Floats, weights: Floats | None = None
) -> Floats:
    """Evaluate the regression metric called ``name``.

    Args:
        name: Name of the metric.
        target: (n,) true values.
        scores: (n, 1) predictions.
        weights: (B, n) case weights; None for the cases as they are.

    Returns:
        (B,) values, B = 1 without weights; NaN where undefined.

    Raises:
        ConfigError: When no regression metric has this name.
        DataError: When a value is not finite.
    """
    import numpy as np

    if name not in REGRESSION_METRICS:
        known = ", ".join(REGRESSION_METRICS)
        raise ConfigError(f"unknown metric {name!r}", fix=f"Use one of {known}")
    truth, predicted = np.asarray(target, dtype=float), np.asarray(scores, dtype=float)[:, 0]
    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
        raise DataError("a value or a prediction is NaN or infinite", where=f"metric {name}")
    counts = np.ones((1, len(truth))) if weights is None else weights
    return REGRESSION_METRICS[name](truth, predicted, counts)


def _unit(values: Floats) -> float:
    """What values are divided by before they are squared: 1, or of huge ones a power of two."""
    import numpy as np

    largest = float(np.abs(values).max(initial=0.0))
    return 1.0 if largest < _HUGE else 2.0 ** int(np.log2(largest))


def _centred(values: Floats, weights: Floats, total: Floats) -> Floats:
    """Values minus their weighted mean, (B, n); `total` is the sum of the weights, (B,)."""
    # numpy sums in pairs, einsum in turn: of thousands of equal values that leaves a spread.
    mean = (weights * values).sum(axis=1) / total  # (B,)
    centred: Floats = values - mean[:, None]  # (n,) or (B, n) -> (B, n)
    return centred


def _floor(values: Floats, total: Floats) -> Floats:
    """Sum of squares that rounding alone may leave of equal values, (B,)."""
    import numpy as np

    floor: Floats = total * _TINY * np.maximum((values**2).mean(axis=-1), 1e-300)
    return floor


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Middle ranks of (n,) values among the cases of each resample, (B, n)."""
    import numpy as np

    order = np.argsort(values, kind="stable")  # (n,)
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # (G,)
    group = np.cumsum(np.r_[True, ordered[1:] != ordered[:-1]]) - 1  # (n,) of each in order
    size = np.add.reduceat(weights[:, order], starts, axis=1)  # (B, G)
    middle = np.cumsum(size, axis=1) - size / 2  # (B, G)
    ranks = np.empty_like(weights, dtype=float)
    ranks[:, order] = middle[:, group]  # (B, n)
    return ranks
