"""Rank diagram (Demšar, 2006): mean ranks over tasks; a bar joins what no test tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.naming import protocol_title
from spade_bench.report.overall import TaskScores, overall, task_scores
from spade_bench.report.pictures import (
    DOUBLE_MM,
    INK,
    SINGLE_MM,
    Drawn,
    Look,
    Picture,
    left_out_of,
    print_figure,
    wrapped,
)
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Undecided", "rank_pictures", "undecided"]

_LEVEL = 0.05
_MAX_ENCODERS = 20
_LETTER_MM = 1.3  # of a name in 6.5 points


@dataclass(frozen=True)
class Undecided:
    """Which encoders the tasks do not tell apart.

    Attributes:
        p: (E, E) p of the signed-rank test of each pair over tasks, adjusted by Holm over pairs;
            1 on the diagonal.
        groups: The largest sets of encoders of which no pair differs, by position; every pair that
            does not differ is in one of them, and none that differs.
    """

    p: Floats
    groups: tuple[tuple[int, ...], ...]


def undecided(scores: Floats) -> Undecided:
    """Test every pair of encoders over tasks.

    Args:
        scores: (E, T) score of each encoder on each task.
    """
    import numpy as np

    from spade_bench.statistics.multiplicity import holm
    from spade_bench.statistics.ranks import signed_rank

    n = len(scores)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    raw = np.array([signed_rank(scores[i] - scores[j]).p for i, j in pairs])
    p = np.ones((n, n))
    for (i, j), value in zip(pairs, holm(raw), strict=True):
        p[i, j] = p[j, i] = value
    return Undecided(p, tuple(sorted(_cliques(p >= _LEVEL))))


def _cliques(alike: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """All largest sets of two or more whose members are alike pairwise (Bron and Kerbosch)."""
    n = len(alike)
    near = [{j for j in range(n) if j != i and alike[i, j]} for i in range(n)]
    found: list[tuple[int, ...]] = []

    def grow(chosen: set[int], open_: set[int], closed: set[int]) -> None:
        if not open_ and not closed and len(chosen) > 1:
            found.append(tuple(sorted(chosen)))
        pivot = max(open_ | closed, key=lambda i: len(near[i] & open_), default=None)
        for i in sorted(open_ - (near[pivot] if pivot is not None else set())):
            grow(chosen | {i}, open_ & near[i], closed & near[i])
            open_, closed = open_ - {i}, closed | {i}

    grow(set(), set(range(n)), set())
    return found


def rank_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a picture for every protocol and condition with two tasks or more that all finished.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions and resamples cases.
        look: Names and colours.
    """
    return [
        Picture(
            "rank diagram",
            ("ranks", found.protocol, *found.condition),
            partial(_draw, found, resampler, look),
        )
        for found in task_scores(series, resampler)
        if len(found.tasks) > 1
    ]


def _draw(found: TaskScores, resampler: Resampler, look: Look) -> Drawn:
    every = [row for row in overall(found.series, resampler)
             if (row.protocol, row.condition) == (found.protocol, found.condition)]  # fmt: skip
    rows = every[:_MAX_ENCODERS]
    tested = undecided(found.scores)
    place = {label: i for i, label in enumerate(found.labels)}
    shown = {place[row.encoder] for row in rows}
    groups = [[i for i in group if i in shown] for group in tested.groups]
    groups = [group for group in groups if len(group) > 1]
    names = [f"{look.name(row.encoder)} ({row.rank:.2f})" for row in rows]
    half = (len(rows) + 1) // 2
    sides = [
        _LETTER_MM * max(map(len, side), default=0) + 4 for side in (names[:half], names[half:])
    ]
    width = SINGLE_MM if sum(sides) + 28 <= SINGLE_MM and len(rows) <= 10 else DOUBLE_MM
    flags = {flag for row in rows for flag in row.flags}
    words = ", ".join((protocol_title(found.protocol), *found.condition))
    mark = left_out_of(flags, len(every) - len(rows))
    title = wrapped(f"Mean rank over {len(found.tasks)} tasks, {words}{mark}", width - 4)
    note = wrapped(_note(len(found.tasks), len(found.labels)), width - 4, 6.5)
    line = -(8.0 + 3.2 * (1 + title.count("\n")))
    height = -line + 5.5 + 4.2 * half + 2.2 * len(groups) + 3.2 * (1 + note.count("\n"))
    figure = print_figure(width, height)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    figure.set_layout_engine("none")
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(-height, 0)
    rank = {row.encoder: row.rank for row in rows}
    scale = _Scale(1, max(2, len(found.labels)), left=sides[0], right=width - sides[1])
    _axis(axes, scale, line)
    axes.text(width / 2, -1.5, title, ha="center", va="top")
    bars = _bars(axes, groups, [rank[found.labels[i]] if i in shown else 0.0
                                for i in range(len(found.labels))], scale, line)  # fmt: skip
    for at, (row, name) in enumerate(zip(rows, names, strict=True)):
        left = at < half
        level = line - 0.8 - bars - 4.2 * (at + 1 if left else len(rows) - at)
        _entry(axes, name, row.rank, scale=scale, line=line, level=level, left=left,
               colour=look.colour(row.encoder))  # fmt: skip
    axes.text(width / 2, -height + 1.2, note, ha="center", va="bottom", fontsize=6.5, color=INK)
    return Drawn(figure, _numbers(found, tested, every, look))


