"""Cross-validation: every fold as a point, the mean with its interval, the ensemble beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from spade_bench.report.caveats import known
from spade_bench.report.naming import head_title, metric_title, task_title
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

__all__ = ["fold_pictures"]

_LINE_MM, _MAX_ROWS = 6.0, 24


def fold_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a picture for every task and head of cross-validation: a row per encoder or control.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions and resamples cases.
        look: Names and colours.
    """
    places: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        if one.protocol == "cv" and one.rows:
            places.setdefault((one.task, one.head, *one.condition), []).append(one)
    return [
        Picture("cross-validation picture", (*place, "cv"), partial(_draw, shown, resampler, look))
        for place, shown in places.items()
    ]


def _draw(shown: Sequence[Series], resampler: Resampler, look: Look) -> Drawn:
    from spade_bench.statistics.evaluate import chance, direction

    metric = shown[0].metrics[0]
    sign = direction(metric) or 1
    value = {
        _key(one): sign * float(resampler.values(one, metric).plain.mean())
        for one in shown
        if "ensemble" not in one.flags
    }
    rows = sorted(value, key=lambda key: (bool(key[1]), -value[key]))[:_MAX_ROWS]
    place = {key: len(rows) - 1 - i for i, key in enumerate(rows)}
    longest = max(len(look.name(*key)) for key in rows)
    figure = print_figure(SINGLE_MM if longest < 34 else DOUBLE_MM, 26 + _LINE_MM * len(rows))
    axes = figure.add_subplot()
    numbers: list[dict[str, Any]] = []
    for one in shown:
        if _key(one) in place:
            numbers += _row(axes, one, metric, place[_key(one)], resampler=resampler, look=look)
    if (level := chance(metric)) is not None:
        axes.axvline(level, color=GREY, linewidth=0.7, linestyle=":", zorder=0)
    axes.set_yticks([place[key] for key in rows], [look.name(*key) for key in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    ensembles = any(row["drawn_as"] == "ensemble" for row in numbers)
    marks = f"mean and 95% interval; points: folds{'; diamonds: ensemble' * ensembles}"
    width = float(figure.get_figwidth()) * 25.4
    axes.set_xlabel(wrapped(f"{metric_title(metric)}, {marks}", 0.62 * width))
    words = (task_title(shown[0].task), head_title(shown[0].head), *shown[0].condition)
    flags = {flag for one in shown for flag in one.flags}
    n = len({row.fold for one in shown for row in one.rows} - {None})
    title = f"{', '.join(words)}, {n}-fold cross-validation"
    mark = left_out_of(flags, len(value) - len(rows))
    figure.suptitle(wrapped(title + mark, width - 4, 7.5))
    return Drawn(figure, numbers)


def _key(one: Series) -> tuple[str, str, str]:
    return one.encoder, one.control, one.control_of


def _row(
    axes: Any, one: Series, metric: str, height: int, *, resampler: Resampler, look: Look
) -> list[dict[str, Any]]:
    """Draw one encoder or control, and return its numbers."""
    import numpy as np

    values = resampler.values(one, metric).plain  # (D,)
    interval = resampler.interval(one, metric)
    plain = not one.control or one.control == "base"
    colour = look.colour(one.encoder) if plain else "0.45"
    common = {"task": one.task, "head": one.head, "metric": metric, "encoder": one.encoder,
              "name": look.name(*_key(one)), "control": one.control}  # fmt: skip
    mean = float(np.mean(values))
    low, high = (known(interval.low), known(interval.high)) if interval else (None, None)
    if "ensemble" in one.flags:
        axes.plot(mean, height + 0.3, "D", color=colour, markersize=2.5, markerfacecolor="white",
                  markeredgewidth=0.7, zorder=3)  # fmt: skip
        return [{**common, "drawn_as": "ensemble", "value": mean, "ci_low": low, "ci_high": high}]
    axes.plot(values, np.full(len(values), height - 0.27), "o", color=colour, markersize=2.4,
              alpha=0.5, markeredgewidth=0)  # fmt: skip
    if low is not None:
        axes.plot([low, high], [height, height], color=colour, linewidth=1.2)
    axes.plot(
        mean, height, look.marker(one.encoder) if plain else "|", color=colour, markersize=4.5
    )
    folds = [
        {**common, "drawn_as": "fold", "draw": row.draw, "fold": row.fold, "value": float(value)}
        for row, value in zip(one.rows, values, strict=True)
    ]
    return [
        {**common, "drawn_as": "mean", "value": mean, "ci_low": low, "ci_high": high},
        *folds,
    ]
