"""Encoders x tasks at a glance: a dot plot with intervals, and a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.figures.curves import band_names, control_ranges
from spade_bench.report.leaderboard import ReportRow, leaderboard
from spade_bench.report.mainseries import main_series
from spade_bench.report.naming import metric_title, protocol_title, task_title
from spade_bench.report.pictures import (
    DOUBLE_MM,
    GREY,
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

__all__ = ["dot_pictures", "heat_pictures"]

_MAX_DOTS = 7
_MAX_TASKS, _MAX_ENCODERS = 24, 16
_SHADES = "Blues_r"  # one hue, so that it survives a photocopy; dark is good
_Grid = dict[str, list[ReportRow]]  # task -> rows of its primary metric, controls included


def dot_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a dot plot for every protocol and condition: tasks as rows, encoders as dots."""
    return [
        Picture("dot plot", ("dots", *place), partial(_dots, grid, place[0], look))
        for place, grid in _grids(series, resampler).items()
    ]


def heat_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a heat map for every protocol and condition with two encoders or more."""
    return [
        Picture("heat map", ("heat", *place), partial(_heat, grid, place[0], look))
        for place, grid in _grids(series, resampler).items()
        if len({row.encoder for rows in grid.values() for row in rows if _is_encoder(row)}) > 1
    ]


def _grids(series: Sequence[Series], resampler: Resampler) -> dict[tuple[str, ...], _Grid]:
    """Rows by (protocol, condition), then by task: of its main head, at its most shots."""
    out: dict[tuple[str, ...], _Grid] = {}
    for (task, _, protocol, *condition), shown in main_series(series, resampler).items():
        places = {one.place for one in shown}
        beside = [one for one in series if one.control and one.rows and one.place in places]
        rows = leaderboard([*shown, *beside], resampler, "primary")
        if any(_is_encoder(row) for row in rows):
            out.setdefault((protocol, *condition), {})[task] = rows
    return out


def _is_encoder(row: ReportRow) -> bool:
    return row.control in {"", "base"} and row.mean is not None


def _encoders(grid: _Grid, most: int) -> tuple[list[str], int]:
    """Encoders with the best mean place over tasks, best first, and how many are left out."""
    from spade_bench.statistics.evaluate import direction

    places: dict[str, list[int]] = {}
    for rows in grid.values():
        sign = direction(rows[0].metric) or 1
        ranked = sorted((r for r in rows if _is_encoder(r)), key=lambda r: -sign * (r.mean or 0.0))
        for place, row in enumerate(ranked):
            places.setdefault(row.encoder, []).append(place)
    best = sorted(places, key=lambda name: (sum(places[name]) / len(places[name]), name))
    return best[:most], max(0, len(best) - most)


def _title(grid: _Grid, protocol: str, hidden: int) -> str:
    rows = [row for of_task in grid.values() for row in of_task]
    shots = sorted({row.k_shot for row in rows if row.k_shot})
    words = [protocol_title(protocol), *rows[0].condition]
    words += [f"k={'/'.join(map(str, shots))}"] if shots else []
    flags = {flag for row in rows for flag in row.flags}
    return ", ".join(words) + left_out_of(flags, hidden)


def _dots(grid: _Grid, protocol: str, look: Look) -> Drawn:
    from spade_bench.statistics.evaluate import chance

    encoders, hidden = _encoders(grid, _MAX_DOTS)
    tasks = list(grid)[:_MAX_TASKS]
    wide = len(tasks) > 6
    width = DOUBLE_MM if wide else SINGLE_MM
    band = 2.0 * len(encoders) + 3.0  # millimetres per task
    legend = 3.6 * ((len(encoders) + 3) // 2)
    figure = print_figure(width, 22 + legend + band * len(tasks))
    axes = figure.add_subplot()
    numbers: list[Mapping[str, Any]] = []
    named: set[str] = set()
    bands = band_names([row for task in tasks for row in grid[task]])
    for at, task in enumerate(reversed(tasks)):
        rows = grid[task]
        common = {"task": task, "metric": rows[0].metric, "protocol": protocol}
        for (kind, _), (low, high) in control_ranges(rows).items():
            shade = "0.86" if kind == "controls" else "0.93"
            axes.fill_betweenx([at - 0.42, at + 0.42], low, high, color=shade, linewidth=1.0,
                               label=None if kind in named else bands[kind],
                               zorder=0)  # fmt: skip
            named.add(kind)
            numbers.append(
                {**common, "drawn_as": f"range of {kind}", "ci_low": low, "ci_high": high}
            )
        if (level := chance(rows[0].metric)) is not None:
            axes.plot([level, level], [at - 0.42, at + 0.42], color=GREY, linestyle=":",
                      linewidth=0.7, zorder=1,
                      label=None if "chance" in named else "chance")  # fmt: skip
            named.add("chance")
        for row in rows:
            if _is_encoder(row) and row.encoder in encoders:
                step = (encoders.index(row.encoder) + 1) / (len(encoders) + 1)
                numbers.append({**common, **_dot(axes, row, at + 0.42 - 0.84 * step, look, named)})
    for at in range(1, len(tasks)):
        axes.axhline(at - 0.5, color="0.9", linewidth=0.5, zorder=0)
    labels = [wrapped(f"{task_title(t)} ({metric_title(grid[t][0].metric)})", 0.34 * width, 6.5)
              for t in reversed(tasks)]  # fmt: skip
    axes.set_yticks(range(len(tasks)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(tasks) - 0.5)
    axes.set_xlabel("First metric of each task, 95% interval")
    figure.suptitle(wrapped(_title(grid, protocol, hidden), width - 4, 7.5))
    figure.legend(loc="outside lower center", ncols=4 if wide else 2)
    return Drawn(figure, numbers)


def _dot(axes: Any, row: ReportRow, height: float, look: Look, named: set[str]) -> dict[str, Any]:
    """Draw an encoder on a task, and return its numbers."""
    name, colour = look.name(row.encoder), look.colour(row.encoder)
    if row.ci_low is not None and row.ci_high is not None:
        axes.plot([row.ci_low, row.ci_high], [height, height], color=colour, linewidth=0.9)
    axes.plot(row.mean, height, look.marker(row.encoder), color=colour, markersize=3.2,
              label=None if row.encoder in named else name)  # fmt: skip
    named.add(row.encoder)
    return {"drawn_as": "dot", "encoder": row.encoder, "name": name, "head": row.head,
            "k_shot": row.k_shot, "mean": row.mean, "ci_low": row.ci_low,
            "ci_high": row.ci_high}  # fmt: skip


def _heat(grid: _Grid, protocol: str, look: Look) -> Drawn:
    import numpy as np

    from spade_bench.statistics.evaluate import direction

    encoders, hidden = _encoders(grid, _MAX_ENCODERS)
    tasks = list(grid)[:_MAX_TASKS]
    values = np.full((len(tasks), len(encoders)), np.nan)  # (T, E)
    for line, task in enumerate(tasks):
        for row in grid[task]:
            if _is_encoder(row) and row.encoder in encoders:
                values[line, encoders.index(row.encoder)] = row.mean
    signs = np.array([[direction(grid[task][0].metric) or 1] for task in tasks])
    behind = np.nanmax(signs * values, axis=1)[:, None] - signs * values  # (T, E), 0 is the best
    wide = len(encoders) > 4
    width = DOUBLE_MM if wide else SINGLE_MM
    names = [look.name(name) for name in encoders]
    tilted = 0.9 * max(map(len, names))  # height of the names in millimetres, turned by 45 degrees
    figure = print_figure(width, 28 + tilted + 6.0 * len(tasks))
    axes = figure.add_subplot()
    top = max(0.05, float(np.nanmax(behind)))
    shown = axes.imshow(behind, cmap=_SHADES, aspect="auto", vmin=0.0, vmax=top)
    numbers = _cells(axes, grid, encoders, tasks, behind / top, look=look)
    axes.set_xticks(range(len(encoders)), names, rotation=45, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    labels = [wrapped(f"{task_title(t)} ({metric_title(grid[t][0].metric)})", 0.33 * width, 6.5)
              for t in tasks]  # fmt: skip
    axes.set_yticks(range(len(tasks)), labels)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xticks(np.arange(1, len(encoders)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(tasks)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(shown, ax=axes, location="bottom", aspect=50, pad=0.03, shrink=0.6)
    bar.set_label("Below the best of the task (bold: best)")
    bar.outline.set_visible(False)
    figure.suptitle(wrapped(_title(grid, protocol, hidden), width - 4, 7.5))
    return Drawn(figure, numbers)


def _cells(
    axes: Any, grid: _Grid, encoders: Sequence[str], tasks: Sequence[str], behind: Floats,
    *, look: Look,
) -> list[Mapping[str, Any]]:  # fmt: skip
    """Write the value into each cell, and return the numbers.

    Args:
        axes: Where the cells lie.
        grid: Rows by task.
        encoders: Encoders, by column.
        tasks: Tasks, by line.
        behind: (T, E) shade of each cell, 0 darkest to 1.
        look: Names.
    """
    numbers: list[Mapping[str, Any]] = []
    for line, task in enumerate(tasks):
        rows = {row.encoder: row for row in grid[task] if _is_encoder(row)}
        for column, encoder in enumerate(encoders):
            row = rows.get(encoder)
            shade = float(behind[line, column])
            text = "missing" if row is None else f"{row.mean:.3f}"
            axes.text(column, line, text, ha="center", va="center", fontsize=6.5,
                      color="white" if row is not None and shade < 0.45 else "black",
                      fontweight="bold" if shade == 0 else "normal")  # fmt: skip
            numbers.append({
                "task": task, "metric": grid[task][0].metric, "encoder": encoder,
                "name": look.name(encoder), "head": row.head if row else "",
                "k_shot": row.k_shot if row else None, "mean": row.mean if row else None,
            })  # fmt: skip
    return numbers
