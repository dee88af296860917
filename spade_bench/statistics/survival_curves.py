"""Scores of predicted survival curves, and discrimination over time.

Both correct for censoring by weights from the training cases (Graf et al., Stat. Med. 1999; Uno
et al., JASA 2007) and agree with scikit-survival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError
from spade_bench.statistics.kaplan_meier import censoring_curve, inverse_censoring, survival_curve
from spade_bench.statistics.riskscores import check_survival

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

__all__ = [
    "AurocOverTime",
    "auroc_over_time",
    "breslow_survival",
    "brier_errors",
    "brier_score",
    "censoring_weights",
    "evaluation_times",
    "integrated_brier_score",
    "weighted_errors",
]


def evaluation_times(
    train_event: Bools, train_duration: Floats, test_duration: Floats, n: int = 50
) -> Floats:
    """Days at which curves of test cases can be judged.

    Args:
        train_event: (m,) events of the training cases.
        train_duration: (m,) their days.
        test_duration: (n,) days of the test cases.
        n: Number of days wanted.

    Returns:
        Up to ``n`` ascending days, quantiles of the training event times that lie within the
        follow-up of the test cases and at which some training cases are still uncensored.

    Raises:
        DataError: When fewer than two such days exist.
    """
    import numpy as np

    train_event = np.asarray(train_event, dtype=bool)
    days = np.unique(np.asarray(train_duration, dtype=float)[train_event])
    free = censoring_curve(train_event, train_duration).at(days)
    inside = (days >= np.min(test_duration)) & (days < np.max(test_duration)) & (free > 0)
    if inside.sum() < 2:
        raise DataError(
            "fewer than two training events within the follow-up of the test cases",
            where="survival metric",
        )
    chosen = np.quantile(days[inside], np.linspace(0, 1, n), method="nearest")
    return np.unique(chosen).astype(float)


def brier_score(
    event: Bools,
    duration: Floats,
    survival: Floats,
    times: Floats,
    *,
    train_event: Bools,
    train_duration: Floats,
) -> Floats:
    """Squared error of predicted survival at each time, 0 at best.

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days.
        survival: (n, T) predicted probability of being without event at each time.
        times: (T,) ascending days, within the follow-up of test and training cases.
        train_event: (m,) events of the training cases, for the censoring distribution.
        train_duration: (m,) their days.

    Returns:
        (T,) scores.

    Raises:
        DataError: When shapes do not fit or a time lies beyond the training follow-up.
    """
    import numpy as np

    errors = brier_errors(
        event,
        duration,
        survival,
        times,
        train_event=train_event,
        train_duration=train_duration,
    )
    return np.asarray(errors.mean(axis=0))


def brier_errors(
    event: Bools,
    duration: Floats,
    survival: Floats,
    times: Floats,
    *,
    train_event: Bools,
    train_duration: Floats,
) -> Floats:
    """Squared error of each case at each time, weighted for censoring.

    Arguments and errors as for :func:`brier_score`, which is the mean over cases.

    Returns:
        (n, T) weighted squared errors.
    """
    import numpy as np

    event, duration, _ = check_survival(event, duration, duration)
    curves, days = np.asarray(survival, dtype=float), _check_times(times)
    weights = censoring_weights(train_event, train_duration, duration, days)
    return weighted_errors(event, duration, curves, days, weights)


def censoring_weights(
    train_event: Bools, train_duration: Floats, duration: Floats, times: Floats
) -> tuple[Floats, Floats]:
    """What errors are multiplied by, because some cases are censored before their event.

    Args:
        train_event: (m,) events of the training cases.
        train_duration: (m,) their days.
        duration: (n,) days of the test cases.
        times: (T,) ascending days.

    Returns:
        (n,) weights of cases whose event has happened, (T,) those of cases without event by then.

    Raises:
        DataError: When a time lies beyond the training follow-up.
    """
    import numpy as np

    free = censoring_curve(train_event, train_duration).at(times)  # (T,)
    if np.isnan(free).any():
        raise DataError("a time lies beyond the training follow-up", where="survival metric")
    at_time = np.where(free > 0, 1.0 / np.where(free > 0, free, 1.0), 0.0)  # (T,)
    return inverse_censoring(train_event, train_duration, duration), at_time


def weighted_errors(
    event: Bools,
    duration: Floats,
    survival: Floats,
    times: Floats,
    weights: tuple[Floats, Floats],
) -> Floats:
    """:func:`brier_errors` of checked cases and times, with `censoring_weights` known."""
    import numpy as np

    at_event, at_time = weights  # (n,), (T,)
    if survival.shape != (len(event), len(times)) or not np.isfinite(survival).all():
        raise DataError(
            f"survival of shape {survival.shape} is not {(len(event), len(times))}, or not finite",
            where="survival metric",
        )
    gone = (duration[:, None] <= times) & event[:, None]  # (n, T)
    alive = duration[:, None] > times  # (n, T)
    lost, left = gone * at_event[:, None], alive * at_time  # (n, T) both
    return np.asarray(survival**2 * lost + (1.0 - survival) ** 2 * left)


def integrated_brier_score(
    event: Bools,
    duration: Floats,
    survival: Floats,
    times: Floats,
    *,
    train_event: Bools,
    train_duration: Floats,
) -> float:
    """Mean of :func:`brier_score` over the span of ``times``, by the trapezoid rule.

    Arguments and errors as there; at least two times are needed.
    """
    import numpy as np

    days = _check_times(times)
    if len(days) < 2:
        raise DataError("an integral needs two times or more", where="survival metric")
    scores = brier_score(
        event,
        duration,
        survival,
        days,
        train_event=train_event,
        train_duration=train_duration,
    )
    area = ((scores[1:] + scores[:-1]) / 2 * np.diff(days)).sum()
    return float(area / (days[-1] - days[0]))


@dataclass(frozen=True)
class AurocOverTime:
    """Cumulative/dynamic AUROC.

    Attributes:
        times: (T,) days.
        auroc: (T,) how well the risk separates cases with an event by that day from those
            without; NaN where one side is empty.
        mean: Mean over time, weighted by the fall of the survival curve of the test cases.
    """

    times: Floats
    auroc: Floats
    mean: float


def auroc_over_time(
    event: Bools,
    duration: Floats,
    risk: Floats,
    times: Floats,
    *,
    train_event: Bools,
    train_duration: Floats,
) -> AurocOverTime:
    """Time-dependent AUROC (cumulative cases, dynamic controls; Uno et al. 2007).

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days.
        risk: (n,) predicted risk, higher is worse.
        times: (T,) ascending days.
        train_event: (m,) events of the training cases, for the censoring distribution.
        train_duration: (m,) their days.

    Raises:
        DataError: When shapes do not fit.
    """
    import numpy as np

    event, duration, risk = check_survival(event, duration, risk)
    days = _check_times(times)
    ipcw = inverse_censoring(train_event, train_duration, duration)  # (n,)
    died = np.flatnonzero(event)  # (E,)
    wins = (risk[died, None] > risk) + 0.5 * (risk[died, None] == risk)  # (E, n)
    case = (duration[died, None] <= days) * ipcw[died, None]  # (E, T)
    control = (duration[:, None] > days).astype(float)  # (n, T)
    won = (case * (wins @ control)).sum(axis=0)  # (T,)
    pairs = case.sum(axis=0) * control.sum(axis=0)  # (T,)
    values = np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), np.nan)
    if len(days) == 1:
        return AurocOverTime(days, values, float(values[0]))
    alive = survival_curve(event, duration).at(days)  # (T,)
    fall = -np.diff(np.r_[1.0, alive])  # (T,)
    known = np.isfinite(values) & np.isfinite(fall)
    total = fall[known].sum()
    mean = float((values[known] * fall[known]).sum() / total) if total > 0 else float(np.nan)
    return AurocOverTime(days, values, mean)


def breslow_survival(
    train_event: Bools, train_duration: Floats, train_risk: Floats, risk: Floats, times: Floats
) -> Floats:
    """Turn log hazards into survival curves by Breslow's estimate of the baseline (1972).

    Args:
        train_event: (m,) events of the training cases.
        train_duration: (m,) their days.
        train_risk: (m,) their predicted log hazard.
        risk: (n,) predicted log hazard of the cases asked for.
        times: (T,) days.

    Returns:
        (n, T) probability of being without event.

    Raises:
        DataError: When shapes do not fit.
    """
    import numpy as np

    train_event, train_duration, train_risk = check_survival(
        train_event, train_duration, train_risk
    )
    # Only differences of log hazards matter; a common shift keeps exp() in range.
    shift = train_risk.max()
    days, day = np.unique(train_duration, return_inverse=True)
    events = np.bincount(day, weights=train_event, minlength=len(days))  # (D,)
    hazard = np.bincount(day, weights=np.exp(train_risk - shift), minlength=len(days))  # (D,)
    at_risk = np.cumsum(hazard[::-1])[::-1]  # (D,)
    baseline = np.r_[0.0, np.cumsum(events / at_risk)]  # (D + 1,)
    passed = baseline[np.searchsorted(days, np.asarray(times, dtype=float), side="right")]  # (T,)
    relative = np.exp(np.asarray(risk, dtype=float) - shift)  # (n,)
    return np.asarray(np.exp(-relative[:, None] * passed))


def _check_times(times: Floats) -> Floats:
    import numpy as np

    days = np.asarray(times, dtype=float)
    if days.ndim != 1 or not len(days) or not np.isfinite(days).all() or (np.diff(days) <= 0).any():
        raise DataError("times must be finite and ascending", where="survival metric")
    return days
