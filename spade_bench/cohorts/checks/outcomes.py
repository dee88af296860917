"""Checks of event and time: polarity, zero and negative times, units, numbers of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.cohorts.checks.issues import Issue, error, note, warning
from spade_bench.cohorts.checks.tablerows import Target, case_labels
from spade_bench.cohorts.spelling import fold, read_flag

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["check_outcomes", "event_column", "events_of"]

_CENSORING = ("censor", "alive", "living")
_OTHER_NAMES = ("censorship", "censored", "censoring", "censor", "c", "vital_status", "status")
_FEW_EVENTS = 20
# In 24 endpoint-by-cancer cohorts of TCGA-CDR at most 45% have the event, and at most 37% of the
# longest-followed tenth; with the sign turned at least 56% and 63%. Where many die, those followed
# longest still are mostly censored.
_MOST, _UNUSUAL, _LATE = 0.5, 0.5, 0.7


def event_column(frame: pd.DataFrame) -> str:
    """Name of the event column, or of the column that stands in for it."""
    if "event" in frame:
        return "event"
    lowered = {str(column).lower(): str(column) for column in frame}
    return next((lowered[name] for name in _OTHER_NAMES if name in lowered), "event")


def events_of(column: pd.Series, event_value: str | None) -> NDArray[np.bool_] | None:
    """True where the event happened; None when the values do not say which one means it."""
    import numpy as np

    if event_value is not None:
        return (column.map(fold) == fold(event_value)).to_numpy()
    flags = [read_flag(value) for value in column]
    if None in [flag for flag, known in zip(flags, column.notna(), strict=True) if known]:
        return None
    return np.array([bool(flag) for flag in flags])


def check_outcomes(
    frame: pd.DataFrame, target: Target, event_value: str | None, *, read: bool = False
) -> list[Issue]:
    """Check the outcome of each case.

    Args:
        frame: The table as text, blanks as None.
        target: Names the event column.
        event_value: Value that means that the event happened, where the user says so.
        read: Whether events were read by that value before, so that 1 is what a run takes.
    """
    import numpy as np
    import pandas as pd

    column = target.event_column
    if column not in frame or "duration_days" not in frame:
        return []
    event = case_labels(frame, column)
    text = case_labels(frame, "duration_days").reindex(event.index)
    days = pd.to_numeric(text, errors="coerce").to_numpy(dtype=float)
    issues = _times(event.index, text, days)
    happened = events_of(event, event_value)
    if happened is None:
        listed = ", ".join(f"{value} {n}" for value, n in event.value_counts().items())
        issues.append(
            error(
                "event-values",
                f"{column} holds {listed}",
                event.unique(),
                fix="Say which value means that it happened with --event-value, and store 1 or 0",
            )
        )
        return issues
    if event_value is not None and fold(event_value) not in set(event.map(fold)):
        issues.append(
            error("event-values", f"no case has {column} = {event_value}", fix="See --event-value")
        )
        return issues
    if not read and event_value is not None and (fold(event_value) != "1" or column != "event"):
        issues.append(
            error(
                "event-values",
                f"{column} = {event_value} means that it happened, as you say; runs read event = 1",
                count=len(event),
                fix="Write such a table with --write-table FILE, or give the run --event-column "
                "and --event-value too",
            )
        )
    issues += _counts(happened, days)
    known = np.isfinite(days)
    return issues + _polarity(column, happened[known], days[known], event_value)


def _counts(happened: NDArray[np.bool_], days: NDArray[np.float64]) -> list[Issue]:
    """How many cases had the event, and whether these are enough; both arguments are (n,)."""
    n = int(happened.sum())
    issues = [
        note(
            "events",
            f"{len(happened)} cases, {n} events ({happened.mean():.0%}); median follow-up of the "
            f"others {_median(days[~happened]):.0f} days",
            count=n,
        )
    ]
    if n == 0:
        issues.append(error("events", "nobody had the event", fix="Choose another endpoint"))
    elif n < _FEW_EVENTS:
        few = f"only {n} event(s): intervals will be very wide"
        issues.append(warning("events", few, count=n, fix="Choose another endpoint"))
    return issues


def _times(cases: pd.Index, text: pd.Series, days: NDArray[np.float64]) -> list[Issue]:
    import numpy as np

    issues = []
    broken = text.notna().to_numpy() & ~np.isfinite(days)
    if broken.any():
        wrong = [f"{case}: {value}" for case, value in text[broken].items()]
        issues.append(
            error(
                "times",
                f"{len(wrong)} time(s) are not numbers",
                wrong,
                fix="Days are expected",
            )
        )
    if (days < 0).any():
        issues.append(
            error(
                "times",
                f"{int((days < 0).sum())} case(s) have a negative time",
                cases[days < 0],
                fix="Leave them out",
            )
        )
    if (days == 0).any():
        issues.append(
            warning(
                "times",
                f"{int((days == 0).sum())} case(s) have a time of zero",
                cases[days == 0],
                fix="They carry next to no information: leave them out",
            )
        )
    positive = days[np.isfinite(days) & (days > 0)]
    if len(positive) >= 30 and np.quantile(positive, 0.9) < 365:
        issues.append(
            warning(
                "times",
                f"nine in ten times are below {np.quantile(positive, 0.9):.0f}: days, or months?",
                count=len(positive),
                fix="duration_days are days; a month has 30.44",
            )
        )
    return issues


def _polarity(
    column: str,
    happened: NDArray[np.bool_],
    days: NDArray[np.float64],
    event_value: str | None,
) -> list[Issue]:
    import numpy as np

    ask = (
        "Say which value means that it happened with --event-value (1 to confirm the table, 0 "
        "where 1 stands for censored)"
    )
    if event_value is not None or not len(happened):
        return []
    if any(word in column.lower() for word in _CENSORING):
        return [
            error(
                "event-polarity",
                f"there is no column event, and 1 in {column} looks like the opposite of it",
                count=len(happened),
                fix=ask,
            )
        ]
    rate = float(happened.mean())
    last = np.argsort(-days, kind="stable")[: max(5, len(days) // 10)]
    late = float(happened[last].mean())
    if rate <= _MOST or late < _UNUSUAL:
        return []
    text = f"{rate:.0%} of the cases have {column} = 1, and {late:.0%} of those followed longest"
    if late < _LATE:
        return [warning("event-polarity", text + ": an unusual rate", count=len(days), fix=ask)]
    return [
        error(
            "event-polarity",
            text + ": this looks inverted (1 = censored)",
            count=len(days),
            fix=ask,
        )
    ]


def _median(values: NDArray[np.float64]) -> float:
    import numpy as np

    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float(np.nan)
