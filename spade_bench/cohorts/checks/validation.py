"""All checks of one table, its features and its splits, in one list of findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.checks.featurefiles import Expected, check_features
from spade_bench.cohorts.checks.featurescan import scan_features
from spade_bench.cohorts.checks.issues import Issue, error, note, sort_issues, warning
from spade_bench.cohorts.checks.measuredvalues import check_values
from spade_bench.cohorts.checks.outcomes import check_outcomes, event_column, events_of
from spade_bench.cohorts.checks.sites import check_sites
from spade_bench.cohorts.checks.tablerows import (
    Target,
    case_labels,
    check_rows,
    check_splits,
    is_usable,
    respell,
    target_of,
)
from spade_bench.cohorts.columns import Columns, missing_columns
from spade_bench.cohorts.leaks import find_leaks
from spade_bench.cohorts.tables import read_table
from spade_bench.errors import ConfigError, DataError, UserError
from spade_bench.features.slideids import describe_near, near_ids

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Question", "Validation", "rewrite_events", "validate_cohort"]


@dataclass(frozen=True)
class Question:
    """What is to be checked.

    Attributes:
        table: Cohort table.
        features: Features folder; None checks the table alone.
        splits: Patho-Bench task folder, or CLAM split files, for the same slides.
        kind: `classification`, `regression` or `survival`; empty goes by the columns.
        label_column: Column of the label.
        classes: Classes the task knows; empty takes any.
        plausible: Lowest and highest value that may have been measured, for regression.
        unit: What values are measured in, for regression.
        columns: What the table calls its columns; `label_column` says it of the label.
        event_value: Value that means that the event happened.
        event_declared: Whether a run knows the event column and its value too, from the task's
            card, the workspace or the same options.
        match_ids: `exact`, or `loose`; see `spade_bench.features.slideids`.
        expected: What the features should be like.
    """

    table: Path
    features: Path | None = None
    splits: Path | None = None
    kind: str = ""
    label_column: str = "label"
    classes: tuple[str, ...] = ()
    plausible: tuple[float, ...] = ()
    unit: str = ""
    columns: Columns = field(default_factory=Columns)
    event_value: str | None = None
    event_declared: bool = False
    match_ids: str = "exact"
    expected: Expected = field(default_factory=Expected)


@dataclass(frozen=True)
class Validation:
    """All findings, worst first.

    Attributes:
        issues: The findings.
    """

    issues: tuple[Issue, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing must be fixed."""
        return not any(issue.severity == "error" for issue in self.issues)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        count = {s: sum(i.severity == s for i in self.issues) for s in ("error", "warning", "note")}
        return {
            "schema": "spade-bench/validate/1",
            "ok": self.ok,
            "n": count,
            "findings": [issue.to_dict() for issue in self.issues],
        }


def validate_cohort(question: Question) -> Validation:
    """Check everything and list what was found.

    Raises:
        DataError: When the table or the features folder cannot be read at all.
    """
    frame = _read(question)
    target = _target(frame, question)
    frame, issues = respell(frame, target, question.event_value)
    issues += check_rows(frame, target)
    if not is_usable(frame):
        return Validation(tuple(sort_issues(issues)))
    if target.kind == "regression":
        issues += check_values(frame, target)
    if target.kind == "survival":
        issues += check_outcomes(frame, target, question.event_value, read=question.event_declared)
    issues += check_splits(frame)
    if question.splits is not None:
        issues += _published(frame, question)
    issues += _sites(frame, target, question.event_value)
    if question.features is not None:
        slides = dict(
            frame.dropna(subset=["case_id", "slide_id"])[["slide_id", "case_id"]].itertuples(
                index=False, name=None
            )
        )
        issues += _features(question, slides)
    return Validation(tuple(sort_issues(issues)))


def rewrite_events(question: Question) -> pd.DataFrame:
    """The table with `event` as 1 = it happened, by the value that the user names.

    Raises:
        ConfigError: Without such a value.
        DataError: When no column holds events, or the value is not in it.
    """
    if question.event_value is None:
        raise ConfigError("which value means that it happened?", where="--event-value")
    frame = _read(question)
    column = _event_column(frame, question)
    if column not in frame:
        raise DataError("no event column", where=str(question.table))
    happened = events_of(frame[column], question.event_value)
    if happened is None or not happened.any():
        raise DataError(f"no row has {column} = {question.event_value}", where=str(question.table))
    known = frame[column].notna().to_numpy()
    event = ["" if not k else str(int(h)) for k, h in zip(known, happened, strict=True)]
    return frame.drop(columns=[column]).assign(event=event)


