"""Learning curves: metric against shots, a band for the interval, one picture per task and head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.pictures import Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curve_pictures"]

_MAX_LINES = 10
_Place = tuple[str, str, tuple[str, ...]]


def curve_pictures(rows: Sequence[ReportRow]) -> list[Picture]:
    """Return a picture for every task, head and condition that was run at one shot or more.

    Args:
        rows: The leaderboard.
    """
    places: dict[_Place, list[ReportRow]] = {}
    for row in rows:
        if row.k_shot:
            places.setdefault((row.task, row.head, row.condition), []).append(row)
    return [
        Picture("learning curve", (task, head, *condition), partial(_draw, shown))
        for (task, head, condition), shown in places.items()
        if any(row.mean is not None for row in shown)
    ]


def _draw(shown: Sequence[ReportRow]) -> Figure:
    from spade_bench.statistics.evaluate import chance

    metric = shown[0].metric
    lines: dict[tuple[str, str], list[ReportRow]] = {}
    for row in shown:
        if row.metric == metric and row.mean is not None:
            lines.setdefault((row.encoder, row.control), []).append(row)
    figure = new_figure(9.0, 4.8)
    axes = figure.add_subplot()
    for (encoder, control), points in list(lines.items())[:_MAX_LINES]:
        ordered = sorted(points, key=lambda row: row.k_shot or 0)
        x = [row.k_shot or 0 for row in ordered]
        (line,) = axes.plot(
            x,
            [row.mean or 0.0 for row in ordered],
            "--" if control else "-",
            marker="o",
            markersize=3.5,
            linewidth=1.2 if control else 2.0,
            label=f"{encoder} ({control})" if control else encoder,
        )
        low = [row.mean or 0.0 if row.ci_low is None else row.ci_low for row in ordered]
        high = [row.mean or 0.0 if row.ci_high is None else row.ci_high for row in ordered]
        if not control:
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    if (level := chance(metric)) is not None:
        axes.axhline(level, color="0.6", linewidth=0.8, zorder=0)
    shots = sorted({row.k_shot or 0 for row in shown})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.set_xlabel("training cases per class")
    axes.set_ylabel(f"{metric}, mean over draws")
    simulated = any("simulated" in row.flags for row in shown)
    place = ", ".join((shown[0].task, shown[0].head, *shown[0].condition))
    axes.set_title(f"{place}{' (simulated data)' if simulated else ''}")
    figure.legend(fontsize=7, loc="outside right upper")
    return figure
