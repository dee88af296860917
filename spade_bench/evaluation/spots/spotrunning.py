"""Run the tasks of expression of a run, beside those whose units are cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from spade_bench.errors import UserError
from spade_bench.evaluation.spots.spotcells import RowCells, SpotRun, row_cells
from spade_bench.evaluation.spots.spotpreparation import PreparedSpots, prepare_spots
from spade_bench.heads.spots import SpotHead, SpotOptions
from spade_bench.registry import expression_heads, kinds
from spade_bench.results import write_plan

if TYPE_CHECKING:
    from spade_bench.calibration.estimate import Planned
    from spade_bench.evaluation.request import EvaluationRequest, TaskRequest
    from spade_bench.evaluation.runcontext import Context

__all__ = ["heads_of_expression", "of_spots", "run_expression"]


def of_spots(task: TaskRequest) -> bool:
    """Whether what a task predicts is expression in spots."""
    return bool(kinds.get(task.card.kind).card.units == "spots")


def heads_of_expression(request: EvaluationRequest) -> dict[str, SpotHead]:
    """Make every head of expression that some task may use.

    Raises:
        ConfigError: When a setting of one is unknown or out of range.
    """
    names = dict.fromkeys(
        name for task in request.tasks if of_spots(task) for name in request.heads_of(task.card)
    )
    return {
        name: expression_heads.get(name).load(SpotOptions(request.settings.set.get(name, {})))
        for name in names
        if name in expression_heads
    }


def run_expression(
    request: EvaluationRequest,
    task: TaskRequest,
    made: Mapping[str, SpotHead],
    context: Context,
) -> tuple[PreparedSpots, list[Planned]]:
    """Run a task of expression; finished cells are skipped, failing ones recorded.

    Args:
        request: The run.
        task: The task.
        made: Heads of expression by name.
        context: What all tasks of the run share.

    Returns:
        The task as it was prepared, and what was run, or would be.

    Raises:
        UserError: When no head serves it, or its sections or all encoders cannot be used.
    """
    names = [name for name in request.heads_of(task.card) if name in made]
    if not names:
        raise UserError(
            f"head '{', '.join(request.heads_of(task.card))}' does not serve expression",
            where=f"task {task.card.name}",
            fix=f"Use {', '.join(expression_heads.names())}",
        )
    heads = {name: made[name] for name in names}
    prepared = prepare_spots(request, task)
    every = row_cells(prepared, heads, request.settings.seed)
    index, shards = request.shard
    todo = every[index::shards]
    planned = [_planned(one, context) for one in todo]
    if not request.dry_run:
        write_plan(request.out, prepared.card.name, _ids(every))
        SpotRun(prepared, heads, context).run(todo)
    return prepared, planned


def _ids(every: list[RowCells]) -> dict[str, list[str]]:
    """Run ids of encoders and controls with each head."""
    out: dict[str, list[str]] = {}
    for one in every:
        ids = [cell.run_id for cell in one.cells]
        out.setdefault(f"{one.row.variant.label}, {one.head}", []).extend(ids)
    return out


def _planned(one: RowCells, context: Context) -> Planned:
    return (
        one.cells[0].task,
        one.row.variant.label,
        one.head,
        ", ".join(one.cells[0].flags),
        len(one.cells),
        sum(cell.run_id in context.finished for cell in one.cells),
    )
