"""Which column of a table holds what, where people call them otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, name_some

if TYPE_CHECKING:
    import pandas as pd

    from spade_bench.types import TaskCard

__all__ = [
    "COLUMN_FIELDS",
    "PUBLISHED_FIELDS",
    "USUAL",
    "Columns",
    "columns_of",
    "missing_columns",
    "said_columns",
    "with_columns",
]

# Fields of a task's card, a cohort of the workspace and a sweep that say what columns are called;
# published tasks bring their own labels.
COLUMN_FIELDS = (
    *("case_column", "slide_column", "label_column", "event_column", "days_column"),
    "event_value",
)
PUBLISHED_FIELDS = ("case_column", "slide_column")

# Names that other tools give to a column, for suggestions only: nothing is renamed unasked.
_OTHER_NAMES = {
    "case_id": ("patient_id", "patient", "case", "caseid", "case_submitter_id", "submitter_id",
                "bcr_patient_barcode", "subject_id", "subject", "participant_id"),
    "slide_id": ("slide", "slideid", "slide_name", "filename", "file_name", "image", "image_id",
                 "wsi", "wsi_id", "file"),
    "label": ("class", "target", "y", "diagnosis", "subtype", "status", "grade"),
    "event": ("os", "os_status", "vital_status", "dead", "death", "status", "event_observed",
              "censorship", "censored", "censor", "pfi", "dss", "dfi"),
    "duration_days": ("days", "time", "os_days", "os.time", "os_time", "survival_days", "duration",
                      "time_days", "follow_up_days", "survival_time"),
}  # fmt: skip
_FLAGS = {
    "case_id": "--case-column",
    "slide_id": "--slide-column",
    "label": "--label-column",
    "event": "--event-column",
    "duration_days": "--days-column",
}


@dataclass(frozen=True)
class Columns:
    """Names of the columns in the table.

    Attributes:
        case_id: Column of the case.
        slide_id: Column of the slide.
        label: Column of the label.
        event: Column of the event.
        duration_days: Column of the days.
    """

    case_id: str = "case_id"
    slide_id: str = "slide_id"
    label: str = "label"
    event: str = "event"
    duration_days: str = "duration_days"

    def named(self, names: Iterable[str]) -> list[str]:
        """Return what the table calls these columns."""
        return [getattr(self, name) for name in names]

    def rename(
        self, frame: pd.DataFrame, names: Iterable[str], where: str, *, strict: bool = True
    ) -> pd.DataFrame:
        """Give columns their usual names.

        Args:
            frame: The table.
            names: Usual names of the columns that are needed.
            where: The table, for messages.
            strict: Refuse a table that lacks one of them.

        Raises:
            DataError: When one is missing, or one column is named for two things.
        """
        names = tuple(names)
        wanted = {name: getattr(self, name) for name in names}
        given = list(wanted.values())
        twice = sorted({column for column in given if given.count(column) > 1})
        if twice:
            raise DataError(f"column '{twice[0]}' is named for two things", where=where)
        absent = missing_columns(frame.columns, self, names)
        if absent and strict:
            raise DataError(absent[0], where=where, fix=absent[1])
        moved = {mine: name for name, mine in wanted.items() if mine in frame and mine != name}
        if not moved:
            return frame
        # A column that already has the usual name is not the one that was asked for.
        return frame.drop(columns=[n for n in moved.values() if n in frame]).rename(columns=moved)


USUAL = Columns()


def columns_of(card: TaskCard) -> Columns:
    """Return the columns that a task's card names."""
    plain = Columns(label=card.label_column)
    names = {
        "case_id": card.case_column,
        "slide_id": card.slide_column,
        "event": card.event_column,
        "duration_days": card.days_column,
    }
    return replace(plain, **{name: column for name, column in names.items() if column})


def with_columns(card: TaskCard, names: Mapping[str, Any] | None) -> TaskCard:
    """Return the card with what was said of the columns, by field of the card."""
    return replace(card, **(names or {}))


def said_columns(source: Any) -> dict[str, str]:
    """Return what a cohort of the workspace says of its columns, by field of the card."""
    return {name: name_given for name in COLUMN_FIELDS if (name_given := getattr(source, name))}


def missing_columns(
    present: Iterable[object], columns: Columns, names: Iterable[str]
) -> tuple[str, str] | None:
    """Say which needed columns a table lacks, and how to name them; None when it has all."""
    there, names = [str(column) for column in present], tuple(names)
    absent = {name: getattr(columns, name) for name in names if getattr(columns, name) not in there}
    if not absent:
        return None
    lowered = {column.strip().lower(): column for column in there}
    needed = {getattr(columns, name) for name in names}
    free = [one for one, column in lowered.items() if column not in needed]
    hints = []
    for name, wanted in absent.items():
        others = (wanted.lower(), name, *_OTHER_NAMES[name])
        slips = get_close_matches(wanted.lower(), free, n=1, cutoff=0.8)
        near = next((lowered[other] for other in (*others, *slips) if other in lowered), "NAME")
        hints.append(f"{_FLAGS[name]} {near}")
    text = f"missing column(s) {', '.join(absent.values())} (found {name_some(there, 12)})"
    return text, f"Rename the column, or say which one holds it: {' '.join(hints)}"
