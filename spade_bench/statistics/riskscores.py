"""Concordance of survival risks, and the log-rank test of a split by risk.

Everywhere ``event`` is True where the event happened, ``duration`` is in days, and a higher
``risk`` means a worse outlook. Resamples are case counts ``(B, n)``, as in
:mod:`spade_bench.statistics.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError
from spade_bench.statistics.kaplan_meier import inverse_censoring

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

__all__ = [
    "LogRank",
    "c_index",
    "c_index_uno",
    "check_survival",
    "logrank_median_split",
    "resampled_c_index",
]

_PAIRS_AT_ONCE = 4_000_000


def c_index(event: Bools, duration: Floats, risk: Floats) -> float:
    """Harrell's concordance index, as lifelines computes it.

    A pair counts when the shorter duration ended in an event; tied risks count half, and an event
    is compared with cases censored on the same day.

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days to the event or to the last contact.
        risk: (n,) predicted risk, higher is worse.

    Returns:
        The index in 0..1, 0.5 at chance; NaN when no two cases can be compared.

    Raises:
        DataError: When lengths differ or a value is not finite.
    """
    import numpy as np
    from lifelines.utils import concordance_index

    event, duration, risk = check_survival(event, duration, risk)
    try:
        # lifelines scores predicted survival times, which fall as the risk rises.
        return float(concordance_index(duration, -risk, event))
    except ZeroDivisionError:  # how lifelines says that there is no comparable pair
        return float(np.nan)


def resampled_c_index(event: Bools, duration: Floats, risk: Floats, weights: Floats) -> Floats:
    """:func:`c_index` on many resamples at once.

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days.
        risk: (n,) predicted risk, higher is worse.
        weights: (B, n) how often each case is in each resample.

    Returns:
        (B,) values, equal to :func:`c_index` on the repeated cases; NaN without comparable pairs.

    Raises:
        DataError: When lengths differ or a value is not finite.
    """
    import numpy as np

    event, duration, risk = check_survival(event, duration, risk)
    return _concordance(event, duration, risk, np.ones(len(event)), weights)


def c_index_uno(
    event: Bools,
    duration: Floats,
    risk: Floats,
    *,
    train_event: Bools,
    train_duration: Floats,
    tau: float | None = None,
    weights: Floats | None = None,
) -> Floats:
    """Uno's concordance index: pairs weighted by the inverse probability of being uncensored.

    Unlike Harrell's it does not depend on the censoring of the study (Uno et al., Stat. Med.
    2011). Equal to scikit-survival's ``concordance_index_ipcw`` wherever that is defined; events
    at times for which the training cases give no censoring probability carry no weight.

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days.
        risk: (n,) predicted risk, higher is worse.
        train_event: (m,) events of the training cases, for the censoring distribution.
        train_duration: (m,) days of the training cases.
        tau: Count only events before this day.
        weights: (B, n) how often each case is in each resample; None for the cases as they are.

    Returns:
        (B,) values, B = 1 without weights; NaN without comparable pairs.

    Raises:
        DataError: When lengths differ or a value is not finite.
    """
    import numpy as np

    event, duration, risk = check_survival(event, duration, risk)
    ipcw = inverse_censoring(train_event, train_duration, duration)  # (n,)
    if tau is not None:
        ipcw = np.where(duration < tau, ipcw, 0.0)
    return _concordance(event, duration, risk, ipcw**2, weights)


@dataclass(frozen=True)
class LogRank:
    """Log-rank test between the halves of a cohort with high and with low risk.

    Attributes:
        statistic: Chi-squared statistic with one degree of freedom.
        p: Two-sided p value.
        n_high: Cases above the median risk.
        n_low: The others.
    """

    statistic: float
    p: float
    n_high: int
    n_low: int


def logrank_median_split(event: Bools, duration: Floats, risk: Floats) -> LogRank:
    """Compare cases above the median risk with the others by the log-rank test (Mantel, 1966).

    Equal to lifelines' ``logrank_test``, which takes a hundred times as long.

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days.
        risk: (n,) predicted risk. Cases at the median belong to the low half.

    Returns:
        The test; NaN when one half is empty or nothing happened.

    Raises:
        DataError: When lengths differ or a value is not finite.
    """
    import numpy as np
    from scipy.special import chdtrc

    event, duration, risk = check_survival(event, duration, risk)
    high = risk > np.median(risk)  # (n,)
    n_high, n_low = int(high.sum()), int((~high).sum())
    if not (n_high and n_low and event.any()):
        return LogRank(float(np.nan), float(np.nan), n_high, n_low)
    statistic = _logrank(event, duration, high)
    return LogRank(statistic, float(chdtrc(1, statistic)), n_high, n_low)


def _logrank(event: Bools, duration: Floats, group: Bools) -> float:
    """Chi-squared statistic of a group against the other cases."""
    import numpy as np

    days, day = np.unique(duration, return_inverse=True)  # (T,), (n,)
    happened = np.bincount(day, weights=event, minlength=len(days))  # (T,)
    mine = np.bincount(day, weights=event & group, minlength=len(days))  # (T,)
    leaving = [np.bincount(day, weights=who, minlength=len(days)) for who in (None, group)]
    whole, part = (np.cumsum(one[::-1])[::-1] for one in leaving)  # (T,) at risk, of both and group
    apart = float((mine - part * (happened / whole)).sum())
    several = np.maximum(whole - 1, 1)  # of one case at risk nothing varies
    spread = happened * (whole - happened) / several / whole**2  # (T,)
    variance = float((part * (whole - part) * spread).sum())
    return apart**2 / variance if variance > 0 else 0.0


def check_survival(event: Bools, duration: Floats, risk: Floats) -> tuple[Bools, Floats, Floats]:
    """Return the three columns as arrays of the right type.

    Raises:
        DataError: When lengths differ, a value is not finite or an event is not 0 or 1.
    """
    import numpy as np

    happened = np.asarray(event)
    days, score = np.asarray(duration, dtype=float), np.asarray(risk, dtype=float)
    if not happened.shape == days.shape == score.shape or days.ndim != 1 or not len(days):
        raise DataError(
            f"event, duration and risk have shapes {happened.shape}, {days.shape}, {score.shape}",
            where="survival metric",
        )
    if not (np.isfinite(days).all() and np.isfinite(score).all()):
        raise DataError("a duration or a risk is NaN or infinite", where="survival metric")
    if happened.dtype != bool and not np.isin(happened, (0, 1)).all():
        raise DataError("an event is neither 0 nor 1", where="survival metric")
    return happened.astype(bool), days, score


def _concordance(
    event: Bools, duration: Floats, risk: Floats, event_weight: Floats, weights: Floats | None
) -> Floats:
    """Weighted share of concordant among comparable pairs, (B,)."""
    import numpy as np

    counts = np.ones((1, len(event))) if weights is None else np.asarray(weights, dtype=float)
    first = np.flatnonzero(event & (event_weight > 0))  # (E,) the shorter member of a pair
    won, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for start in range(0, len(first), step := max(1, _PAIRS_AT_ONCE // len(event))):
        rows = first[start : start + step]
        tied_day = duration[rows, None] == duration  # (e, n)
        after = (duration[rows, None] < duration) | (tied_day & ~event)  # (e, n)
        wins = (risk[rows, None] > risk) + 0.5 * (risk[rows, None] == risk)  # (e, n)
        mine = counts[:, rows] * event_weight[rows]  # (B, e)
        won += ((mine @ (after * wins)) * counts).sum(axis=1)
        pairs += ((mine @ after.astype(float)) * counts).sum(axis=1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), np.nan)
