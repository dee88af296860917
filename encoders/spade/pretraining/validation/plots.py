"""Pictures of a validation: loss curves of every expert, where the true partners land."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench import files
from spade_bench.encoders.spade.pretraining.validation.partnerranks import DIRECTIONS, METRICS
from spade_bench.encoders.spade.pretraining.validation.scoring import Retrieval

__all__ = ["plot_losses", "plot_percentiles"]

_TITLES = {
    "image_to_expression": "image to expression",
    "expression_to_image": "expression to image",
}
_COLOURS = {"SPADE": "#1b6ca8", "K = 1": "#d1495b"}
_DASHES = {"K = 1": (0, (4, 2))}  # SPADE shows through where experts kept the heads of K = 1


def plot_losses(path: Path, experts: Sequence[Mapping[str, Any]]) -> bool:
    """Draw training and validation loss by epoch, one panel per expert.

    Args:
        path: PNG to write.
        experts: Rows of `expert_summary`.

    Returns:
        False, and no file, when no expert has a loss curve.
    """
    drawn = [row for row in experts if row["curve"]["epoch"]]
    if not drawn:
        return False
    columns = min(4, len(drawn))
    lines = -(-len(drawn) // columns)
    figure = _figure((3.1 * columns + 0.4, 2.5 * lines + 0.5))
    panels: Any = figure.subplots(lines, columns, sharex=True, squeeze=False)
    for axes in panels.flat[len(drawn) :]:
        axes.set_visible(False)
    for axes, row in zip(panels.flat, drawn, strict=False):
        curve = {key: _floats(values) for key, values in row["curve"].items()}
        axes.plot(curve["epoch"], curve["train_loss"], color="#7f8c8d", label="train")
        if np.isfinite(curve["val_loss"]).any():
            axes.plot(curve["epoch"], curve["val_loss"], color="#1b6ca8", label="validation")
        if row["best_epoch"] is not None:
            axes.axvline(row["best_epoch"], color="#1b6ca8", lw=0.8, ls=":", label="kept")
        n = row["n"]
        spots = f"{n.get('train', 0):,} train, {n.get('val', 0):,} val spots"
        axes.set_title(f"expert {row['expert']}: {spots}", fontsize=8)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    panels.flat[0].legend(fontsize=7)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("contrastive loss", fontsize=9)
    _save(figure, path)
    return True


def plot_percentiles(
    path: Path, results: Mapping[str, Retrieval], untrained: Sequence[Retrieval], title: str
) -> None:
    """Draw the histogram of the partner's percentile against the flat line of chance.

    Args:
        path: PNG to write.
        results: Name -> retrieval, at most SPADE and K = 1.
        untrained: Retrievals of untrained heads; their range is drawn as a band.
        title: Title of the figure.
    """
    figure = _figure((9.5, 3.7))
    panels: Any = figure.subplots(1, 2, sharey=True)
    index = METRICS.index("mean_percentile")
    spots = next(iter(results.values())).values.shape[2]
    edges = np.linspace(0, 1, 21 if spots >= 1000 else 11)
    for d, (axes, direction) in enumerate(zip(panels, DIRECTIONS, strict=True)):
        if untrained:
            bars = np.stack([_density(run.values[d, index], edges) for run in untrained])
            axes.fill_between(
                edges, *(_steps(f(bars, axis=0)) for f in (np.min, np.max)),
                step="post", color="#bdc3c7", alpha=0.6, lw=0,
                label=f"untrained, range of {len(untrained)}",
            )  # fmt: skip
        for name, run in results.items():
            mean = run.values[d, index].mean()
            height = _density(run.values[d, index], edges)
            label, colour = f"{name}, mean {mean:.3f}", _COLOURS.get(name)
            dashes = _DASHES.get(name, "-")
            axes.stairs(height, edges, lw=1.8, label=label, color=colour, ls=dashes)
            axes.axvline(mean, color=colour, lw=1, ls=":")
        axes.axhline(1.0, color="black", lw=0.9, ls="--", label="chance, mean 0.500")
        axes.set(title=_TITLES[direction], xlabel="percentile of the true partner (0 = best)")
        axes.set_xlim(0, 1)
        axes.legend(fontsize=8, loc="upper right")
    # After both panels are drawn, because they share the axis; the room on top is the legend's.
    panels[0].set_ylim(0, 1.5 * panels[0].get_ylim()[1])
    panels[0].set_ylabel("density over held-out spots")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, bins=edges, density=True)[0]


def _steps(heights: np.ndarray) -> np.ndarray:
    """Repeat the last height, so that a post-step line reaches the right edge."""
    return np.append(heights, heights[-1])


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=140)
