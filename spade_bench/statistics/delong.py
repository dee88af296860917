"""DeLong's test for AUROCs of several scores on the same cases.

The covariance of AUROCs comes from the placement of each case among the cases of the other class
(DeLong, DeLong and Clarke-Pearson, Biometrics 1988), computed from midranks in n log n time (Sun
and Xu, IEEE Signal Processing Letters 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["DeLong", "delong", "delong_covariance"]


@dataclass(frozen=True)
class DeLong:
    """Comparison of two AUROCs measured on the same cases.

    Attributes:
        first: AUROC of the first score.
        second: AUROC of the second score.
        difference: ``first - second``.
        low: Lower end of the 95% interval of the difference.
        high: Upper end.
        se: Standard error of the difference.
        p: Two-sided p value; NaN when the AUROCs differ but show no variance, as two perfectly
            separating scores of opposite sign do: there the normal approximation says nothing.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    se: float
    p: float


def delong(positive: NDArray[np.bool_], first: Floats, second: Floats) -> DeLong:
    """Compare the AUROCs of two scores.

    Args:
        positive: (n,) True for cases of the positive class.
        first: (n,) score, higher for positives.
        second: (n,) other score of the same cases.

    Raises:
        DataError: When lengths differ, a score is not finite or a class has fewer than two cases.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    aucs, covariance = delong_covariance(positive, np.stack([first, second]))
    difference = float(aucs[0] - aucs[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    # Equal placements cancel only up to rounding.
    se = float(np.sqrt(variance)) if variance > 1e-15 else 0.0
    if se > 0:
        p = float(2 * ndtr(-abs(difference) / se))
    else:
        p = 1.0 if abs(difference) < 1e-12 else float(np.nan)
    margin = float(ndtri(0.975)) * se
    return DeLong(
        float(aucs[0]), float(aucs[1]), difference, difference - margin, difference + margin, se, p
    )


def delong_covariance(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """AUROCs of several scores and the covariance between them.

    Args:
        positive: (n,) True for cases of the positive class.
        scores: (k, n) scores of the same cases.

    Returns:
        (k,) AUROCs and their (k, k) covariance.

    Raises:
        DataError: As for :func:`delong`.
    """
    import numpy as np

    up, rows = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=float)
    if rows.ndim != 2 or up.shape != rows.shape[1:]:
        raise DataError(f"{up.shape} labels for scores of shape {rows.shape}", where="DeLong")
    if not np.isfinite(rows).all():
        raise DataError("a score is NaN or infinite", where="DeLong")
    m, n = int(up.sum()), int((~up).sum())
    if m < 2 or n < 2:
        raise DataError(
            f"{m} positive and {n} negative case(s)", where="DeLong", fix="Two of each are needed"
        )
    x, y = rows[:, up], rows[:, ~up]  # (k, m), (k, n)
    overall = _midranks(np.concatenate([x, y], axis=1))  # (k, m + n)
    above = (overall[:, :m] - _midranks(x)) / n  # (k, m) share of negatives below each positive
    below = 1.0 - (overall[:, m:] - _midranks(y)) / m  # (k, n) share of positives above each
    aucs = above.mean(axis=1)  # (k,)
    covariance = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n  # (k, k)
    return aucs, covariance


def _midranks(values: Floats) -> Floats:
    """Rank along the last axis from 1; tied values share the mean of their ranks."""
    from spade_bench.statistics.ranks import middle_ranks

    return middle_ranks(values)
