"""How long a run may take, by the cells that have finished in the same folder, or small fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spade_bench.results import Row

__all__ = ["Planned", "estimate"]

# Task, encoder, head, flags, cells, finished before.
Planned = tuple[str, str, str, str, int, int]


def estimate(
    rows: Sequence[Row],
    planned: Sequence[Planned],
    timed: Mapping[tuple[str, str], float] | None = None,
) -> float | None:
    """Seconds that the cells not yet finished may take.

    Args:
        rows: Rows of the output folder; their seconds are of fits trained together.
        planned: What would run.
        timed: (task, head) -> seconds of all its cells, from small fits, where no cell of the head
            has finished.

    Returns:
        Mean seconds of finished cells of the same head, on the same task where there are any,
        times the cells to do; None when some head has never finished a cell.
    """
    total = sum((timed or {}).values())
    for task, _, head, _, cells, finished in planned:
        if cells == finished or (task, head) in (timed or {}):
            continue
        done = [row for row in rows if row.status == "ok" and row.head == head]
        near = [row for row in done if row.task == task] or done
        if not near:
            return None
        total += (cells - finished) * sum(row.seconds for row in near) / len(near)
    return total
