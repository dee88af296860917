"""Predicted against true values of regression tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.mainseries import main_series
from spade_bench.report.pictures import (
    DOUBLE_MM,
    GREY,
    SINGLE_MM,
    Drawn,
    Look,
    Picture,
    described,
    panels,
    wrapped,
)
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["mean_predictions", "scatter_pictures"]


def scatter_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a picture for every task of values and protocol: a panel per encoder's main head.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions and resamples cases.
        look: Names and colours.
    """
    return [
        Picture("scatter plot", (*place, "scatter"), partial(_draw, shown, resampler, look))
        for place, shown in main_series(series, resampler).items()
        if resampler.predictions(shown[0].rows[0]).kind == "regression"
    ]


def mean_predictions(one: Series, resampler: Resampler) -> tuple[tuple[str, ...], Floats, Floats]:
    """Return the test cases of a series, their true values and the mean prediction of each."""
    import numpy as np

    truth: dict[str, float] = {}
    said: dict[str, list[float]] = {}
    for row in one.rows:
        predictions = resampler.predictions(row)
        rows = zip(predictions.case_ids, predictions.target, predictions.scores[:, 0], strict=True)
        for case, value, predicted in rows:
            truth[case] = float(value)
            said.setdefault(case, []).append(float(predicted))
    cases = tuple(sorted(truth))
    means = np.array([np.mean(said[case]) for case in cases])
    return cases, np.array([truth[case] for case in cases]), means


def _draw(shown: Sequence[Series], resampler: Resampler, look: Look) -> Drawn:
    import numpy as np

    figure, grid = panels(len(shown), height_mm=60)
    found = [mean_predictions(one, resampler) for one in shown[: len(grid)]]
    values = np.concatenate([part for _, truth, said in found for part in (truth, said)])
    low, high = float(values.min()), float(values.max())
    room = 0.04 * ((high - low) or 1.0)
    ends = (low - room, high + room)
    unit = _unit(shown[0].task)
    numbers: list[dict[str, Any]] = []
    for axes, one, (cases, truth, said) in zip(grid, shown, found, strict=False):
        axes.plot(ends, ends, color=GREY, linewidth=0.7, zorder=0)
        axes.scatter(truth, said, s=6, alpha=0.55, linewidths=0, color=look.colour(one.encoder))
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_aspect("equal")
        axes.set_xlabel(f"True value{unit}, a dot per test case")
        axes.set_title(f"{look.name(one.encoder)}\n{_numbers(one, resampler)}")
        numbers += [
            {"task": one.task, "head": one.head, "protocol": one.protocol, "encoder": one.encoder,
             "name": look.name(one.encoder), "case_id": case, "value": value, "predicted": mean}
            for case, value, mean in zip(cases, truth, said, strict=True)
        ]  # fmt: skip
    grid[0].set_ylabel(f"Predicted value{unit}")
    width = SINGLE_MM if len(grid) == 1 else DOUBLE_MM
    figure.suptitle(wrapped(described(shown), width - 4, 7.5))
    return Drawn(figure, numbers)


def _unit(task: str) -> str:
    """The unit that the task's card names, in brackets behind a space; empty where none is."""
    from spade_bench.registry import tasks

    unit = tasks.get(task).card.measured_in if task in tasks.names() else ""
    return f" ({unit})" if unit else ""


def _numbers(one: Series, resampler: Resampler) -> str:
    """Correlation with its interval and mean absolute error, as in the tables."""
    import math

    words = []
    if "pearson" in one.metrics and (r := resampler.interval(one, "pearson")) is not None:
        ends = f" [{r.low:.2f}, {r.high:.2f}]" if math.isfinite(r.low) else ""
        words.append(f"r {r.mean:.2f}{ends}")
    if "mae" in one.metrics and (error := resampler.interval(one, "mae")) is not None:
        words.append(f"MAE {error.mean:.3g}")
    return ", ".join(words)
