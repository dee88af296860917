"""`spade-bench run`: encoders on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spade_bench.cli.options import DeviceOption, TrustOption, parse_named_paths, parse_shard
from spade_bench.cli.tableoptions import (
    CaseColumn,
    DaysColumn,
    EventColumn,
    EventValue,
    LabelColumn,
    MatchIds,
    SlideColumn,
)

if TYPE_CHECKING:
    from spade_bench.evaluation import RunRequest, RunSummary

__all__ = ["run"]


def run(
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="Encoder, or LABEL=ENCODER. May be repeated. Any name with --features."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Named task, task card (.yaml), patho-bench:PATH, or with --table any name. "
            "Repeatable."
        ),
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="Cohort table (csv), or TASK=CSV. Repeatable.")
    ] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="Features folder, or ENCODER=DIR. Repeatable.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file or folder, or LABEL=PATH. Repeatable.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="Head. May be repeated. Default: the one of the kind of task."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Sweep (yaml): encoders, tasks, heads and settings.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="few-shot, cv or external. Default: few-shot; external with --test-table; the "
            "published splits' own."
        ),
    ] = None,
    shots: Annotated[
        str | None, typer.Option(help="Training cases per class, such as 1,2,4,8.")
    ] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="Draws per number of shots.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Folds of cv. Default: 5.")] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="How often the folds of cv are drawn. Default: 1.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(help="Share of cases that cv holds out for the ensemble of fold models."),
    ] = None,
    group_by_site: Annotated[
        bool | None,
        typer.Option("--group-by-site", help="cv: keep the cases of a site on one side."),
    ] = None,
    select: Annotated[
        bool | None,
        typer.Option("--select", help="Choose from the head's grid, on training cases only."),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(help="CLAM split files over the table: folder, or TASK=DIR. Repeatable."),
    ] = None,
    test_table: Annotated[
        list[str] | None, typer.Option(help="Cohort to test on (csv), or TASK=CSV. Repeatable.")
    ] = None,
    test_features: Annotated[
        list[str] | None,
        typer.Option(help="Its features folder, or ENCODER=DIR, where it has one of its own."),
    ] = None,
    case_column: CaseColumn = None,
    slide_column: SlideColumn = None,
    label_column: LabelColumn = None,
    event_column: EventColumn = None,
    days_column: DaysColumn = None,
    event_value: EventValue = None,
    match_ids: MatchIds = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    controls: Annotated[
        bool | None,
        typer.Option("--controls/--no-controls", help="Run the controls beside encoders."),
    ] = None,
    permutations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How often the permuted-labels control shuffles the labels of each training set. "
            "Default: 5 where a fit is cheap, else 1.",
        ),
    ] = None,
    allow_missing: Annotated[
        bool | None,
        typer.Option("--allow-missing", help="Leave out slides and labels that are missing."),
    ] = None,
    allow_leaky_splits: Annotated[
        bool | None,
        typer.Option("--allow-leaky-splits", help="Accept splits that leak, and flag every row."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="The positive one of a task's two classes.")
    ] = None,
    as_is: Annotated[
        bool | None,
        typer.Option("--as-is", help="Take files that name another encoder; flag every row."),
    ] = None,
    pretrained_on: Annotated[
        list[str] | None,
        typer.Option(
            help="What an encoder outside the registry saw in pretraining: TCGA,CPTAC or none, or "
            "ENCODER=TCGA. Repeatable."
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: every n-th row of the table, from the i-th (1-based).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long, and stop.")
    ] = False,
    keep_heads: Annotated[
        str | None,
        typer.Option(
            help="Whose fitted heads to keep for `explain`: none, folds (of cv) or all. "
            "Default: folds."
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What training may take, such as 4GB; never changes the numbers."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of a head or encoder: logistic.C=0.5. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results. Default: the workspace's.")
    ] = None,
) -> None:
    """Run encoders on tasks and store every result; the same command again continues."""
    from spade_bench import evaluation as runner
    from spade_bench import workspace as ws
    from spade_bench.config import parse_set
    from spade_bench.evaluation.settings import Asked, read_asked, to_request

    asked = Asked(
        encoders=tuple(encoder or ()),
        tasks=tuple(task or ()),
        heads=tuple(head or ()),
        tables=_paths(table, "--table"),
        features=_paths(features, "--features"),
        weights=_paths(weights, "--weights"),
        test_tables=_paths(test_table, "--test-table"),
        test_features=_paths(test_features, "--test-features"),
        splits=_paths(splits, "--splits"),
        case_column=case_column,
        slide_column=slide_column,
        label_column=label_column,
        event_column=event_column,
        days_column=days_column,
        event_value=event_value,
        match_ids=match_ids,
        protocol=protocol,
        shots=_shots(shots),
        draws=draws,
        folds=folds,
        repeats=repeats,
        holdout=holdout,
        group_by_site=group_by_site,
        select=select,
        seed=seed,
        controls=controls,
        permutations=permutations,
        allow_missing=allow_missing,
        allow_leaky_splits=allow_leaky_splits,
        trust_remote_code=trust_remote_code or None,
        device=device,
        memory=memory,
        positive=positive,
        as_is=as_is,
        pretrained_on=tuple(pretrained_on) if pretrained_on else None,
        keep_heads=keep_heads,
        set=parse_set(set_ or []),
        out=out,
    )
    if config is not None:
        asked = asked.over(read_asked(config))
    request = to_request(asked, ws.load(), shard=parse_shard(shard) or (0, 1), dry_run=dry_run)
    _finish(request, runner.run(request))


def _paths(values: list[str] | None, option: str) -> dict[str, Path]:
    """Paths by name; the one without a name stands under `*`."""
    named, other = parse_named_paths(values, option)
    return named if other is None else {**named, "*": other}


def _shots(text: str | None) -> tuple[int, ...]:
    from spade_bench.errors import UserError

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"cannot read '{text}'", where="--shots", fix="Write 1,2,4,8")
    return tuple(sorted({int(part) for part in parts}))


def _finish(request: RunRequest, summary: RunSummary) -> None:
    from spade_bench import console
    from spade_bench.errors import UserError

    if request.dry_run:
        columns = ("task", "encoder", "head", "flags", "cells", "finished")
        console.table("would run", columns, summary.planned)
        todo = sum(row[4] - row[5] for row in summary.planned)
        console.say(
            f"{todo} cells to run, {sum(row[5] for row in summary.planned)} finished; "
            f"{_duration(summary.seconds)}"
        )
    else:
        console.say(
            f"{summary.done} cells done, {summary.skipped} finished before, {summary.failed} "
            f"failed; see them with `spade-bench report {request.out}`"
        )
    if summary.failed or summary.first_error:
        # Why was said when it happened.
        if request.dry_run:
            raise UserError("not everything can run, see the warnings above")
        raise UserError(
            f"{summary.failed} cell(s) failed, see the warnings above",
            where=str(request.out / "results.jsonl"),
            fix="The others are stored; run the same command again to retry the failed ones",
        )


def _duration(seconds: Any) -> str:
    if seconds is None:
        return "no estimate of the time before a first cell of each head has finished here"
    if seconds < 120:
        return f"about {seconds:.0f} s, as finished cells took"
    return f"about {seconds / 60:.0f} min, as finished cells took"
