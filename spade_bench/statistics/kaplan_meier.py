"""Kaplan-Meier curves of survival and of censoring, as step functions of time in days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

__all__ = ["Steps", "censoring_curve", "inverse_censoring", "survival_curve"]


@dataclass(frozen=True)
class Steps:
    """A right-continuous step function that is 1 before its first time.

    Attributes:
        times: (T,) days at which it may change, ascending.
        values: (T,) its value from that day on.
    """

    times: Floats
    values: Floats

    def at(self, times: Floats) -> Floats:
        """Value at each time; NaN after the last observed day, unless it has reached 0 there."""
        import numpy as np

        days = np.asarray(times, dtype=float)
        index = np.searchsorted(self.times, days, side="right")
        value = np.r_[1.0, self.values][index]
        return np.where((days > self.times[-1]) & (self.values[-1] > 0), np.nan, value)


def survival_curve(event: Bools, duration: Floats) -> Steps:
    """Probability of being without event after each day (Kaplan and Meier, 1958).

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days.
    """
    times, at_risk, events, _ = _counts(event, duration)
    return Steps(times, _product(events, at_risk))


def censoring_curve(event: Bools, duration: Floats) -> Steps:
    """Probability of being uncensored after each day; events of a day come before its censorings.

    Args:
        event: (n,) True where the event happened.
        duration: (n,) days.
    """
    times, at_risk, events, censored = _counts(event, duration)
    return Steps(times, _product(censored, at_risk - events))


def inverse_censoring(event: Bools, duration: Floats, times: Floats) -> Floats:
    """One over the probability of being uncensored at each time, 0 where that is unknown or 0.

    Args:
        event: (m,) events from which censoring is estimated.
        duration: (m,) their days.
        times: (n,) days at which it is asked for.
    """
    import numpy as np

    free = censoring_curve(event, duration).at(times)  # (n,)
    known = np.isfinite(free) & (free > 0)
    return np.where(known, 1.0 / np.where(known, free, 1.0), 0.0)


def _counts(event: Bools, duration: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Distinct days, cases at risk, events and censorings on each, all (T,)."""
    import numpy as np

    happened = np.asarray(event, dtype=bool)
    times, day = np.unique(np.asarray(duration, dtype=float), return_inverse=True)
    events = np.bincount(day, weights=happened, minlength=len(times)).astype(float)
    censored = np.bincount(day, weights=~happened, minlength=len(times)).astype(float)
    at_risk = len(day) - np.r_[0.0, np.cumsum(events + censored)[:-1]]
    return times, at_risk, events, censored


def _product(leaving: Floats, at_risk: Floats) -> Floats:
    import numpy as np

    return np.asarray(np.cumprod(1.0 - leaving / np.where(leaving > 0, at_risk, 1.0)), dtype=float)
