"""What a comparison of two encoders amounts to, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spade_bench.report.differences import Difference, summaries
from spade_bench.report.naming import encoder_title, metric_title

__all__ = ["Verdict", "verdict", "verdicts"]

_LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """What a comparison amounts to within one condition.

    Attributes:
        condition: What the compared rows share and others do not, in words; mostly empty.
        lead: The answer in a few words.
        marks: What a reader of these few words must not miss, such as `simulated data`.
        detail: The numbers behind it.
        won: Comparisons that favour the first encoder at 5% after Holm.
        lost: Comparisons that favour the second one.
    """

    condition: tuple[str, ...]
    lead: str
    marks: tuple[str, ...]
    detail: str
    won: int
    lost: int

    def __str__(self) -> str:
        marks = f" ({'; '.join(self.marks)})" if self.marks else ""
        sentence = f"{self.lead}{marks}: {self.detail}"
        return f"With {', '.join(self.condition)}: {sentence}" if self.condition else sentence


def verdict(differences: Sequence[Difference]) -> str:
    """Say in a sentence a condition what the differences of the primary metrics amount to.

    See :func:`verdicts`.
    """
    return "\n".join(map(str, verdicts(differences)))


def verdicts(differences: Sequence[Difference]) -> list[Verdict]:
    """Say for each condition what the differences of the primary metrics amount to.

    Tasks count as won or lost after Holm's adjustment. Over six tasks or more the signed-rank test
    of the mean difference of each task is given too; with fewer it cannot fall below 0.05.

    Args:
        differences: Differences of one pair of encoders.
    """
    rows = summaries(differences)
    return [
        _of_condition([one for one in rows if one.condition == condition])
        for condition in dict.fromkeys(one.condition for one in rows)
    ]


def _of_condition(rows: Sequence[Difference]) -> Verdict:
    from spade_bench.statistics.evaluate import direction
    from spade_bench.statistics.ranks import signed_rank

    a, b = rows[0].a, rows[0].b
    by_task: dict[str, list[float]] = {}
    for one in rows:
        by_task.setdefault(one.task, []).append((direction(one.metric) or 1) * one.mean)
    means = [sum(values) / len(values) for values in by_task.values()]
    mean = sum(means) / len(means)
    clear = [one for one in rows if one.p_adjusted is not None and one.p_adjusted < _LEVEL]
    won = sum(one.better == a for one in clear)
    lost = sum(one.better == b for one in clear)
    metrics = ", ".join(dict.fromkeys(metric_title(one.metric) for one in rows))
    first, second = encoder_title(a), encoder_title(b)
    places = "comparison" if len(rows) == 1 else "comparisons"
    tasks = "1 task" if len(by_task) == 1 else f"{len(by_task)} tasks"
    tail = ""
    if len(means) >= 6:
        import numpy as np

        tail = f"; over tasks p = {signed_rank(np.array(means)).p:.3f} (Wilcoxon signed-rank)"
    return Verdict(
        condition=rows[0].condition,
        lead=_lead(first, second, won, lost, len(rows)),
        marks=_marks(rows),
        detail=f"{first} minus {second} is {mean:+.3f} in {metrics} on average over {tasks}; of "
        f"{len(rows)} {places} (task, head, protocol) {won} favour {first} and {lost} {second} at "
        f"5% after Holm, "
        f"{len(rows) - won - lost} are undecided{tail}.",
        won=won,
        lost=lost,
    )


def _lead(a: str, b: str, won: int, lost: int, n: int) -> str:
    if won and not lost:
        return f"{a} is better" + ("" if won == n else " in part")
    if lost and not won:
        return f"{b} is better" + ("" if lost == n else " in part")
    return "Mixed" if won else "No clear difference"


def _marks(rows: Sequence[Difference]) -> tuple[str, ...]:
    """What a reader of the one sentence must not miss."""
    marks = []
    if any("simulated" in one.flags for one in rows):
        marks.append("simulated data")
    seen = {flag for one in rows for flag in one.flags if flag.startswith("contamination:")}
    if seen - {"contamination:unknown"}:
        marks.append("contaminated: see flags")
    elif seen:
        marks.append("contamination unknown")
    if any("leaky" in flag for one in rows for flag in one.flags):
        marks.append("leaky splits")
    return tuple(marks)
