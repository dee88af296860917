"""Run every cell that is not done yet, and store it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spade_bench import console
from spade_bench.calibration.estimate import Planned, estimate
from spade_bench.device import resolve_device, setup_numerics
from spade_bench.errors import UserError
from spade_bench.evaluation.cells import VariantCells, variant_cells
from spade_bench.evaluation.encoderfeatures import check_declared
from spade_bench.evaluation.hyperparameters import INNER_FOLDS, grid_of, ranking_metric
from spade_bench.evaluation.keptheads import HeadKeeper
from spade_bench.evaluation.request import EvaluationRequest, TaskRequest
from spade_bench.evaluation.runcontext import Context
from spade_bench.evaluation.settingchecks import check_request
from spade_bench.evaluation.settings import EvaluationSettings, from_workspace
from spade_bench.evaluation.spots.spotrunning import heads_of_expression, of_spots, run_expression
from spade_bench.evaluation.storedsettings import store_config
from spade_bench.evaluation.taskcells import TaskRun
from spade_bench.evaluation.taskpreparation import PreparedTask, prepare
from spade_bench.features.bagmemory import BagMemory, bag_bytes
from spade_bench.features.bags import FeatureFolders
from spade_bench.files import hash_obj
from spade_bench.heads import Head, HeadOptions
from spade_bench.heads.spots import SpotHead
from spade_bench.registry import heads, kinds
from spade_bench.results import Finished, ResultStore, Row, environment, write_plan
from spade_bench.results.rows import now

__all__ = ["RunSummary", "run"]


@dataclass
class RunSummary:
    """What a run did, or would do.

    Attributes:
        done: Cells that finished in this run.
        skipped: Cells that had been finished before.
        elsewhere: Cells that other runs of the folder, or workers that died, finished meanwhile.
        failed: Cells that failed, here or meanwhile in other runs of the folder.
        failed_meanwhile: Those of them that others tried.
        first_error: What went wrong first.
        planned: (task, encoder, head, flags, cells, finished before) of every row; a cell that is
            trained again for its head counts as not finished.
        keeper: Stored the fitted heads.
        seconds: Estimate of what is left to do; only for a dry run, None where nothing is known.
        timed: (task, head) -> seconds of its cells, from small fits; only for a dry run.
    """

    done: int = 0
    skipped: int = 0
    elsewhere: int = 0
    failed: int = 0
    failed_meanwhile: int = 0
    first_error: str = ""
    planned: list[Planned] = field(default_factory=list)
    keeper: HeadKeeper | None = None
    seconds: float | None = None
    timed: dict[tuple[str, str], float] = field(default_factory=dict)


def run(request: EvaluationRequest) -> RunSummary:
    """Run what was asked for; finished cells are skipped, failing ones recorded.

    Raises:
        UserError: When a head or the only task or encoder asked for cannot be used at all.
    """
    check_request(request)
    device = resolve_device(request.settings.device)
    setup_numerics(device)
    check_declared(request)
    made, of_expression = _make_heads(request, str(device)), heads_of_expression(request)
    store = ResultStore(request.out)
    rows = store.rows()
    for problem in store.problems:
        console.warn(f"{problem} It is left where it is and not counted")
    # The default never trains anything again: results without heads are whole to most users.
    said = request.given.over(from_workspace(request.workspace)).said()
    keeper = HeadKeeper(store.out, request.settings.keep_heads, made, again="keep_heads" in said)
    context = Context(
        store,
        Finished(store.out, rows),
        str(device),
        group_by_site=_keeps_sites(request.settings),
        keeper=keeper,
        memory=BagMemory(bag_bytes(request.settings.memory)),
        seat=request.seat,
    )
    summary, folders = RunSummary(keeper=keeper), FeatureFolders()
    stored = request.dry_run
    for task in request.tasks:
        if of_spots(task):
            if not stored:
                store_config(request, {**made, **of_expression})
                stored = True
            _run_spots(request, task, of_expression, context, summary)
            continue
        fitting = _fitting(task, request, made)
        try:
            if not fitting:
                raise _no_head(task, request.settings.heads)
            prepared = prepare(request, task, folders)
        except UserError as error:
            if len(request.tasks) == 1:
                raise
            _task_failed(request, task, fitting or request.settings.heads, context, error)
            continue
        if not stored:
            store_config(request, {**made, **of_expression})
            stored = True
        _run_task(request, prepared, fitting, context, summary)
    keeper.summarise(alone=request.seat[1] == 1)
    summary.done, summary.skipped = context.done, context.skipped
    summary.elsewhere = context.elsewhere
    summary.failed, summary.failed_meanwhile = context.failed, context.failed_meanwhile
    summary.first_error = context.first_error
    if request.dry_run:
        summary.seconds = estimate(store.rows(), summary.planned, summary.timed)
    return summary


def _keeps_sites(settings: EvaluationSettings) -> bool:
    """Whether inner folds keep sites whole, as the outer ones do."""
    whole = settings.group_by_site or settings.preserve_sites
    return whole or settings.protocol == "leave-site-out"


def _run_spots(
    request: EvaluationRequest,
    task: TaskRequest,
    made: Mapping[str, SpotHead],
    context: Context,
    summary: RunSummary,
) -> None:
    """Run a task of expression; one of several tasks that cannot run is recorded."""
    try:
        prepared, planned = run_expression(request, task, made, context)
    except UserError as error:
        if len(request.tasks) == 1:
            raise
        _task_failed(request, task, request.heads_of(task.card), context, error)
        return
    summary.planned += planned
    if request.dry_run:
        _say_unusable(context, prepared.rows.unusable)
    elif request.is_first:
        for label, text in prepared.rows.unusable:
            _unprepared(
                context,
                text,
                task=prepared.card.name,
                labels=[label],
                names=[name for name in request.heads_of(task.card) if name in made],
                protocol=prepared.episodes[0].protocol,
                seed=request.settings.seed,
            )


def _run_task(
    request: EvaluationRequest,
    prepared: PreparedTask,
    fitting: Mapping[str, Head],
    context: Context,
    summary: RunSummary,
) -> None:
    grids = {}
    if request.settings.select:
        grids = {n: grid_of(h, request.settings.set.get(n, {})) for n, h in fitting.items()}
    for name, grid in grids.items():
        if not grid:
            console.say(f"head {name} leaves nothing to select")
    context.grids = {name: grid for name, grid in grids.items() if grid}
    metric = ranking_metric(prepared.kind, prepared.card)
    chosen_by = {name: [grid, metric, INNER_FOLDS] for name, grid in context.grids.items()}
    index, shards = request.shard
    settings = request.settings
    every = variant_cells(prepared, fitting, settings.seed, chosen_by, settings.permutations)
    todo = every[index::shards]
    summary.planned += [_planned(row, context) for row in todo]
    finished = [cell for row in todo for cell in row.cells if cell.run_id in context.finished]
    again = sum(not context.is_done(cell) for cell in finished)
    if again:
        console.say(f"{again} finished cells are trained again to keep their heads")
    if request.dry_run:
        known = {row.head for row in context.store.rows() if row.status == "ok"}
        fresh = [row for row in todo if row.head not in known]
        with console.progress(f"Timing small fits of {prepared.card.name}"):
            seconds = TaskRun(prepared, fitting, context).timed(fresh)
        summary.timed |= {(prepared.card.name, head): value for head, value in seconds.items()}
        _say_unusable(context, prepared.unusable)
        return
    write_plan(request.out, prepared.card.name, _planned_cells(every))
    if prepared.unusable and request.is_first:
        _encoders_failed(prepared, fitting, request.settings.seed, context)
    TaskRun(prepared, fitting, context).run(todo)


def _planned_cells(every: Sequence[VariantCells]) -> dict[str, list[str]]:
    """Run ids of encoders and controls with each head."""
    out: dict[str, list[str]] = {}
    for row in every:
        ids = [cell.run_id for cell in row.cells]
        out.setdefault(f"{row.variant.label}, {row.head}", []).extend(ids)
    return out


def _planned(row: VariantCells, context: Context) -> Planned:
    return (
        row.cells[0].task,
        row.variant.label,
        row.head,
        ", ".join(row.cells[0].flags),
        len(row.cells),
        sum(map(context.is_done, row.cells)),
    )


def _make_heads(request: EvaluationRequest, device: str) -> dict[str, Head]:
    """Every head that some task may use."""
    names = dict.fromkeys(
        name
        for task in request.tasks
        if not of_spots(task)
        for name in request.heads_of(task.card)
        if name in heads
    )
    return {
        name: heads.get(name).load(
            HeadOptions(device, request.settings.set.get(name, {}), request.settings.memory)
        )
        for name in names
    }


def _fitting(
    task: TaskRequest, request: EvaluationRequest, made: Mapping[str, Head]
) -> dict[str, Head]:
    """Heads that serve the task's kind; without any asked for, its default head."""
    wanted = kinds.get(task.card.kind).card.head_kind
    names = request.heads_of(task.card)
    return {n: made[n] for n in names if n in made and wanted in made[n].card.kinds}


