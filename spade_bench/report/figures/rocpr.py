"""ROC and precision-recall curves of binary tasks, means over draws or folds with 95% bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.mainseries import main_series
from spade_bench.report.pictures import (
    GREY,
    SINGLE_MM,
    Drawn,
    Look,
    Picture,
    described,
    print_figure,
    wrapped,
)
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["KINDS", "Band", "mean_curve", "rocpr_pictures"]

KINDS = {"roc": ("ROC picture", "auroc"), "pr": ("precision-recall picture", "auprc")}
"""Kind of curve -> what its picture is called, and the metric that is the area below it."""

_MAX_LINES = 6
_GRID = 101


@dataclass(frozen=True)
class Band:
    """A curve with its 95% interval at each place.

    Attributes:
        x: (G,) false-positive rate, or recall.
        mean: (G,) mean over rows of the true-positive rate, or of the precision.
        low: (G,) lower end.
        high: (G,) upper end.
        prevalence: Share of positives in the test cases.
    """

    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    prevalence: float


def rocpr_pictures(
    kind: str, series: Sequence[Series], resampler: Resampler, look: Look
) -> list[Picture]:
    """Return a picture for every binary task and protocol: all encoders, with their main head.

    Args:
        kind: `roc` or `pr`.
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions and resamples cases.
        look: Names and colours.
    """
    return [
        Picture(KINDS[kind][0], (*place, kind), partial(_draw, kind, shown, resampler, look))
        for place, shown in main_series(series, resampler).items()
        if len(resampler.predictions(shown[0].rows[0]).classes) == 2
    ]


def mean_curve(kind: str, series: Series, resampler: Resampler) -> Band:
    """Average the curves of all rows at fixed places, with a band over draws and cases.

    The band is made as intervals of means are: cases are resampled, and the chance of the draws
    is added; over folds it holds the resampled cases alone.

    Args:
        kind: `roc` or `pr`.
        series: A series of a binary task with finished rows.
        resampler: Reads predictions and resamples cases.
    """
    import numpy as np

    from spade_bench.statistics.intervals import with_draws
    from spade_bench.statistics.resampledcurves import on_grid

    of_rows = [resampler.predictions(row) for row in series.rows]
    x = np.linspace(0, 1, _GRID)
    values = np.empty((len(of_rows), _GRID))  # (D, G)
    centre = np.zeros((resampler.n_boot, _GRID))  # (B, G)
    within = np.zeros(_GRID)
    for at, one in enumerate(of_rows):
        weights = resampler.weights(one)  # (B, n)
        counts = np.concatenate([np.ones((1, weights.shape[1])), weights])  # (1 + B, n)
        found = on_grid(kind, one.target == 1, one.scores[:, 1], counts, x)  # (1 + B, G)
        values[at] = found[0]
        centre += found[1:]
        within += _whole(found[1:]).var(axis=0)
    centre /= len(of_rows)
    within /= len(of_rows)
    if all(one.case_ids == of_rows[0].case_ids for one in of_rows):
        centre = with_draws(values, centre, within, resampler.seed)
    mean = values.mean(axis=0)
    low, high = np.clip(np.quantile(_whole(centre), [0.025, 0.975], axis=0), 0, 1)  # (G,) each
    return Band(
        x=x,
        mean=mean,
        low=np.minimum(low, mean),
        high=np.maximum(high, mean),
        prevalence=float(np.concatenate([one.target == 1 for one in of_rows]).mean()),
    )


def _whole(sampled: Floats) -> Floats:
    """Curves of the resamples that have both classes; of the others all places are NaN."""
    import numpy as np

    known = np.isfinite(sampled[:, 0])  # (B,)
    return sampled[known] if known.any() and not known.all() else sampled


def _draw(kind: str, shown: Sequence[Series], resampler: Resampler, look: Look) -> Drawn:
    metric = KINDS[kind][1]
    known = [one for one in shown if metric in one.metrics]
    score = {one.encoder: resampler.values(one, metric).plain.mean() for one in known}
    ranked = sorted(shown, key=lambda one: -score.get(one.encoder, 0.0))[:_MAX_LINES]
    positive = resampler.predictions(shown[0].rows[0]).classes[1]
    figure = print_figure(SINGLE_MM, 76 + 3.6 * len(ranked))
    axes = figure.add_subplot()
    numbers: list[Mapping[str, Any]] = []
    for one in ranked:
        curve = mean_curve(kind, one, resampler)
        _line(axes, one, curve, _label(one, metric, resampler, look), look)
        numbers += [
            {"task": one.task, "head": one.head, "protocol": one.protocol, "encoder": one.encoder,
             "name": look.name(one.encoder), "x": curve.x[i], "mean": curve.mean[i],
             "ci_low": curve.low[i], "ci_high": curve.high[i]}
            for i in range(len(curve.x))
        ]  # fmt: skip
        if kind == "pr":
            axes.axhline(curve.prevalence, color=GREY, linewidth=0.7, linestyle=":", zorder=0)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=":", zorder=0)
        axes.set_xlabel("False-positive rate")
        axes.set_ylabel(f"True-positive rate ({positive})")
    else:
        axes.set_xlabel(f"Recall ({positive})")
        axes.set_ylabel("Precision; dotted: prevalence")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.set_aspect("equal")
    axes.set_title(wrapped(f"{described(shown, _MAX_LINES)}; 95% bands", SINGLE_MM - 6))
    figure.legend(loc="outside lower center", ncols=1)
    return Drawn(figure, numbers)


def _line(axes: Axes, one: Series, curve: Band, label: str, look: Look) -> None:
    colour = look.colour(one.encoder)
    axes.plot(curve.x, curve.mean, color=colour, label=label, marker=look.marker(one.encoder),
              markevery=((3 + 7 * look.place.get(one.encoder, 0)) % 25, 25))  # fmt: skip
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)


def _label(one: Series, metric: str, resampler: Resampler, look: Look) -> str:
    """Name of the encoder with the area below its curve, as the tables have it."""
    import math

    from spade_bench.report.naming import metric_title

    name = look.name(one.encoder)
    interval = resampler.interval(one, metric) if metric in one.metrics else None
    if interval is None:
        return name
    ends = f" [{interval.low:.3f}, {interval.high:.3f}]" if math.isfinite(interval.low) else ""
    return f"{name}: {metric_title(metric)} {interval.mean:.3f}{ends}"
