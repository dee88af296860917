"""Survival of cases from TCGA-CDR or from cBioPortal's clinical data."""

from __future__ import annotations

from collections import Counter

from spade_bench.cohorts.labels.downloads import SourceTable
from spade_bench.cohorts.labels.labelling import (
    Labelled,
    Sources,
    general_notes,
    redacted_cases,
    rows_of,
)
from spade_bench.cohorts.labels.recipes import Recipe
from spade_bench.cohorts.spelling import read_flag
from spade_bench.errors import ConfigError, DataError, name_some

__all__ = ["ENDPOINTS", "follow_cases"]

# Endpoint -> columns of the event and of the time: TCGA-CDR counts days, cBioPortal months.
ENDPOINTS = {
    "OS": (("OS",), ("OS.time",), ("OS_STATUS", "Overall Survival Status"),
           ("OS_MONTHS", "Overall Survival (Months)")),
    "DSS": (("DSS",), ("DSS.time",), ("DSS_STATUS", "Disease-specific Survival status"),
            ("DSS_MONTHS", "Months of disease-specific survival")),
    "DFI": (("DFI",), ("DFI.time",), ("DFS_STATUS", "Disease Free Status"),
            ("DFS_MONTHS", "Disease Free (Months)")),
    "PFI": (("PFI",), ("PFI.time",), ("PFS_STATUS", "Progression Free Status"),
            ("PFS_MONTHS", "Progress Free Survival (Months)")),
}  # fmt: skip
_MONTH = 365.25 / 12  # days


def follow_cases(
    sources: Sources,
    recipe: Recipe,
    endpoint: str,
    *,
    sample_type: str = "01",
    keep_redacted: bool = False,
    keep_zero_times: bool = False,
) -> Labelled:
    """Read event and time of one endpoint.

    TCGA-CDR writes 1 where the event happened and days; cBioPortal writes `1:DECEASED` and
    months, which become days at 365.25 / 12 a month.

    Args:
        sources: The downloaded tables.
        recipe: Names the cancer types.
        endpoint: OS, DSS, DFI or PFI.
        sample_type: TCGA sample type whose rows count, where a table has samples.
        keep_redacted: Keep cases that TCGA redacted.
        keep_zero_times: Keep times of zero; negative ones are always dropped.

    Raises:
        ConfigError: On an unknown endpoint.
        DataError: On missing columns or unknown values.
    """
    table, event_key, time_key, scale = _columns(sources, endpoint)
    filtered: Counter[str] = Counter()
    types: dict[str, str] = {}
    event_rows, time_rows = (
        rows_of(
            table,
            key,
            wanted=recipe.types,
            sample_type=sample_type,
            filtered=counter,
            types=types,
        )
        for key, counter in ((event_key, filtered), (time_key, Counter()))
    )
    redacted = set() if keep_redacted else redacted_cases(sources)
    survival: dict[str, tuple[bool, float]] = {}
    dropped: dict[str, str] = {}
    for (case, event), (_, text) in zip(event_rows, time_rows, strict=True):
        where = f"{table.path.name}, case {case}"
        happened, lasted = _event(event, where), _days(text, scale, where)
        if case in redacted:
            dropped[case] = "redacted by TCGA"
        elif happened is None or lasted is None:
            dropped[case] = f"no {endpoint} {'event' if happened is None else 'time'} given"
        elif lasted < 0 or (lasted == 0 and not keep_zero_times):
            dropped[case] = f"{endpoint} time {'below zero' if lasted < 0 else 'of zero'}"
        elif survival.setdefault(case, (happened, lasted)) != (happened, lasted):
            raise DataError("rows of the case contradict each other", where=where)
    return Labelled({}, survival, types, dropped, dict(filtered), general_notes(sources))


def _columns(sources: Sources, endpoint: str) -> tuple[SourceTable, str, str, float]:
    """Table, keys of event and time, and days a unit of time."""
    if endpoint not in ENDPOINTS:
        raise ConfigError(
            f"unknown endpoint '{endpoint}'", where="--endpoint", fix=f"Use {', '.join(ENDPOINTS)}"
        )
    events, days, statuses, months = ENDPOINTS[endpoint]
    for table in sources.tables:
        for event_names, time_names, scale in ((events, days, 1.0), (statuses, months, _MONTH)):
            event, time = table.find(event_names), table.find(time_names)
            if event is not None and time is not None:
                return table, event, time, scale
    raise DataError(
        f"no given table has {events[0]} and {days[0]}, or {statuses[0]} and {months[0]}",
        where=name_some([table.path.name for table in sources.tables]),
    )


def _event(value: str | None, where: str) -> bool | None:
    if value is None:
        return None
    happened = read_flag(value)
    if happened is None:
        raise DataError(f"event is '{value}'", where=where, fix="Expected 0 or 1, or 1:DECEASED")
    return happened


def _days(value: str | None, scale: float, where: str) -> float | None:
    if value is None:
        return None
    try:
        return float(value) * scale
    except ValueError as error:
        raise DataError(f"time is '{value}', not a number", where=where) from error
