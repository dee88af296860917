"""DeLong's test for two encoders over several draws and several classes.

The mean over draws of a macro AUROC is still a mean over pairs of cases, so its variance over cases
follows from how much each case contributes to it, stratified by class; for one draw and two classes
this is DeLong's covariance exactly. Draws of training cases add the variance of their mean, less
the part of it that is in the variance over cases already, because draws and cases are crossed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.statistics.intervals import Interval
from spade_bench.statistics.score_intervals import FEW_CASES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["auroc_influence", "delong_over_draws"]


def auroc_influence(label: NDArray[np.int64], scores: Floats) -> tuple[float, Floats] | None:
    """Macro AUROC and how far each case moves it.

    Args:
        label: (n,) class index of each case.
        scores: (n, C) score of each class; with C = 2 only the second column counts.

    Returns:
        The AUROC and (n,) contributions, which sum to zero within each class of a binary task;
        None when a class has fewer than two cases.
    """
    import numpy as np

    from spade_bench.statistics.ranks import middle_ranks

    sizes = np.bincount(label, minlength=scores.shape[1])
    if sizes.min() < 2:
        return None
    columns = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    total, influence = 0.0, np.zeros(len(label))
    for column in columns:
        up, score = label == column, scores[:, column]
        m, n = int(up.sum()), int((~up).sum())
        overall = middle_ranks(score)  # (m + n,)
        above = (overall[up] - middle_ranks(score[up])) / n  # (m,) share of negatives below each
        below = 1.0 - (overall[~up] - middle_ranks(score[~up])) / m  # (n,) share of positives above
        area = float(above.mean())
        total += area
        influence[up] += (above - area) / m
        influence[~up] += (below - area) / n
    return total / len(columns), influence / len(columns)


def delong_over_draws(
    label: NDArray[np.int64], differences: Floats, influence: Floats
) -> Interval | None:
    """Interval and p value of a mean difference of AUROCs.

    Args:
        label: (n,) class index of each test case.
        differences: (D,) difference of the two AUROCs in each draw.
        influence: (D, n) difference of the contributions of :func:`auroc_influence`.

    Returns:
        Mean difference, 95% interval, two-sided p; with several draws, or fewer than ten cases of
        a class, from Student's t with the degrees of freedom of Welch and Satterthwaite. None when
        the two differ without any variance: there the approximation says nothing.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    n_draws, mean = len(differences), float(differences.mean())
    centre = influence.mean(axis=0)  # (n,)
    cases = float(_case_variance(label, centre[None])[0])
    draws = spread = 0.0
    if n_draws > 1:
        spread = float(differences.var(ddof=1)) / n_draws
        crossed = float(_case_variance(label, influence - centre).mean()) / (n_draws - 1)
        draws = max(0.0, spread - crossed)
    variance = cases + draws
    if variance < 1e-15:  # equal placements cancel only up to rounding
        return Interval(mean, mean, mean, 1.0) if abs(mean) < 1e-12 else None
    error = float(np.sqrt(variance))
    doubt = _few_cases_doubt(label, centre) + spread**2 / max(1, n_draws - 1)
    if doubt == 0.0:
        margin, p = float(ndtri(0.975)), float(2 * ndtr(-abs(mean) / error))
    else:
        freedom = variance**2 / doubt
        margin, p = float(stdtrit(freedom, 0.975)), float(2 * stdtr(freedom, -abs(mean) / error))
    return Interval(mean, mean - margin * error, mean + margin * error, p)


def _few_cases_doubt(label: NDArray[np.int64], influence: Floats) -> float:
    """Satterthwaite's term of the variance over cases; 0 from `FEW_CASES` cases of a class on.

    There DeLong's test is kept as it is published: it rejects at most 6.2%.
    """
    import numpy as np

    sizes = np.unique(label, return_counts=True)[1]
    if sizes.min() >= FEW_CASES:
        return 0.0
    parts = [_case_variance(label[members], influence[None, members])[0] ** 2 / (members.sum() - 1)
             for members in (label == value for value in np.unique(label))]  # fmt: skip
    return float(np.sum(parts))


def _case_variance(label: NDArray[np.int64], influence: Floats) -> Floats:
    """Variance of a sum of contributions when cases are drawn within classes, (k, n) -> (k,)."""
    import numpy as np

    total = np.zeros(len(influence))
    for value in np.unique(label):
        part = influence[:, label == value]
        total += part.shape[1] ** 2 / (part.shape[1] - 1) * part.var(axis=1)
    return total
