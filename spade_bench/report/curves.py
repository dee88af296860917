"""Learning curves: metric against shots, a band for the interval, one picture a task and head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spade_bench.files import atomic_path
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.panels import picture_name

__all__ = ["draw_curves"]

_MAX_LINES = 10
_Place = tuple[str, str, tuple[str, ...]]


def draw_curves(rows: Sequence[ReportRow], out: Path) -> list[Path]:
    """Write a PNG for every task, head and condition that was run at one shot or more.

    Args:
        rows: The leaderboard.
        out: Folder of the pictures.

    Returns:
        The files written.
    """
    places: dict[_Place, list[ReportRow]] = {}
    for row in rows:
        if row.k_shot:
            places.setdefault((row.task, row.head, row.condition), []).append(row)
    drawn = {place: own for place, own in places.items() if any(r.mean is not None for r in own)}
    return [_draw(own, place, out) for place, own in drawn.items()]


def _draw(own: Sequence[ReportRow], place: _Place, out: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from spade_bench.statistics.evaluate import chance

    task, head, condition = place
    metric = own[0].metric
    lines: dict[tuple[str, tuple[str, ...]], list[ReportRow]] = {}
    for row in own:
        if row.metric == metric and row.mean is not None:
            shown = tuple(flag for flag in row.flags if flag.startswith("control:"))
            lines.setdefault((row.encoder, shown), []).append(row)
    figure = Figure(figsize=(9.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (encoder, flags), points in list(lines.items())[:_MAX_LINES]:
        ordered = sorted(points, key=lambda row: row.k_shot or 0)
        x = [row.k_shot or 0 for row in ordered]
        what = ", ".join(flag.removeprefix("control:") for flag in flags)
        (line,) = axes.plot(
            x,
            [row.mean or 0.0 for row in ordered],
            "--" if flags else "-",
            marker="o",
            markersize=3.5,
            linewidth=1.2 if flags else 2.0,
            label=f"{encoder} ({what})" if what else encoder,
        )
        low = [row.mean or 0.0 if row.ci_low is None else row.ci_low for row in ordered]
        high = [row.mean or 0.0 if row.ci_high is None else row.ci_high for row in ordered]
        if not flags:
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    if (level := chance(metric)) is not None:
        axes.axhline(level, color="0.6", linewidth=0.8, zorder=0)
    shots = sorted({row.k_shot or 0 for row in own})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.set_xlabel("training cases per class")
    axes.set_ylabel(f"{metric}, mean over draws")
    simulated = any("simulated" in row.flags for row in own)
    told = ", ".join((task, head, *condition))
    axes.set_title(f"{told}{' (simulated data)' if simulated else ''}")
    figure.legend(fontsize=7, loc="outside right upper")
    path = out / picture_name(task, head, *condition)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path
