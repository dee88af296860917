"""Encoders over all tasks: mean rank with its interval, and a signed-rank test against the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.series import Place, Series, latest
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Cell = tuple[float, Floats]

__all__ = ["OverallRow", "TaskScores", "as_report_rows", "over_several_tasks", "overall",
           "task_scores"]  # fmt: skip


@dataclass(frozen=True)
class OverallRow:
    """One encoder over the tasks that all encoders of a protocol have finished.

    Attributes:
        encoder: Label of the encoder.
        protocol: Protocol.
        rank: Mean rank over tasks, 1 is best; on each task by the primary metric, averaged over
            the heads and shots that all encoders have.
        ci_low: Lower end of its 95% interval over tasks and test cases.
        ci_high: Upper end.
        p_best: Two-sided p of Wilcoxon's signed-rank test over tasks against the encoder with the
            best mean rank; None for that encoder itself.
        tasks: Tasks that counted.
        left_out: Tasks that did not, because some encoder has no result there.
        n_cases: Test cases of the tasks that counted.
        flags: Flags of the encoder on any of these tasks.
        condition: Cases, splits, seed or settings where the folder holds several, in words.
        control: `base` for a base that stands as a control on some of these tasks, else empty.
        control_of: Label of the encoder beside which it stands.
    """

    encoder: str
    protocol: str
    rank: float
    ci_low: float
    ci_high: float
    p_best: float | None
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    n_cases: int
    flags: tuple[str, ...]
    condition: tuple[str, ...] = ()
    control: str = ""
    control_of: str = ""


def overall(series: Sequence[Series], resampler: Resampler) -> list[OverallRow]:
    """Rank encoders over tasks, protocol by protocol and condition by condition.

    Encoders and the bases that stand as their controls take part; other controls do not.

    Returns:
        Rows by protocol and condition, best mean rank first; none for one with a single encoder
        or no task that all have finished.
    """
    return [row for scores in task_scores(series, resampler) for row in _ranked(scores, resampler)]


def over_several_tasks(rows: Sequence[OverallRow]) -> list[OverallRow]:
    """Return the mean ranks over two tasks or more: over one they are the leaderboard again."""
    return [row for row in rows if len(row.tasks) > 1]


@dataclass(frozen=True)
class TaskScores:
    """Scores of encoders on the tasks that all of them have finished, of one protocol.

    Attributes:
        protocol: Protocol.
        condition: Cases, splits, seed or settings where the folder holds several, in words.
        labels: Labels of the E encoders.
        tasks: Names of the T tasks that count.
        left_out: Tasks that do not, because some encoder has no result there.
        scores: (E, T) primary metric, mean over the heads and shots that all encoders have, turned
            so that more is better.
        boot: (E, T, B) the same on resamples of the test cases.
        series: The series that took part.
    """

    protocol: str
    condition: tuple[str, ...]
    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    scores: Floats
    boot: Floats
    series: tuple[Series, ...]


def task_scores(series: Sequence[Series], resampler: Resampler) -> list[TaskScores]:
    """Score encoders and the bases that stand as their controls on each task.

    Returns:
        One for each protocol and condition that has two encoders or more and a task that all have
        finished.
    """
    taking = [one for one in series if _takes_part(one)]
    out = []
    for protocol, condition in dict.fromkeys((one.protocol, one.condition) for one in taking):
        alike = [one for one in taking if (one.protocol, one.condition) == (protocol, condition)]
        found = _scored(protocol, condition, alike, resampler)
        out += [found] if found is not None else []
    return out


def as_report_rows(rows: Sequence[OverallRow]) -> list[ReportRow]:
    """Write mean ranks as rows of the leaderboard: task `overall`, metric `mean_rank`."""
    return [
        ReportRow(
            encoder=row.encoder,
            task="overall",
            head="all",
            protocol=row.protocol,
            k_shot=None,
            metric="mean_rank",
            mean=row.rank,
            ci_low=row.ci_low,
            ci_high=row.ci_high,
            n_cases=row.n_cases,
            n_draws=len(row.tasks),
            flags=(f"tasks:{len(row.tasks)}", *row.flags),
            condition=row.condition,
            control=row.control,
            control_of=row.control_of,
        )
        for row in rows
    ]


def _takes_part(one: Series) -> bool:
    return not one.control or one.control == "base"


def _scored(
    protocol: str, condition: tuple[str, ...], series: Sequence[Series], resampler: Resampler
) -> TaskScores | None:
    import numpy as np

    labels = sorted({one.encoder for one in series})
    tasks = sorted({one.task for one in series})
    cells = {task: _task([s for s in series if s.task == task], labels, resampler)
             for task in tasks}  # fmt: skip
    counted = [task for task in tasks if cells[task] is not None]
    if len(labels) < 2 or not counted:
        return None
    table = [cells[task] or {} for task in counted]
    scores = np.array([[row[label][0] for row in table] for label in labels])  # (E, T)
    boot = np.array([[row[label][1] for row in table] for label in labels])  # (E, T, B)
    return TaskScores(
        protocol=protocol,
        condition=condition,
        labels=tuple(labels),
        tasks=tuple(counted),
        left_out=tuple(task for task in tasks if task not in counted),
        scores=scores,
        boot=np.where(np.isfinite(boot), boot, scores[:, :, None]),
        series=tuple(series),
    )


def _ranked(found: TaskScores, resampler: Resampler) -> list[OverallRow]:
    from spade_bench.statistics.ranks import mean_ranks, signed_rank

    ranks = mean_ranks(found.scores, found.boot, seed=resampler.seed)
    best = int(ranks.rank.argmin())
    n_cases = sum(
        max(resampler.cases(s) for s in found.series if s.task == task and s.rows)
        for task in found.tasks
    )
    counting = {label: [s for s in found.series if s.encoder == label and s.task in found.tasks]
                for label in found.labels}  # fmt: skip
    out = [
        OverallRow(
            encoder=label,
            protocol=found.protocol,
            rank=float(ranks.rank[i]),
            ci_low=float(ranks.low[i]),
            ci_high=float(ranks.high[i]),
            p_best=None if i == best else signed_rank(found.scores[best] - found.scores[i]).p,
            tasks=found.tasks,
            left_out=found.left_out,
            n_cases=n_cases,
            flags=_flags(counting[label]),
            condition=found.condition,
            control=max(s.control for s in counting[label]),
            control_of=max(s.control_of for s in counting[label]),
        )
        for i, label in enumerate(found.labels)
    ]
    return sorted(out, key=lambda row: (row.rank, row.encoder))


def _task(
    series: Sequence[Series], labels: Sequence[str], resampler: Resampler
) -> dict[str, Cell] | None:
    """Score of each encoder on one task with its resamples; None when an encoder has none."""
    import numpy as np

    from spade_bench.statistics.evaluate import direction

    by_place: dict[Place, dict[str, Series]] = {}
    for (place, encoder), one in latest(series).items():
        by_place.setdefault(place, {})[encoder] = one
    shared = [encoders for encoders in by_place.values() if set(encoders) == set(labels)]
    # Where there are ensembles of fold models, they stand for cross-validation.
    ensembles = [encoders for encoders in shared if next(iter(encoders.values())).place.part]
    shared = ensembles or shared
    if not shared:
        return None
    metric = next(iter(shared[0].values())).metrics[0]
    sign = direction(metric) or 1
    out: dict[str, Cell] = {}
    for label in labels:
        of_label = [resampler.values(place[label], metric) for place in shared]
        plain = float(np.mean([values.plain.mean() for values in of_label]))
        if not np.isfinite(plain):
            return None
        boots = [resampler.centre(place[label], metric) for place in shared]
        out[label] = sign * plain, sign * np.mean(boots, axis=0)
    return out


def _flags(series: Sequence[Series]) -> tuple[str, ...]:
    """Flags of any series that concern the encoder, not its place."""
    flags = dict.fromkeys(flag for one in series for flag in one.flags)
    return tuple(flag for flag in flags if flag != "ensemble" and not flag.startswith("inputs:"))
