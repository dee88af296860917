"""Expression in pictures: genes ranked with intervals, sections observed and predicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.mainseries import main_series
from spade_bench.report.naming import head_title, metric_title, protocol_title, task_title
from spade_bench.report.pictures import (
    DOUBLE_MM,
    GREY,
    INK,
    SINGLE_MM,
    Drawn,
    Look,
    Picture,
    left_out_of,
    print_figure,
    wrapped,
)
from spade_bench.report.series import Series
from spade_bench.report.spotvalues import GeneScore, gene_scores, units_of
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.results import Predictions
    from spade_bench.results.spotpredictions import SpotPredictions

    Floats = NDArray[np.float64]

__all__ = ["gene_pictures", "spot_pictures"]

_METRIC = "pearson"
_GENE_MM, _MOST_GENES = 3.2, 60
_LEAST_UNITS = 3  # patients, or sections, from which an interval of a gene is drawn
_PANEL_MM = 48.0  # width of a section with its scale of colours
_SHADES = "viridis"


def gene_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a picture for every encoder on every task of expression: its genes, best first.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
        look: Names and colours.
    """
    return [
        Picture("gene ranking", ("genes", *_place(one)), partial(_genes, one, resampler, look))
        for one in _of_spots(series, resampler)
    ]


def spot_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a picture for every encoder: its best, median and worst gene on a test section.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
        look: Names and colours.
    """
    return [
        Picture("section picture", ("spots", *_place(one)), partial(_spots, one, resampler, look))
        for one in _of_spots(series, resampler)
        if _known(gene_scores(_rows(one, resampler), _METRIC))
    ]


def _of_spots(series: Sequence[Series], resampler: Resampler) -> list[Series]:
    """The main series of expression, one per encoder and task."""
    return [
        one
        for shown in main_series(series, resampler).values()
        for one in shown
        if resampler.predictions(one.rows[0]).spots is not None
    ]


def _place(one: Series) -> tuple[str, ...]:
    return (one.encoder, one.task, one.head, one.protocol, *one.condition)


def _rows(one: Series, resampler: Resampler) -> list[Predictions]:
    return [resampler.predictions(row) for row in one.rows]


def _known(scores: Sequence[GeneScore]) -> list[GeneScore]:
    return [score for score in scores if score.interval is not None]


def _title(one: Series, look: Look) -> str:
    words = (task_title(one.task), head_title(one.head), protocol_title(one.protocol))
    return (
        f"{look.name(one.encoder)}: {', '.join((*words, *one.condition))}{left_out_of(one.flags)}"
    )


def _genes(one: Series, resampler: Resampler, look: Look) -> Drawn:
    import numpy as np

    of_rows = _rows(one, resampler)
    scores = gene_scores(of_rows, _METRIC)
    names, what = units_of(of_rows)
    known = _known(scores)
    shown = known if len(known) <= _MOST_GENES else [*known[:30], *known[-30:]]
    figure = print_figure(SINGLE_MM, 24 + _GENE_MM * max(len(shown), 4))
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    lowest = 0.0
    for height, score in enumerate(reversed(shown)):
        lowest = min(
            lowest, _draw_gene(axes, height, score, look.colour(one.encoder), len(of_rows))
        )
    if len(shown) < len(known):
        axes.axhline(29.5, color=GREY, linewidth=0.5, linestyle=":")
    mean = float(np.mean([score.interval.mean for score in known if score.interval]))
    axes.axvline(mean, color=INK, linewidth=0.7, linestyle="--", zorder=0)
    axes.annotate(f" mean {mean:.2f}", (mean, -0.9), fontsize=6.5, color=INK, va="bottom")
    axes.set_yticks(range(len(shown)), [score.gene for score in reversed(shown)], fontsize=6.5)
    axes.set_ylim(-1.2, len(shown) - 0.2)
    axes.set_xlim(min(-0.1, lowest) - 0.03, 1.03)
    count = f"{len(names)} {what if len(names) != 1 else what[:-1]}"
    few = len(names) < _LEAST_UNITS
    lines = [f"{metric_title(_METRIC)}; grey: single folds, open: not predicted in all"]
    lines += [f"{count}: too few for an interval" if few else f"lines: 95% interval over {count}"]
    lines += [f"{len(known) - len(shown)} genes between not shown"] * (len(shown) < len(known))
    axes.set_xlabel("\n".join(lines))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    # Over the whole width: names of genes leave the axes too little of it.
    figure.suptitle(wrapped(_title(one, look), SINGLE_MM - 6), x=0.02, ha="left")
    numbers = [
        {
            "gene": score.gene,
            _METRIC: None if score.interval is None else score.interval.mean,
            "ci_low": None if score.interval is None else score.interval.low,
            "ci_high": None if score.interval is None else score.interval.high,
            "folds": len(score.folds),
            "constant_folds": score.constant,
        }
        for score in scores
    ]
    return Drawn(figure, numbers)


def _draw_gene(axes: Any, height: int, score: GeneScore, colour: str, n_folds: int) -> float:
    """Draw a gene with its folds and its interval; return how far left it reaches."""
    import numpy as np

    assert score.interval is not None
    folds = [value for value in score.folds if np.isfinite(value)]
    axes.plot(folds, [height] * len(folds), "|", color="0.7", markersize=3.2, markeredgewidth=0.7)
    reach = min(folds)
    ends = max(-1.0, score.interval.low), min(1.0, score.interval.high)
    if np.isfinite(ends).all() and score.units >= _LEAST_UNITS:
        axes.plot(ends, [height, height], color="0.75", linewidth=1.0, zorder=1)
        reach = min(reach, ends[0])
    face = colour if len(score.folds) == n_folds else "white"
    axes.plot(score.interval.mean, height, "o", color=colour, markerfacecolor=face,
              markersize=2.6, markeredgewidth=0.6)  # fmt: skip
    return float(reach)


def _spots(one: Series, resampler: Resampler, look: Look) -> Drawn:
    import numpy as np

    of_rows = _rows(one, resampler)
    known = _known(gene_scores(of_rows, _METRIC))
    whole = [score for score in known if len(score.folds) == len(of_rows)] or known
    chosen = {"best": whole[0], "median": whole[len(whole) // 2], "worst": whole[-1]}
    spots, section = _section_of(of_rows, [score.gene for score in chosen.values()])
    at = np.flatnonzero(spots.section == section)
    coords = spots.coords[at]
    tall = float(np.ptp(coords[:, 1]) / max(np.ptp(coords[:, 0]), 1e-9))
    row = _PANEL_MM * min(1.3, max(0.4, tall))
    figure = print_figure(DOUBLE_MM, 2 * row + 26)
    grid = figure.subplots(2, 3, squeeze=False)
    numbers: list[dict[str, Any]] = []
    for column, (word, score) in enumerate(chosen.items()):
        gene = spots.genes.index(score.gene)
        both = {"observed": spots.observed[at, gene], "predicted": spots.predicted[at, gene]}
        for axes, (name, values) in zip(grid[:, column], both.items(), strict=True):
            drawn = _draw_spots(axes, coords, values, row)
            bar = figure.colorbar(drawn, ax=axes, shrink=0.75, aspect=22, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=6.5, length=1.5)
            if not column:
                axes.set_ylabel(name)
        assert score.interval is not None
        here, mean = _correlation(*both.values()), score.interval.mean
        grid[0][column].set_title(
            f"{score.gene}, {word} of {len(whole)} genes\n"
            f"r = {_signed(here)} here, {_signed(mean)} over folds"
        )
        numbers += [
            {
                "gene": score.gene,
                "rank": word,
                "section": spots.sections[section],
                "barcode": spots.barcodes[spot],
                "x": x,
                "y": y,
                **{name: values[i] for name, values in both.items()},
            }
            for i, (spot, (x, y)) in enumerate(zip(at.tolist(), coords.tolist(), strict=True))
        ]
    title = f"{_title(one, look)}; section {spots.sections[section]}"
    figure.suptitle(wrapped(title, DOUBLE_MM - 10))
    return Drawn(figure, numbers)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _section_of(
    of_rows: Sequence[Predictions], genes: Sequence[str]
) -> tuple[SpotPredictions, int]:
    """The test section with the most spots of those that predict some genes, which all vary there.

    Where they vary together in none, that with the most spots of those that predict them.
    """
    import numpy as np

    found: list[tuple[bool, int, int, int]] = []
    for number, one in enumerate(of_rows):
        spots = one.spots
        if spots is None or not set(genes) <= set(spots.genes):
            continue
        columns = [spots.genes.index(gene) for gene in genes]
        for section in range(len(spots.sections)):
            at = np.flatnonzero(spots.section == section)
            varies = bool((np.ptp(spots.observed[at][:, columns], axis=0) > 0).all())
            found.append((varies, len(at), -number, -section))
    _, _, number, section = max(found)
    spots = of_rows[-number].spots
    assert spots is not None
    return spots, -section


def _draw_spots(axes: Any, coords: Floats, values: NDArray[Any], height_mm: float) -> Any:
    """Spots where they lie, each as wide as they are apart, in a scale of colours of their own."""
    import numpy as np
    from scipy.spatial import cKDTree

    x, y = coords.T
    apart = 1.0
    if len(coords) > 1:
        apart = float(np.median(cKDTree(coords).query(coords, k=2)[0][:, 1]))
    axes.set_aspect("equal")
    axes.set_xlim(x.min() - apart, x.max() + apart)
    axes.set_ylim(y.max() + apart, y.min() - apart)  # as an image: y grows downwards
    width, height = float(np.ptp(x)) + 2 * apart, float(np.ptp(y)) + 2 * apart
    scale = min((_PANEL_MM - 9) / width, height_mm / height)  # millimetres per pixel
    points = 0.95 * apart * scale / 25.4 * 72  # width of a spot in points
    low, high = np.percentile(values, [1, 99])
    drawn = axes.scatter(
        x, y, c=values, s=points**2, cmap=_SHADES, vmin=low, vmax=max(high, low + 1e-6),
        linewidths=0,
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    import numpy as np

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
