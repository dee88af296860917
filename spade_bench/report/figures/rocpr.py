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

__all__ = ["KINDS", "Band", "mean_curve", "on_grid", "rocpr_pictures"]

KINDS = {"roc": ("ROC picture", "auroc"), "pr": ("precision-recall picture", "auprc")}
"""Kind of curve -> what its picture is called, and the metric that is the area below it."""

_MAX_LINES = 6
_GRID = 201


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

    from spade_bench.statistics.intervals import means

    of_rows = [resampler.predictions(row) for row in series.rows]
    x = np.linspace(0, 1, _GRID)
    values = np.empty((len(of_rows), _GRID))  # (D, G)
    resamples = np.empty((_GRID, len(of_rows), resampler.n_boot))  # (G, D, B)
    for at, one in enumerate(of_rows):
        weights = resampler.weights(one)  # (B, n)
        counts = np.concatenate([np.ones((1, weights.shape[1])), weights])  # (1 + B, n)
        found = on_grid(kind, one.target == 1, one.scores[:, 1], counts, x)  # (1 + B, G)
        values[at], resamples[:, at] = found[0], found[1:].T
    fixed = all(one.case_ids == of_rows[0].case_ids for one in of_rows)
    if fixed:
        places = zip(values.T, resamples, strict=True)
        sampled = np.stack([means(*place, resampler.seed) for place in places], axis=1)  # (B, G)
    else:
        sampled = resamples.mean(axis=1).T  # (B, G)
    mean = values.mean(axis=0)
    low, high = np.clip(np.nanquantile(sampled, [0.025, 0.975], axis=0), 0, 1)  # (G,) each
    return Band(
        x=x,
        mean=mean,
        low=np.minimum(low, mean),
        high=np.maximum(high, mean),
        prevalence=float(np.concatenate([one.target == 1 for one in of_rows]).mean()),
    )


def on_grid(
    kind: str, positive: NDArray[np.bool_], scores: Floats, weights: Floats, x: Floats
) -> Floats:
    """Evaluate ROC or precision-recall curves of many resamples at fixed places.

    ROC curves are joined by straight lines, so that the area below is the AUROC; precision at a
    recall is that of the highest threshold that reaches it, so that its mean over all recalls is
    the average precision.

    Args:
        kind: `roc` or `pr`.
        positive: (n,) whether each case is positive.
        scores: (n,) scores, high for positive; tied cases are called together.
        weights: (B, n) how often each case counts.
        x: (G,) false-positive rates or recalls, within 0..1.

    Returns:
        (B, G) true-positive rates or precisions; NaN for a resample that lacks a class.
    """
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of ties, (K,)
    counted = weights[:, order]  # (B, n)
    true = np.cumsum(counted * positive[order], axis=1)[:, ends]  # (B, K)
    false = np.cumsum(counted * ~positive[order], axis=1)[:, ends]
    n_true, n_false = true[:, -1:], false[:, -1:]
    lacking = ((n_true == 0) | (n_false == 0))[:, 0]  # (B,)
    recall = np.hstack([np.zeros_like(n_true), true / np.where(n_true > 0, n_true, 1)])  # (B, K+1)
    if kind == "roc":
        wrong = np.hstack([np.zeros_like(n_true), false / np.where(n_false > 0, n_false, 1)])
        out = _joined(wrong, recall, x)
    else:
        called = true + false
        precision = true / np.where(called > 0, called, 1)  # (B, K)
        at = np.minimum(_places(recall[:, 1:], x, "left"), len(ends) - 1)  # (B, G)
        # No recall at all is reached by no call: the first call that finds a case stands for it.
        first = np.minimum((true > 0).argmax(axis=1), len(ends) - 1)  # (B,)
        out = np.take_along_axis(precision, np.maximum(at, first[:, None]), axis=1)
    out[lacking] = np.nan
    return out


def _places(rising: Floats, x: Floats, side: str) -> NDArray[np.int64]:
    """Search each row for all places at once: (B, K) rising in 0..1 and (G,) -> (B, G)."""
    import numpy as np

    rows, k = rising.shape
    near = 1e-10 if side == "left" else -1e-10  # of rates that sums of counts make
    order = np.argsort(x, kind="stable")
    # There are fewer values than places, so it is they that are searched for: before which place
    # each lies, and then how many lie before a place.
    before = np.searchsorted(x[order] - near, rising, side="right")  # (B, K) 0..G
    before += (len(x) + 1) * np.arange(rows)[:, None]
    count = np.bincount(before.ravel(), minlength=rows * (len(x) + 1)).reshape(rows, -1)
    found = np.empty((rows, len(x)), dtype=np.int64)
    found[:, order] = np.cumsum(count[:, :-1], axis=1)
    return np.clip(found, 0, k)


def _joined(rising: Floats, values: Floats, x: Floats) -> Floats:
    """Read lines through (B, K) places and values at (G,) others; at a step its upper end."""
    import numpy as np

    k = rising.shape[1]
    found = _places(rising, x, "right")  # (B, G)
    after, before = np.minimum(found, k - 1), np.maximum(found - 1, 0)  # first place beyond
    starts = k * np.arange(len(rising))[:, None]  # of the rows, end to end
    before, after = before + starts, after + starts
    x0, x1 = rising.ravel()[before], rising.ravel()[after]
    y0, y1 = values.ravel()[before], values.ravel()[after]
    wide = x1 - x0
    share = np.where(wide > 1e-12, (x - x0) / np.where(wide > 1e-12, wide, 1.0), 0.0)
    return np.asarray(y0 + np.clip(share, 0, 1) * (y1 - y0))


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
              markevery=(7 + 5 * look.place.get(one.encoder, 0), 50))  # fmt: skip
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