def _read(question: Question) -> pd.DataFrame:
    """The table with the usual names of case, slide and days; those that were named must exist."""
    where, columns = str(question.table), question.columns
    frame = read_table(question.table, question.classes)
    named = [n for n in ("case_id", "slide_id", "duration_days") if getattr(columns, n) != n]
    frame = columns.rename(frame, named, where)
    if columns.event != "event" and (absent := missing_columns(frame, columns, ["event"])):
        raise DataError(absent[0], where=where, fix=absent[1])
    return frame


def _event_column(frame: pd.DataFrame, question: Question) -> str:
    named = question.columns.event
    return event_column(frame) if named == "event" else named


def _target(frame: pd.DataFrame, question: Question) -> Target:
    if question.kind == "regression":
        return Target("regression", question.label_column, plausible=question.plausible,
                      unit=question.unit)  # fmt: skip
    kind = question.kind or target_of(frame, question.label_column).kind
    event = _event_column(frame, question)
    if kind != "survival" and not question.kind and event in frame:
        kind = "classification" if question.label_column in frame else "survival"
    if not question.kind and question.columns.event != "event":
        kind = "survival"
    if kind == "survival":
        return Target("survival", question.label_column, event)
    return Target("classification", question.label_column, classes=question.classes)


def _sites(frame: pd.DataFrame, target: Target, event_value: str | None) -> list[Issue]:
    import pandas as pd

    if not set(target.columns) <= set(frame.columns):
        return []
    outcome = case_labels(frame, target.columns[0])
    if target.kind == "classification":
        return check_sites(frame, pd.DataFrame({"label": outcome}))
    if target.kind == "regression":
        numbers = pd.to_numeric(outcome, errors="coerce")
        return check_sites(frame, pd.DataFrame({"value": numbers}))
    happened = events_of(outcome, event_value)
    if happened is None:
        return []
    days = pd.to_numeric(case_labels(frame, "duration_days"), errors="coerce")
    return check_sites(
        frame, pd.DataFrame({"event": happened, "days": days.reindex(outcome.index)}, outcome.index)
    )


def _features(question: Question, slides: Mapping[str, str]) -> list[Issue]:
    if question.features is None:
        return []
    scan = scan_features(question.features, slides, question.expected.encoder, question.match_ids)
    missing = [slide for slide in slides if slide not in scan.files]
    near = near_ids(missing, set(scan.files).difference(slides))
    issues = check_features(scan, slides, question.expected)
    if near:
        issues.append(warning("ids", describe_near(near), near, fix="Use --match-ids loose"))
    return issues


def _published(frame: pd.DataFrame, question: Question) -> list[Issue]:
    """Check published splits against the table: leaks, and slides that one of them lacks."""
    from spade_bench.cohorts.published.splits import split_rows

    case_of = dict(zip(frame["slide_id"], frame["case_id"], strict=True))
    if question.splits is None:
        return []
    try:
        rows = split_rows(
            question.splits, question.columns, known=case_of, match_ids=question.match_ids
        )
    except UserError as problem:
        return [error("splits", problem.what, count=1, fix=problem.fix)]
    known = {
        name: [(case_of[slide], side) for slide, side in pairs if slide in case_of]
        for name, pairs in rows.items()
    }
    issues = [
        error(
            "leakage",
            f"{len(leak.cases)} case(s) stand on more than one side of {leak.split}",
            [f"{case} ({' and '.join(sides)})" for case, sides in leak.cases.items()],
            fix="Split by case, or accept them with --allow-leaky-splits, which marks every result",
        )
        for leak in find_leaks(known)
    ]
    named = {slide for pairs in rows.values() for slide, _ in pairs}
    unknown = sorted(named - set(case_of))
    if unknown:
        issues.append(
            error(
                "splits",
                f"{len(unknown)} slide(s) of the splits are not in the table",
                unknown,
                fix=describe_near(near_ids(unknown, case_of))
                or "Give the table that belongs to these splits",
            )
        )
    unused = sorted(set(case_of) - named)
    if unused:
        issues.append(note("splits", f"{len(unused)} slide(s) are in no split", unused))
    return issues
