"""Reliability curves of binary tasks: what was predicted against what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from spade_bench.results import Predictions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Reliability", "calibration_pictures", "reliability"]

N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Predictions of the second class in bins of equal size.

    Attributes:
        predicted: (K,) mean predicted probability of each bin.
        observed: (K,) share of positives in it.
        low: (K,) lower end of the 95% bootstrap interval over cases; NaN where no resample has
            a case in the bin.
        high: (K,) upper end.
        count: (K,) predictions in it.
        every: All predicted probabilities, of all rows.
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    count: NDArray[np.int64]
    every: Floats


def reliability(series: Series, resampler: Resampler, bins: int = N_BINS) -> Reliability:
    """Compare predicted probabilities with what happened, over all draws or folds.

    Every prediction counts: averaging over draws first would show the calibration of an ensemble
    that nobody would use. Cases are resampled whole, with all predictions about them.

    Args:
        series: A series of a binary task with finished rows.
        resampler: Reads predictions and resamples cases.
        bins: Number of bins; fewer where predictions are tied.
    """
    import numpy as np

    of_rows = [resampler.predictions(row) for row in series.rows]
    every = np.concatenate([one.scores[:, 1] for one in of_rows])  # (N,)
    inner = np.unique(np.quantile(every, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(inner, every, side="right")  # (N,)
    used, place = np.unique(place, return_inverse=True)  # bins that ties left empty are gone
    k = len(used)
    positive = np.concatenate([one.target == 1 for one in of_rows]).astype(float)  # (N,)
    count = np.bincount(place, minlength=k)
    member = (place[:, None] == np.arange(k)).astype(float)  # (N, K)
    whole, at = _cases(of_rows)
    made, right = np.zeros((2, len(whole.case_ids), k))  # (n, K) predictions, positives a case
    np.add.at(made, at, member)
    np.add.at(right, at, member * positive[:, None])
    weights = resampler.weights(whole)  # (B, n)
    cases, hits = weights @ made, weights @ right  # (B, K)
    share = np.where(cases > 0, hits / np.where(cases > 0, cases, 1.0), np.nan)  # (B, K)
    low, high = np.nanquantile(share, [0.025, 0.975], axis=0)
    return Reliability(
        predicted=np.bincount(place, every, k) / count,
        observed=np.bincount(place, positive, k) / count,
        low=low,
        high=high,
        count=count,
        every=every,
    )


def _cases(of_rows: Sequence[Predictions]) -> tuple[Predictions, NDArray[np.int64]]:
    """Every case once, and for each prediction of all rows the position of its case, (N,)."""
    import numpy as np

    ids = np.array([case for one in of_rows for case in one.case_ids])
    target = np.concatenate([one.target for one in of_rows])
    scores = np.concatenate([one.scores for one in of_rows])
    known, first, at = np.unique(ids, return_index=True, return_inverse=True)
    patients = [patient for one in of_rows for patient in one.patients]
    whole = replace(
        of_rows[0],
        case_ids=tuple(map(str, known)),
        target=target[first],
        scores=scores[first],
        patients=tuple(patients[i] for i in first) if len(patients) == len(ids) else (),
    )
    return whole, at


def calibration_pictures(
    series: Sequence[Series], resampler: Resampler, look: Look
) -> list[Picture]:
    """Return a picture for every binary task and protocol: a panel per encoder, of its main head.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions and resamples cases.
        look: Names and colours.
    """
    return [
        Picture(
            "calibration picture", (*place, "calibration"), partial(_draw, shown, resampler, look)
        )
        for place, shown in main_series(series, resampler).items()
        if len(resampler.predictions(shown[0].rows[0]).classes) == 2
    ]


def _draw(shown: Sequence[Series], resampler: Resampler, look: Look) -> Drawn:
    positive = resampler.predictions(shown[0].rows[0]).classes[1]
    figure, grid = panels(len(shown), height_mm=56)
    numbers: list[dict[str, Any]] = []
    for axes, one in zip(grid, shown, strict=False):
        curve = reliability(one, resampler)
        _panel(axes, curve, positive, look.colour(one.encoder))
        axes.set_title(f"{look.name(one.encoder)}\n{_numbers(one, resampler)}")
        numbers += [
            {"task": one.task, "head": one.head, "protocol": one.protocol, "encoder": one.encoder,
             "name": look.name(one.encoder), "predicted": curve.predicted[i],
             "observed": curve.observed[i], "ci_low": curve.low[i], "ci_high": curve.high[i],
             "predictions": curve.count[i]}
            for i in range(len(curve.predicted))
        ]  # fmt: skip
    grid[0].set_ylabel(f"Share that is {positive}")
    width = SINGLE_MM if len(grid) == 1 else DOUBLE_MM
    title = f"{described(shown)}: calibration, 95% intervals over cases"
    figure.suptitle(wrapped(title, width - 4, 7.5))
    return Drawn(figure, numbers)


def _numbers(one: Series, resampler: Resampler) -> str:
    """Calibration slope, where every row has one, and Brier score, means over rows."""
    import math

    import numpy as np

    from spade_bench.statistics.calibration import brier, calibration_slope

    of_rows = [resampler.predictions(row) for row in one.rows]
    slope = float(np.mean([calibration_slope(p.target, p.scores)[0] for p in of_rows]))
    error = float(np.mean([brier(p.target, p.scores)[0] for p in of_rows]))
    return f"{f'slope {slope:.2f}, ' if math.isfinite(slope) else ''}Brier {error:.3f}"


def _panel(axes: Any, curve: Reliability, positive: str, colour: str) -> None:
    import numpy as np

    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, zorder=0)
    errors = np.stack([curve.observed - curve.low, curve.high - curve.observed]).clip(min=0)
    axes.errorbar(curve.predicted, curve.observed, errors, fmt="o-", color=colour,
                  elinewidth=0.7, capsize=1.5)  # fmt: skip
    height, edges = np.histogram(curve.every, bins=25, range=(0, 1))
    axes.bar(edges[:-1], 0.15 * height / max(1, height.max()), np.diff(edges), align="edge",
             color="0.85", zorder=0)  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel(f"Predicted probability of {positive}")
