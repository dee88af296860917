"""What a comparison of two encoders amounts to, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from spade_bench.report.differences import Difference, summaries

__all__ = ["verdict"]

_LEVEL = 0.05


def verdict(differences: Sequence[Difference]) -> str:
    """Say in a sentence a condition what the differences of the primary metrics amount to.

    Tasks count as won or lost after Holm's adjustment. Over six tasks or more the signed-rank test
    of the mean difference of each task is given too; with fewer it cannot fall below 0.05.
    """
    rows = summaries(differences)
    sentences = []
    for condition in dict.fromkeys(one.condition for one in rows):
        sentence = _sentence([one for one in rows if one.condition == condition])
        sentences.append(f"With {', '.join(condition)}: {sentence}" if condition else sentence)
    return "\n".join(sentences)


def _sentence(rows: Sequence[Difference]) -> str:
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
    metrics = ", ".join(dict.fromkeys(one.metric for one in rows))
    places = "comparison" if len(rows) == 1 else "comparisons"
    tasks = "1 task" if len(by_task) == 1 else f"{len(by_task)} tasks"
    tail = ""
    if len(means) >= 6:
        import numpy as np

        tail = f"; over tasks p = {signed_rank(np.array(means)).p:.3f} (Wilcoxon signed-rank)"
    return (
        f"{_lead(a, b, won, lost, len(rows))}{_marks(rows)}: {a} minus {b} is {mean:+.3f} in "
        f"{metrics} on average over {tasks}; of {len(rows)} {places} (task, head, protocol) {won} "
        f"favour {a} and {lost} {b} at 5% after Holm, {len(rows) - won - lost} are undecided{tail}."
    )


def _lead(a: str, b: str, won: int, lost: int, n: int) -> str:
    if won and not lost:
        return f"{a} is better" + ("" if won == n else " in part")
    if lost and not won:
        return f"{b} is better" + ("" if lost == n else " in part")
    return "Mixed" if won else "No clear difference"


def _marks(rows: Sequence[Difference]) -> str:
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
    return f" ({'; '.join(marks)})" if marks else ""
