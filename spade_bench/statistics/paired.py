"""Paired differences of any metric: by bootstrap over cases, and over folds of repeated CV."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spade_bench.errors import DataError
from spade_bench.statistics.intervals import N_BOOT, Interval, case_weights, paired_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["corrected_t_test", "paired_bootstrap"]


def paired_bootstrap(
    first: Callable[[Floats], Floats],
    second: Callable[[Floats], Floats],
    strata: NDArray[np.int64],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> Interval:
    """Difference of two predictions on the same cases, with a 95% percentile interval.

    Both metrics see the same resamples, which is what pairs them. For classification see also
    :func:`spade_bench.statistics.intervals.paired_interval`, which adds draws.

    Args:
        first: Metric of the first prediction, case weights (B, n) -> values (B,).
        second: Metric of the other one.
        strata: (n,) group of each case whose size every resample keeps: the class, or the event.
        n_boot: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The difference ``first - second`` on the cases as they are, its interval and p value.
    """
    import numpy as np

    whole = np.ones((1, len(strata)))
    weights = case_weights(strata, n_boot, seed)
    return paired_interval(
        (first(whole), first(weights)[None]), (second(whole), second(weights)[None]), seed
    )


def corrected_t_test(differences: Floats, n_train: float, n_test: float) -> Interval:
    """Resampled t test with the correction of Nadeau and Bengio (Machine Learning, 2003).

    Test folds of repeated cross-validation share training cases, so their differences are
    correlated and the plain t test is far too sure. The variance of the mean over J folds is
    taken as ``(1 / J + n_test / n_train)`` times the variance between folds.

    Args:
        differences: (J,) difference of the metric on each fold of each repeat.
        n_train: Training cases of a fold.
        n_test: Test cases of a fold.

    Returns:
        Mean difference with its 95% interval and two-sided p value from J - 1 degrees of freedom.

    Raises:
        DataError: With fewer than two folds, a value that is not finite, or no cases.
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise DataError("two or more finite differences are needed", where="corrected t test")
    if n_train <= 0 or n_test <= 0:
        raise DataError(f"{n_train} training and {n_test} test cases", where="corrected t test")
    mean = float(values.mean())
    variance = float(values.var(ddof=1)) * (1 / len(values) + n_test / n_train)
    if variance == 0:
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    spread = float(np.sqrt(variance))
    freedom = len(values) - 1
    margin = float(stdtrit(freedom, 0.975)) * spread
    return Interval(
        mean, mean - margin, mean + margin, float(2 * stdtr(freedom, -abs(mean) / spread))
    )
