"""Survival metrics by name, from stored risks, for many resamples at once.

`ibs` judges survival curves by Breslow's estimate, which takes the risk for a log hazard: exact for
Cox heads, a convention for others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.errors import ConfigError, DataError
from spade_bench.statistics import survival_curves as curves
from spade_bench.statistics.kaplan_meier import inverse_censoring, survival_curve
from spade_bench.statistics.riskscores import (
    c_index,
    c_index_uno,
    check_survival,
    resampled_c_index,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Training = tuple[Floats, Floats]

__all__ = ["SURVIVAL_METRICS", "survival_score_many"]

SURVIVAL_METRICS = ("c_index", "c_index_uno", "ibs", "auroc_over_time")
_TIMES = 20


def survival_score_many(
    name: str,
    target: Floats,
    scores: Floats,
    weights: Floats | None = None,
    train: Training | None = None,
) -> Floats:
    """Evaluate the survival metric called ``name``.

    Args:
        name: One of `SURVIVAL_METRICS`.
        target: (n, 2) event, 1 where it happened, and days.
        scores: (n, 1) risk, higher is worse.
        weights: (B, n) how often each case is in each resample; None for the cases as they are.
        train: Target (m, 2) and risk (m, 1) of the training cases, for the censoring
            distribution and the baseline hazard; all metrics but `c_index` need them.

    Returns:
        (B,) values, B = 1 without weights; NaN where undefined, as without training cases.

    Raises:
        ConfigError: When no survival metric has this name.
    """
    import numpy as np

    if name not in SURVIVAL_METRICS:
        raise ConfigError(
            f"unknown metric {name!r}", fix=f"Use one of {', '.join(SURVIVAL_METRICS)}"
        )
    event, days, risk = check_survival(target[:, 0] > 0, target[:, 1], scores[:, 0])
    if name == "c_index":
        if weights is None:
            return np.array([c_index(event, days, risk)])
        return resampled_c_index(event, days, risk, weights)
    counts = np.ones((1, len(event))) if weights is None else np.asarray(weights, dtype=float)
    undefined = np.full(len(counts), np.nan)
    if train is None:
        return undefined
    happened, when = train[0][:, 0] > 0, train[0][:, 1]
    if name == "c_index_uno":
        return c_index_uno(
            event, days, risk, train_event=happened, train_duration=when, weights=counts
        )
    try:
        times = curves.evaluation_times(happened, when, days, *(() if name == "ibs" else (_TIMES,)))
    except DataError:
        return undefined
    if len(times) < 2:
        return undefined
    if name == "ibs":
        return _ibs(target, risk, train, times, counts)
    return _auroc_over_time(target, risk, (happened, when), times, counts)


def _ibs(target: Floats, risk: Floats, train: Training, times: Floats, counts: Floats) -> Floats:
    """Integrated Brier score of Breslow curves, (B,): the integral of each case, averaged."""
    import numpy as np

    event, days = target[:, 0] > 0, target[:, 1]
    happened, when, known = train[0][:, 0] > 0, train[0][:, 1], train[1][:, 0]
    survival = curves.breslow_survival(happened, when, known, risk, times)  # (n, T)
    errors = curves.brier_errors(
        event, days, survival, times, train_event=happened, train_duration=when
    )  # (n, T)
    area = ((errors[:, 1:] + errors[:, :-1]) / 2 * np.diff(times)).sum(axis=1)  # (n,)
    return np.asarray(counts @ area / counts.sum(axis=1) / (times[-1] - times[0]))


def _auroc_over_time(
    target: Floats,
    risk: Floats,
    train: tuple[NDArray[np.bool_], Floats],
    times: Floats,
    counts: Floats,
) -> Floats:
    """Mean cumulative/dynamic AUROC, (B,); weights of the times are those of the whole cohort."""
    import numpy as np

    event, days = target[:, 0] > 0, target[:, 1]
    ipcw = inverse_censoring(*train, days)  # (n,)
    died = np.flatnonzero(event)  # (E,)
    wins = (risk[died, None] > risk) + 0.5 * (risk[died, None] == risk)  # (E, n)
    values = []
    for time in times:
        case = counts[:, died] * ((days[died] <= time) * ipcw[died])  # (B, E)
        control = counts * (days > time)  # (B, n)
        won = ((case @ wins) * control).sum(axis=1)  # (B,)
        pairs = case.sum(axis=1) * control.sum(axis=1)  # (B,)
        values.append(np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), np.nan))
    value = np.stack(values, axis=1)  # (B, T)
    fall = -np.diff(np.r_[1.0, survival_curve(event, days).at(times)])  # (T,)
    share = np.where(np.isfinite(value) & np.isfinite(fall), fall, 0.0)  # (B, T)
    total = share.sum(axis=1)  # (B,)
    mean = (np.where(share > 0, value, 0.0) * share).sum(axis=1) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan)
