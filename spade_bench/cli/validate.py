"""`spade-bench validate`: check a table, its features and its splits before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spade_bench.cli.options import (
    CaseColumn,
    DaysColumn,
    EventColumn,
    EventValue,
    JsonOption,
    LabelColumn,
    MatchIds,
    SlideColumn,
)

if TYPE_CHECKING:
    from spade_bench.cohorts.checks.featurefiles import Expected
    from spade_bench.cohorts.checks.validation import Question, Validation
    from spade_bench.types import TaskCard

__all__ = ["validate"]


def validate(
    table: Annotated[
        Path | None,
        typer.Option(help="Cohort table: case_id, slide_id and label, or event, duration_days."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Folder of features. Without it only the table is checked.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Task the table is for: its classes are checked. Default: by columns."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the features: its name and width are checked.")
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="Published splits: a Patho-Bench task folder or CLAM split files."),
    ] = None,
    case_column: CaseColumn = None,
    slide_column: SlideColumn = None,
    label_column: LabelColumn = None,
    event_column: EventColumn = None,
    days_column: DaysColumn = None,
    match_ids: MatchIds = None,
    event_value: EventValue = None,
    write_table: Annotated[
        Path | None,
        typer.Option(help="Write the table with event = 1 where it happened; needs --event-value."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a cohort table and its features; exit code 2 when something must be fixed."""
    from spade_bench import registry, workspace
    from spade_bench.cohorts.checks.validation import Question, validate_cohort
    from spade_bench.cohorts.columns import COLUMN_FIELDS, columns_of, with_columns
    from spade_bench.features.slideids import check_match
    from spade_bench.memory import without_cycle_search
    from spade_bench.types import TaskCard

    check_match(match_ids)
    card = _card(task)
    where = _from_workspace(card, encoder, table, features)
    columns = {} if table is not None else _columns_of_workspace(card)
    flags = (case_column, slide_column, label_column, event_column, days_column, event_value)
    given = dict(zip(COLUMN_FIELDS, flags, strict=True))
    columns |= {name: value for name, value in given.items() if value}
    card_or_any = with_columns(card or TaskCard("", "", "", ""), columns)
    if where[0] is None:
        raise workspace.need("the cohort table", "--table CSV")
    question = Question(
        table=where[0],
        features=where[1],
        splits=splits,
        kind="" if card is None else str(registry.kinds.get(card.kind).card.head_kind),
        label_column=card_or_any.label_column,
        columns=columns_of(card_or_any),
        match_ids=match_ids or "exact",
        classes=card.classes if card else (),
        plausible=card.plausible if card else (),
        unit=card.measured_in if card else "",
        event_value=card_or_any.event_value or None,
        event_declared=event_value is None or event_column is not None,
        expected=_expected(encoder),
    )
    if write_table is not None:
        _rewrite(question, write_table)
        return
    with without_cycle_search():  # what is found of each slide stays to the end
        result = validate_cohort(question)
    if as_json:
        from spade_bench import console

        console.emit_json("validate", result.to_dict())
    else:
        _print(result, question)
    if not result.ok:
        raise typer.Exit(2)


def _card(task: str | None) -> TaskCard | None:
    from spade_bench import registry

    return None if task is None else registry.tasks.get(task).card


def _columns_of_workspace(card: TaskCard | None) -> dict[str, str]:
    """What the workspace says of the columns of a task's table."""
    from spade_bench import workspace
    from spade_bench.cohorts.columns import said_columns

    space = workspace.load()
    if space is None or card is None or card.cohort not in space.cohorts:
        return {}
    return said_columns(space.cohorts[card.cohort])


def _from_workspace(
    card: TaskCard | None, encoder: str | None, table: Path | None, features: Path | None
) -> tuple[Path | None, Path | None]:
    """Fill in from the workspace file what flags leave out."""
    from spade_bench import workspace

    space = workspace.load()
    if space is None or card is None or card.cohort not in space.cohorts:
        return table, features
    entry = space.cohorts[card.cohort]
    if table is None:
        table = space.resolve(entry.tables.get(card.name))
    if features is None and encoder is not None:
        features = space.resolve(entry.features.get(encoder))
    return table, features


def _expected(encoder: str | None) -> Expected:
    """What the registry knows of the encoder; any name is accepted."""
    from spade_bench import registry
    from spade_bench.cohorts.checks.featurefiles import Expected

    known = encoder is not None and encoder in registry.encoders
    return Expected(encoder, registry.encoders.get(encoder).card.dim if known and encoder else None)


def _rewrite(question: Question, out: Path) -> None:
    from spade_bench import console
    from spade_bench.cohorts.checks.validation import rewrite_events
    from spade_bench.files import atomic_path

    frame = rewrite_events(question)
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False, encoding="utf-8")
    console.say(f"wrote {out}: event = 1 in {int((frame['event'] == '1').sum())} rows")


def _print(result: Validation, question: Question) -> None:
    from spade_bench import console

    rows = [
        (issue.severity, issue.check, issue.count, issue.sentence, issue.fix)
        for issue in result.issues
    ]
    console.table(f"{question.table}", ("severity", "check", "n", "finding", "what to do"), rows)
    counts = result.to_dict()["n"]
    console.emit(
        f"{counts['error']} to fix, {counts['warning']} to look at, {counts['note']} to know"
    )
