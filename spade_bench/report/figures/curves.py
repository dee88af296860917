"""Learning curves: metric against shots, a band for the interval, one picture per task and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.naming import encoder_title, head_title, metric_title, task_title
from spade_bench.report.pictures import (
    GREY,
    SINGLE_MM,
    Drawn,
    Look,
    Picture,
    left_out_of,
    print_figure,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["band_names", "control_ranges", "curve_pictures"]

_MAX_LINES = 7
_Place = tuple[str, str, tuple[str, ...]]
_BANDS = {"controls": "0.86", "permuted labels": "0.93"}


def curve_pictures(rows: Sequence[ReportRow], look: Look) -> list[Picture]:
    """Return a picture for every task, head and condition that was run at one shot or more.

    Args:
        rows: The leaderboard.
        look: Names and colours.
    """
    places: dict[_Place, list[ReportRow]] = {}
    for row in rows:
        if row.k_shot:
            places.setdefault((row.task, row.head, row.condition), []).append(row)
    return [
        Picture("learning curve", (task, head, *condition), partial(_draw, shown, look))
        for (task, head, condition), shown in places.items()
        if any(row.mean is not None for row in shown)
    ]


def control_ranges(rows: Sequence[ReportRow]) -> dict[tuple[str, int], tuple[float, float]]:
    """Lowest and highest mean of the controls by (`controls` or `permuted labels`, shots).

    A base that stands as a control is an encoder like others, and no part of the range.

    Args:
        rows: Rows of one task, head, protocol and metric.
    """
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if (kind := _band(row)) and row.mean is not None:
            found.setdefault((kind, row.k_shot or 0), []).append(row.mean)
    return {key: (min(values), max(values)) for key, values in found.items()}


def band_names(rows: Sequence[ReportRow]) -> dict[str, str]:
    """What the legend calls each range of controls: where it holds a single one, by its name.

    Args:
        rows: Rows of which some are controls.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        if (kind := _band(row)) and row.mean is not None:
            found.setdefault(kind, set()).add((row.control, row.control_of or row.encoder))
    return {
        kind: encoder_title("", next(iter(controls))[0])
        if len(controls) == 1
        else f"{kind}, lowest to highest"
        for kind, controls in found.items()
    }


def _band(row: ReportRow) -> str:
    """The range that a row is part of, in the words of `_BANDS`; empty for encoders."""
    if row.control in {"", "base"}:
        return ""
    return "permuted labels" if row.control == "permuted-labels" else "controls"


def _draw(shown: Sequence[ReportRow], look: Look) -> Drawn:
    from spade_bench.statistics.evaluate import chance, direction

    metric = shown[0].metric
    of_metric = [row for row in shown if row.metric == metric and row.mean is not None]
    lines: dict[str, list[ReportRow]] = {}
    for row in of_metric:
        if row.control in {"", "base"}:
            lines.setdefault(row.encoder, []).append(row)
    sign = direction(metric) or 1
    best = sorted(lines, key=lambda name: -sign * _mean(lines[name]))
    kept = sorted(best[:_MAX_LINES])
    figure = print_figure(SINGLE_MM, 62 + 3.4 * ((len(kept) + 3) // 2))
    axes = figure.add_subplot()
    numbers: list[Mapping[str, Any]] = []
    for encoder in kept:
        numbers += _line(axes, encoder, lines[encoder], look)
    numbers += _bands(axes, control_ranges(of_metric), band_names(of_metric))
    if (level := chance(metric)) is not None:
        axes.axhline(level, color=GREY, linewidth=0.7, linestyle=":", zorder=0, label="chance")
        numbers.append({"drawn_as": "chance", "metric": metric, "mean": level})
    shots = sorted({row.k_shot or 0 for row in of_metric})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()
    axes.set_xlabel("Training cases per class")
    axes.set_ylabel(f"{metric_title(metric)}, mean over draws")
    flags = {flag for row in shown for flag in row.flags}
    place = ", ".join((task_title(shown[0].task), head_title(shown[0].head), *shown[0].condition))
    axes.set_title(wrapped(place + left_out_of(flags, len(lines) - len(kept)), SINGLE_MM - 8))
    figure.legend(loc="outside lower center", ncols=2)
    common = {"task": shown[0].task, "head": shown[0].head, "metric": metric}
    return Drawn(figure, [{**common, **row} for row in numbers])


def _mean(rows: Sequence[ReportRow]) -> float:
    return sum(row.mean or 0.0 for row in rows) / len(rows)


def _line(
    axes: Axes, encoder: str, points: Sequence[ReportRow], look: Look
) -> list[Mapping[str, Any]]:
    """Draw an encoder with its band, and return its numbers."""
    ordered = sorted(points, key=lambda row: row.k_shot or 0)
    x = [row.k_shot or 0 for row in ordered]
    colour, name = look.colour(encoder), look.name(encoder)
    axes.plot(x, [row.mean or 0.0 for row in ordered], color=colour, marker=look.marker(encoder),
              label=name)  # fmt: skip
    known = [row for row in ordered if row.ci_low is not None and row.ci_high is not None]
    axes.fill_between(
        [row.k_shot or 0 for row in known],
        [row.ci_low or 0.0 for row in known],
        [row.ci_high or 0.0 for row in known],
        color=colour, alpha=0.13, linewidth=0,
    )  # fmt: skip
    return [
        {"drawn_as": "line", "encoder": encoder, "name": name, "k_shot": row.k_shot,
         "mean": row.mean, "ci_low": row.ci_low, "ci_high": row.ci_high}
        for row in ordered
    ]  # fmt: skip


def _bands(
    axes: Axes,
    ranges: Mapping[tuple[str, int], tuple[float, float]],
    names: Mapping[str, str],
) -> list[Mapping[str, Any]]:
    """Draw the range of the controls, and return its numbers."""
    numbers: list[Mapping[str, Any]] = []
    for kind, shade in _BANDS.items():
        shots = sorted(k for name, k in ranges if name == kind)
        if not shots:
            continue
        low, high = zip(*(ranges[kind, k] for k in shots), strict=True)
        axes.fill_between(shots, low, high, color=shade, linewidth=1.0, zorder=0,
                          label=names[kind])  # fmt: skip
        numbers += [
            {"drawn_as": f"range of {kind}", "k_shot": k, "ci_low": a, "ci_high": b}
            for k, a, b in zip(shots, low, high, strict=True)
        ]
    return numbers
