"""Survival metrics by name, from stored risks, for many resamples at once.

`ibs` judges survival curves by Breslow's estimate, which takes the risk for a log hazard: exact for
Cox heads, a convention for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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

__all__ = ["SURVIVAL_METRICS", "ibs_of_draws", "survival_score_many"]

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
    if name == "ibs":
        return np.asarray(ibs_of_draws(target, [scores], weights, [train])[0])
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
        times = curves.evaluation_times(happened, when, days, _TIMES)
    except DataError:
        return undefined
    if len(times) < 2:
        return undefined
    return _auroc_over_time(target, risk, (happened, when), times, counts)


def ibs_of_draws(
    target: Floats,
    draws: Sequence[Floats],
    weights: Floats | None = None,
    trains: Sequence[Training | None] | None = None,
) -> Floats:
    """Integrated Brier score of Breslow curves: the integral of each case, averaged.

    Args:
        target: (n, 2) event and days.
        draws: For each draw the (n, 1) risks of these cases.
        weights: (B, n) counts of cases; None for the cases as they are.
        trains: For each draw target (m, 2) and risk (m, 1) of its training cases.

    Returns:
        (D, B) values, B = 1 without weights; NaN where undefined, as without training cases.

    Raises:
        DataError: When a duration or a risk is not finite, or an event neither 0 nor 1.
    """
    import numpy as np

    counts = np.ones((1, len(target))) if weights is None else np.asarray(weights, dtype=float)
    total = counts.sum(axis=1)  # (B,)
    out = np.full((len(draws), len(counts)), np.nan)
    for at, (scores, train) in enumerate(zip(draws, trains or [None] * len(draws), strict=True)):
        event, days, risk = check_survival(target[:, 0] > 0, target[:, 1], scores[:, 0])
        known = None if train is None else _clock(_bytes(train[0]), _bytes(days))
        if train is None or known is None:
            continue
        times, of_censoring = known
        happened, when = train[0][:, 0] > 0, train[0][:, 1]
        survival = curves.breslow_survival(happened, when, train[1][:, 0], risk, times)  # (n, T)
        errors = curves.weighted_errors(event, days, survival, times, of_censoring)  # (n, T)
        area = ((errors[:, 1:] + errors[:, :-1]) / 2 * np.diff(times)).sum(axis=1)  # (n,)
        out[at] = counts @ area / total / (times[-1] - times[0])
    return out


def _bytes(values: Floats) -> bytes:
    import numpy as np

    return np.asarray(values, dtype=float).tobytes()


@lru_cache(maxsize=256)
def _clock(train: bytes, days: bytes) -> tuple[Floats, tuple[Floats, Floats]] | None:
    """When curves are judged, and the weights for censoring; None where they cannot be.

    Encoders, heads and shots share training cases and test cases, so it is asked for often.

    Args:
        train: Bytes of the (m, 2) events and days of the training cases.
        days: Bytes of the (n,) days of the test cases.
    """
    import numpy as np

    happened, when = np.frombuffer(train).reshape(-1, 2).T
    duration = np.frombuffer(days)
    try:
        times = curves.evaluation_times(happened > 0, when, duration)
    except DataError:
        return None
    if len(times) < 2:
        return None
    return times, curves.censoring_weights(happened > 0, when, duration, times)


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
