"""`spade-bench run`: encoders on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spade_bench.cli.options import (
    AllowMissingOption,
    AsIsOption,
    CaseColumn,
    DaysColumn,
    DeviceOption,
    EventColumn,
    EventValue,
    ExecutorOption,
    GpusOption,
    LabelColumn,
    MatchIds,
    PositiveOption,
    RayAddressOption,
    RayOption,
    RegionNameOption,
    RegionShareOption,
    RegionsOption,
    ScriptOption,
    SetOption,
    SlideColumn,
    SlurmOption,
    TrustOption,
    WorkerCount,
    config_help,
    parse_shard,
    paths_by_name,
)

if TYPE_CHECKING:
    from spade_bench.evaluation import EvaluationRequest, EvaluationSettings, RunSummary

__all__ = ["run"]


def run(
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="Encoder, or LABEL=ENCODER. May be repeated. Any name with --features."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Named task, task card (.yaml), patho-bench:PATH, hest:PATH, or with --table any "
            "name. Repeatable."
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
        Path | None,
        typer.Option(help=config_help("spade")),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="few-shot, cv, external or leave-site-out; of expression official, "
            "leave-one-patient-out or leave-one-section-out. Default: few-shot; external with "
            "--test-table; the published splits' own; of expression by patient."
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
    preserve_sites: Annotated[
        bool | None,
        typer.Option(
            "--preserve-sites",
            help="cv: keep sites whole and spread the classes evenly over folds, by search.",
        ),
    ] = None,
    select: Annotated[
        bool | None,
        typer.Option("--select", help="Choose from the head's grid, on training cases only."),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(help="CLAM split files over the table: folder, or TASK=DIR. Repeatable."),
    ] = None,
    bench_root: Annotated[
        Path | None,
        typer.Option(help="Folder of HEST-Bench, whose task folders hest:TASK names."),
    ] = None,
    test_table: Annotated[
        list[str] | None, typer.Option(help="Cohort to test on (csv), or TASK=CSV. Repeatable.")
    ] = None,
    test_features: Annotated[
        list[str] | None,
        typer.Option(help="Its features folder, or ENCODER=DIR, where it has one of its own."),
    ] = None,
    regions: RegionsOption = None,
    region_name: RegionNameOption = None,
    region_share: RegionShareOption = None,
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
    allow_missing: AllowMissingOption = False,
    allow_leaky_splits: Annotated[
        bool | None,
        typer.Option("--allow-leaky-splits", help="Accept splits that leak, and flag every row."),
    ] = None,
    positive: PositiveOption = None,
    as_is: AsIsOption = False,
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
            help="Whose fitted heads to keep for `explain`: none, folds (of cv) or all. Where it "
            "is given, finished cells whose head is missing or damaged are trained again for it. "
            "Default: folds, of the cells that run."
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What the run may take, such as 4GB: half for features in memory, half for "
            "training. A larger cohort is read in part in every epoch, and fewer fits train at "
            "once, which changes numbers by rounding. Default: 8GB; of a GPU, most of what is free."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="What may lie beside the features in .spade-bench for later runs: digests "
            "(default; a small index), copy (also fast copies of files that read slowly, on at "
            "most a quarter of the free disk), off. Unless off, what an encoder like spade makes "
            "of the features is kept there too (32 GB; SPADE_BENCH_CACHE_SIZE)."
        ),
    ] = None,
    set_: SetOption = None,
    executor: ExecutorOption = None,
    workers: WorkerCount = None,
    gpus: GpusOption = None,
    ray_address: RayAddressOption = None,
    ray: RayOption = None,
    slurm: SlurmOption = None,
    script: ScriptOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results. Default: the workspace's.")
    ] = None,
) -> None:
    """Run encoders on tasks and store every result; the same command again continues."""
    settings = _settings(dict(locals()))
    from spade_bench import evaluation as runner
    from spade_bench import spreading
    from spade_bench import workspace as ws
    from spade_bench.evaluation.resolve import resolve
    from spade_bench.evaluation.settings import read_settings
    from spade_bench.executors import executor_settings

    if config is not None:
        settings = settings.over(read_settings(config))
    where = executor_settings(
        executor,
        workers=workers,
        gpus=gpus,
        ray_address=ray_address,
        ray=ray,
        slurm=slurm,
        script=script,
    )
    space, part = ws.load(), parse_shard(shard) or (0, 1)
    request = resolve(settings, space, shard=part, dry_run=dry_run)
    if where is None or dry_run:
        _finish(request, runner.run(request), None if where is None else where.workers)
        return
    summary = spreading.run_spread(settings, space, where, shard=part)
    if not where.script:
        _finish(request, summary, others="workers that ended early or other runs")


_NO_SETTINGS = (
    *("config", "shard", "dry_run"),
    *("executor", "workers", "gpus", "ray_address", "ray", "slurm", "script"),
)
# Flags whose field has another name: what may be repeated is one flag and several values.
_FIELDS = {
    "encoder": "encoders",
    "task": "tasks",
    "region_name": "region_names",
    "head": "heads",
    "table": "tables",
    "test_table": "test_tables",
    "set_": "set",
}
_PATHS = ("table", "features", "weights", "test_table", "test_features", "splits")


def _settings(flags: dict[str, Any]) -> EvaluationSettings:
    """Settings from flags as typer read them, by parameter."""
    from spade_bench.config import parse_set
    from spade_bench.evaluation.settings import EvaluationSettings

    for name in _NO_SETTINGS:
        del flags[name]
    for name in _PATHS:
        flags[name] = paths_by_name(flags[name], f"--{name.replace('_', '-')}")
    flags["shots"] = _shots(flags["shots"])
    flags["set_"] = parse_set(flags["set_"] or [])
    for name in ("trust_remote_code", "allow_missing", "as_is"):  # there is no flag that denies
        flags[name] = flags[name] or None
    fields = {_FIELDS.get(name, name): value for name, value in flags.items()}
    return EvaluationSettings.of(fields, "flags")


def _shots(text: str | None) -> tuple[int, ...]:
    from spade_bench.errors import UserError

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"cannot read '{text}'", where="--shots", fix="Write 1,2,4,8")
    return tuple(map(int, parts))


def _finish(
    request: EvaluationRequest,
    summary: RunSummary,
    workers: int | None = None,
    others: str = "other runs",
) -> None:
    from spade_bench import console
    from spade_bench.errors import UserError

    if request.dry_run:
        columns = ("task", "encoder", "head", "flags", "cells", "finished")
        console.table("would run", columns, summary.planned)
        todo = sum(row[4] - row[5] for row in summary.planned)
        console.say(
            f"{todo} cells to run, {sum(row[5] for row in summary.planned)} finished; "
            f"{_duration(summary, workers)}"
        )
    else:
        beside = f"{summary.elsewhere} by {others} meanwhile, " if summary.elsewhere else ""
        console.say(
            f"{summary.done} cells done, {beside}{summary.skipped} finished before, "
            f"{summary.failed} failed; see them with `spade-bench report {request.out}`"
        )
    if summary.keeper is not None:
        summary.keeper.check()
    if summary.failed or summary.first_error:
        # Why was said when it happened.
        if request.dry_run:
            raise UserError("not everything can run, see the warnings above")
        raise UserError(
            f"{summary.failed} cell(s) failed, see the warnings above",
            where=str(request.out / "results.jsonl"),
            fix="The others are stored; run the same command again to retry the failed ones",
        )


def _duration(summary: RunSummary, workers: int | None) -> str:
    """How long it may take, and how that is known."""
    seconds = summary.seconds
    if seconds is None:
        return "no estimate of the time before a first cell of each head of expression has finished"
    how = "as finished cells took"
    if summary.timed:
        timed = sum(summary.timed.values())
        how = "by small fits on this machine" if timed == seconds else f"{how}, and by small fits"
    if workers is not None and workers > 1:
        shared = f"{_words(seconds / workers)} for {workers}"
        return f"about {_words(seconds)} for one worker, {shared}, {how}"
    return f"about {_words(seconds)}, {how}"


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
