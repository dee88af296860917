"""Options that say what a table's columns are called, alike in every command that reads one."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "CaseColumn",
    "DaysColumn",
    "EventColumn",
    "EventValue",
    "LabelColumn",
    "MatchIds",
    "SlideColumn",
]

CaseColumn = Annotated[
    str | None, typer.Option("--case-column", help="Column of the case. Default: case_id.")
]
SlideColumn = Annotated[
    str | None, typer.Option("--slide-column", help="Column of the slide. Default: slide_id.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Column of the label. Default: the task's.")
]
EventColumn = Annotated[
    str | None, typer.Option("--event-column", help="Column of the event. Default: event.")
]
DaysColumn = Annotated[
    str | None,
    typer.Option("--days-column", help="Column of the days. Default: duration_days."),
]
EventValue = Annotated[
    str | None,
    typer.Option(
        "--event-value",
        help="Value of the event column that means it happened: 1 to confirm the table, 0 where "
        "1 stands for censored.",
    ),
]
MatchIds = Annotated[
    str | None,
    typer.Option(
        "--match-ids",
        help="exact, or loose: slides and files match also without .svs or .h5, leading zeros "
        "and case.",
    ),
]