def _note(tasks: int, encoders: int) -> str:
    """What the bars mean, and whether the test could have told any pair apart.

    The least p of the signed-rank test is that of one sign on all tasks, 2 / 2**tasks; Holm takes
    the least of all pairs times their number.
    """
    pairs = encoders * (encoders - 1) // 2
    few = ""
    if 2 / 2**tasks * pairs >= _LEVEL:
        among = f" and {pairs} pairs" if pairs > 1 else ""
        few = f"; with {tasks} tasks{among} it cannot fall below {_LEVEL}"
    return f"Bars join encoders with p ≥ {_LEVEL} (signed-rank test over tasks, Holm{few})"


def _numbers(
    found: TaskScores, tested: Undecided, rows: Sequence[Any], look: Look
) -> list[dict[str, Any]]:
    place = {label: i for i, label in enumerate(found.labels)}
    return [
        {
            "encoder": row.encoder, "name": look.name(row.encoder), "protocol": found.protocol,
            "mean_rank": row.rank, "ci_low": row.ci_low, "ci_high": row.ci_high,
            "groups": " ".join(str(n + 1) for n, group in enumerate(tested.groups)
                               if place[row.encoder] in group),
            **{f"p against {other.encoder}": float(tested.p[place[row.encoder],
                                                            place[other.encoder]])
               for other in rows},
        }
        for row in rows
    ]  # fmt: skip


@dataclass(frozen=True)
class _Scale:
    """Where a rank lies, in millimetres; the best is at the left."""

    first: float
    last: float
    left: float
    right: float

    def __call__(self, rank: float) -> float:
        share = (rank - self.first) / (self.last - self.first)
        return self.left + share * (self.right - self.left)


def _axis(axes: Any, scale: _Scale, line: float) -> None:
    axes.plot([scale.left, scale.right], [line, line], color="black", linewidth=0.8)
    last = int(scale.last)
    for rank in range(1, last + 1):
        axes.plot([scale(rank)] * 2, [line, line + 1.2], color="black", linewidth=0.8)
        if last <= 10 or rank in {1, last} or rank % 5 == 0:
            axes.text(scale(rank), line + 1.6, str(rank), ha="center", va="bottom", fontsize=6.5)


def _bars(
    axes: Any, groups: Sequence[Sequence[int]], rank: Sequence[float], scale: _Scale, line: float
) -> float:
    """Draw a bar per group with a dot at each member; return the height they take."""
    for n, group in enumerate(groups):
        level = line - 2.0 - 2.2 * n
        at = sorted(scale(rank[i]) for i in group)
        axes.plot([at[0] - 0.6, at[-1] + 0.6], [level] * 2, color="0.35", linewidth=2.2,
                  solid_capstyle="round")  # fmt: skip
        axes.plot(at, [level] * len(at), "o", color="white", markersize=1.6)
    return 2.2 * len(groups)


def _entry(
    axes: Any,
    name: str,
    rank: float,
    *,
    scale: _Scale,
    line: float,
    level: float,
    left: bool,
    colour: str,
) -> None:
    """Draw a line from a rank on the axis down and out to the encoder's name."""
    end = scale.left - 2.0 if left else scale.right + 2.0
    axes.plot([scale(rank), scale(rank), end], [line, level, level], color=colour, linewidth=0.8,
              zorder=0)  # fmt: skip
    axes.text(end + (-0.8 if left else 0.8), level, name,
              ha="right" if left else "left", va="center", fontsize=6.5)  # fmt: skip
    axes.plot(scale(rank), line, "o", color=colour, markersize=2.5, markerfacecolor=colour)