def _no_head(task: TaskRequest, asked: Sequence[str]) -> UserError:
    wanted = kinds.get(task.card.kind).card.head_kind
    serving = [plugin.name for plugin in heads if wanted in plugin.card.kinds]
    return UserError(
        f"head '{', '.join(asked)}' does not serve {wanted}",
        where=f"task {task.card.name}",
        fix=f"Use {', '.join(serving)}",
    )


def _task_failed(
    request: EvaluationRequest,
    task: TaskRequest,
    names: Sequence[str] | Mapping[str, Head],
    context: Context,
    error: UserError,
) -> None:
    """Record that a task of several cannot run; the others go on."""
    console.warn(f"task {task.card.name} failed: {error}")
    if request.dry_run:
        context.first_error = context.first_error or str(error)
    elif request.is_first:
        _unprepared(
            context,
            str(error),
            task=task.card.name,
            labels=[encoder.label for encoder in request.encoders],
            names=names,
            protocol=request.settings.protocol or "few-shot",
            seed=request.settings.seed,
        )


def _encoders_failed(
    prepared: PreparedTask, names: Mapping[str, Head], seed: int, context: Context
) -> None:
    for label, text in prepared.unusable:
        _unprepared(
            context,
            text,
            task=prepared.card.name,
            labels=[label],
            names=names,
            protocol=prepared.episodes[0].protocol,
            seed=seed,
        )


def _say_unusable(context: Context, unusable: Sequence[tuple[str, str]]) -> None:
    """Let a dry run end like the run, which stores a failed row of each of these encoders."""
    for _, text in unusable:
        context.first_error = context.first_error or text


def _unprepared(
    context: Context,
    text: str,
    *,
    task: str,
    labels: Sequence[str],
    names: Sequence[str] | Mapping[str, Head],
    protocol: str,
    seed: int,
) -> None:
    """Rows of cells whose inputs were never known: one an encoder and head, without inputs."""
    rows = [
        Row(
            run_id=hash_obj(["unprepared", task, label, name, protocol, seed]),
            status="failed",
            encoder=label,
            task=task,
            head=name,
            protocol=protocol,
            seed=seed,
            env=environment(context.device),
            created_utc=now(),
            error=text,
        )
        for label in labels
        for name in names
    ]
    context.store.append(rows)
    context.failed += len(rows)
    context.first_error = context.first_error or text
