"""Intervals of metrics between 0 and 1 that hold with few cases of a class.

A percentile bootstrap of five positive cases knows five cases and nothing between them: it is far
too short, and of width zero where all are right. Here the interval is the set of values that a
score test would not refuse (Wilson, JASA 1927; for AUROC Newcombe, Statistics in Medicine 2006).
The variance at a value is a multiple of the largest that the size of the smallest class allows,
``value (1 - value) / size`` (Birnbaum and Klose, Annals of Mathematical Statistics 1957). The
multiple is what the cases show, moderated: a variance that few cases estimate is drawn towards that
bound with the weight of ``PRIOR`` degrees of freedom (as Smyth does for microarrays, 2004), and
Student's t stands for the rest. With many cases of each class it is the interval of the variance
alone; at a metric of 1 it is near Wilson's.

Two metrics need more. One negative case at the top of the list moves the area under the
precision-recall curve by far more than all others, and few cohorts show one: its variance is never
taken below that of a proportion of positive cases (Boyd, Eng and Page, ECML PKDD 2013). Sensitivity
at a specificity rests on a quantile of the negative cases, which is too low on average where few of
them lie above it: below five of them no interval is given.

``benchmarks/coverage.py`` measures the coverage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.statistics.intervals import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["FEW_CASES", "Spread", "boot_spread", "influence_spread", "least_cases",
           "least_multiple", "score_interval", "square_and_add"]  # fmt: skip

FEW_CASES = 10
"""Below so many cases of a class, patients or events, tables say `few-cases`."""

PRIOR = 5.0
_LEAST = {"auroc": 2, "calibration_slope": 20}
_LEAST_AT_SPECIFICITY = {"90": 50, "95": 100}  # five of them lie above the threshold
_LEAST_OTHERS = 5


@dataclass(frozen=True)
class Spread:
    """Variance of a mean over draws.

    Attributes:
        cases: What it owes to the choice of test cases.
        freedom: Degrees of freedom of ``cases``.
        draws: What it owes to the choice of draws, beyond what is in ``cases``.
        between: Variance of the draws divided by their number, of which ``draws`` is a part.
        n_draws: Number of draws.
    """

    cases: float
    freedom: float
    draws: float = 0.0
    between: float = 0.0
    n_draws: int = 1


def score_interval(
    mean: float, spread: Spread, size: int, least: float = 0.0
) -> tuple[float, float]:
    """95% interval of a mean between 0 and 1.

    Args:
        mean: The mean.
        spread: Its variance.
        size: Cases of the smallest class.
        least: Share of the bound below which the variance is not taken; see `least_multiple`.

    Returns:
        Lower and upper end, within 0 and 1.
    """
    import numpy as np
    from scipy.special import stdtrit

    bound = mean * (1 - mean) / size
    ratio = spread.cases / bound if bound > 1e-15 else 1.0
    freedom = spread.freedom + PRIOR
    multiple = max(least, (spread.freedom * ratio + PRIOR) / freedom) / size
    known, drawn = multiple * mean * (1 - mean), spread.draws
    if drawn > 0:
        freedom = (known + drawn) ** 2 / (
            known**2 / freedom + spread.between**2 / (spread.n_draws - 1)
        )
    t2 = float(stdtrit(freedom, 0.975)) ** 2
    # (mean - x)^2 = t^2 (multiple x (1 - x) + drawn), a quadratic in x
    a, b, c = 1 + t2 * multiple, -(2 * mean + t2 * multiple), mean**2 - t2 * drawn
    root = float(np.sqrt(max(0.0, b**2 - 4 * a * c)))
    return max(0.0, (-b - root) / (2 * a)), min(1.0, (-b + root) / (2 * a))


def influence_spread(label: NDArray[np.int64], plain: Floats, influence: Floats) -> Spread:
    """Spread of a mean AUROC from what each case contributes to it.

    Args:
        label: (n,) class index of each test case.
        plain: (D,) AUROC of each draw.
        influence: (D, n) contributions of :func:`.delong_draws.auroc_influence`.
    """
    parts, sizes = _parts(label, influence.mean(axis=0)[None])  # (L, 1), (L,)
    cases = float(parts.sum())
    shares = float((parts[:, 0] ** 2 / (sizes - 1)).sum())
    freedom = cases**2 / shares if shares > 0 else float(sizes.min() - 1)
    apart = _parts(label, influence - influence.mean(axis=0))[0].sum(axis=0)  # (D,)
    return _with_draws(cases, freedom, plain, float(apart.mean()))


def boot_spread(plain: Floats, boot: Floats, size: int) -> Spread:
    """Spread of a mean of any metric from its values on resampled cases.

    Args:
        plain: (D,) metric of each draw.
        boot: (D, B) metric of each draw on each resample.
        size: Cases of the smallest class; resampling makes variances too small by ``1 / size``.
    """
    import numpy as np

    centre = boot.mean(axis=0)  # (B,)
    known = np.isfinite(centre)
    scale = size / max(1, size - 1)
    apart = (boot[:, known] - centre[known]).var(axis=1).mean() * scale
    cases = float(centre[known].var()) * scale
    return _with_draws(cases, float(max(1, size - 1)), plain, float(apart))


def square_and_add(first: Interval, second: Interval) -> Interval:
    """Interval of ``first - second`` from the intervals of both, as if they were independent.

    For differences that show no variance, as of two encoders that are right everywhere (Newcombe,
    Statistics in Medicine 1998, method 10).

    Returns:
        The interval; p is 1 for a difference of zero and None for others, which nothing tests.
    """
    import numpy as np

    mean = first.mean - second.mean
    below = float(np.hypot(first.mean - first.low, second.high - second.mean))
    above = float(np.hypot(first.high - first.mean, second.mean - second.low))
    return Interval(mean, mean - below, mean + above, 1.0 if abs(mean) < 1e-12 else None)


def least_cases(metric: str) -> int:
    """Fewest cases of the smallest class for which an interval of a metric is given."""
    if metric.startswith("sensitivity_at_"):
        return _LEAST_AT_SPECIFICITY[metric.split("_")[2]]
    return _LEAST.get(metric, _LEAST_OTHERS)


def least_multiple(metric: str) -> float:
    """Share of the variance's bound below which an interval of a metric does not take it."""
    return 1.0 if metric == "auprc" else 0.0


def _with_draws(cases: float, freedom: float, plain: Floats, apart: float) -> Spread:
    n = len(plain)
    if n < 2:
        return Spread(cases, freedom)
    between = float(plain.var(ddof=1)) / n
    return Spread(cases, freedom, max(0.0, between - apart / (n - 1)), between, n)


def _parts(label: NDArray[np.int64], influence: Floats) -> tuple[Floats, Floats]:
    """Variance that each class gives a sum of contributions, (k, n) -> (L, k), and its size."""
    import numpy as np

    values, sizes = np.unique(label, return_counts=True)
    rows = [
        m**2 / (m - 1) * influence[:, label == value].var(axis=1)
        for value, m in zip(values, sizes, strict=True)
    ]
    return np.array(rows), sizes.astype(float)
