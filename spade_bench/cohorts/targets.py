"""Targets of a table in one spelling, for every reader of cohorts and published splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spade_bench.cohorts.spelling import (
    fold,
    one_spelling,
    pair,
    read_flag,
    read_number,
    to_classes,
)
from spade_bench.console import warn
from spade_bench.errors import name_some

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["name_like_cases", "spell_numbers", "spell_targets"]


def spell_targets(
    frame: pd.DataFrame, classes: Sequence[str], survival: bool, event_value: str, where: str
) -> pd.DataFrame:
    """Spell the targets of a table one way, whoever reads it; both spellings are named.

    Args:
        frame: The table with the usual names of columns.
        classes: Declared classes; empty takes the most frequent spelling.
        survival: Whether the targets are `event` and `duration_days`, else `label`.
        event_value: Value of the event column that means that it happened; 1 by default.
        where: The table, for messages.
    """
    return _outcomes(frame, event_value) if survival else _labels(frame, classes, where)


def _labels(frame: pd.DataFrame, classes: Sequence[str], where: str) -> pd.DataFrame:
    """Spell labels one way: as the classes do, else as most rows do; both spellings are named."""
    given = frame["label"]
    known = given.dropna()
    changes = to_classes(known, classes) if classes else one_spelling(known)
    if not changes:
        return frame
    counts = given.value_counts()
    spellings = [f"{pair(old, new)} ({counts[old]} row(s))" for old, new in changes.items()]
    warn(f"{where}: label spelt otherwise, taken as one: {name_some(spellings)}")
    return frame.assign(label=given.replace(changes))


def _outcomes(frame: pd.DataFrame, event_value: str) -> pd.DataFrame:
    """Spell events as 1 and 0 and days one way; what cannot be read stays for the error."""
    import pandas as pd

    def event(value: object) -> object:
        happened = fold(value) == fold(event_value) if event_value else read_flag(value)
        return value if value is None or happened is None else str(int(happened))

    events = [event(value) for value in frame["event"]]
    days = [None if value is None else fold(value) for value in frame["duration_days"]]
    return frame.assign(
        event=pd.Series(events, frame.index, dtype=object),
        duration_days=pd.Series(days, frame.index, dtype=object),
    )


def spell_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Spell the numbers of the column `label` one way; what is none stays for the error."""
    import pandas as pd

    numbers = [(value, read_number(value)) for value in frame["label"]]
    spelt = [value if number is None else repr(number) for value, number in numbers]
    return frame.assign(label=pd.Series(spelt, frame.index, dtype=object))


def name_like_cases(frame: pd.DataFrame, where: str) -> None:
    """Name cases whose ids differ in spelling only: they may be one patient on two sides."""
    changes = one_spelling(frame["case_id"].unique())
    if changes:
        pairs = [f"{old} and {new}" for old, new in changes.items()]
        warn(f"{where}: taken as different cases, though only spelt otherwise: {name_some(pairs)}")
