"""The elbow scan: how the within-cluster sum of squares falls with k, per organ and for step 2."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench import console, files
from spade_bench.encoders.spade.kmeans import KMeansFit, fit_kmeans
from spade_bench.encoders.spade.pretraining.pretrainconfig import ClusteringConfig, settled
from spade_bench.encoders.spade.streams import stream_seed
from spade_bench.errors import DataError

__all__ = ["SCAN_KS", "ScanRow", "scan_k"]

SCAN_KS = (4, 8, 16, 32, 64, 96, 128)
_BLOCK = 1 << 16  # points that are looked at together
STEP_2 = "all organs (step 2)"


@dataclass(frozen=True)
class ScanRow:
    """One point of an elbow curve.

    Attributes:
        step: 1 within an organ, 2 over the step-1 centroids of all organs.
        organ: The organ; `STEP_2` for step 2.
        n: Number of points clustered.
        k: Number of clusters.
        wcss: Within-cluster sum of squares, in squared units of the clustered space.
        normalised: `wcss` over the sum of squares around the common mean (k = 1): 1 is no
            structure found, 0 is every point its own cluster.
    """

    step: int
    organ: str
    n: int
    k: int
    wcss: float
    normalised: float


def scan_k(
    points: np.ndarray,
    organ: Sequence[str],
    out: Path,
    *,
    config: ClusteringConfig,
    ks: Sequence[int] = SCAN_KS,
    seed: int = 0,
    rows: np.ndarray | None = None,
) -> list[ScanRow]:
    """Cluster with every k and write `scan_k.csv` and `scan_k.png` into `out`.

    Step 1 clusters the spots of each organ; step 2 clusters the `config.k_organ` centroids of all
    organs together. A k above the number of points is left out.

    Args:
        points: (N, d) training spots in the space of the clustering, as from
            `clustering.space_points`; array or memory map.
        organ: (N,) organ of each spot.
        out: Folder for the csv and the plot.
        config: Restarts, iterations, `k_organ`.
        ks: Numbers of clusters to try.
        seed: Seed of the K-means restarts.
        rows: Where the N spots stand in ``points``; None means that they are all of them.

    Returns:
        The rows of the csv.

    Raises:
        DataError: When there are no points or they are not finite.

    Source:
        arXiv 2506.21857, choice of k: normalised within-cluster sum of squares for k in
        {4, 8, 16, 32, 64, 96, 128}.
    """
    k_organ = settled(config.k_organ, "clustering.k_organ")
    points = np.asarray(points)
    labels = np.asarray(organ, dtype=str)
    places = np.arange(len(points)) if rows is None else rows
    if points.ndim != 2 or len(places) == 0 or len(places) != len(labels):
        raise DataError(
            f"{points.shape} points and {len(labels)} organs", where="scan of k",
            fix="Give (N, D) points and N organs",
        )  # fmt: skip
    for start in range(0, len(places), _BLOCK):
        if not np.isfinite(points[places[start : start + _BLOCK]]).all():
            raise DataError("points are not finite", where="scan of k", fix="Check the features")
    organs = sorted(set(labels.tolist()))
    curves: list[ScanRow] = []
    centroids: list[np.ndarray] = []
    with console.progress("scan of k", total=(len(organs) + 1) * len(ks), unit="fits") as bar:
        for name in organs:
            inside = np.ascontiguousarray(points[places[labels == name]], dtype=np.float32)
            stream = stream_seed(seed, 0, "organ", name)  # that of the real clustering
            curves += _curve((1, name), inside, ks, config=config, seed=stream, bar=bar)
            centroids.append(_fit(inside, k_organ, config, stream).centroids)
        stream = stream_seed(seed, 0, "experts")
        curves += _curve(
            (2, STEP_2), np.concatenate(centroids), ks, config=config, seed=stream, bar=bar
        )
    _write_csv(out / "scan_k.csv", curves)
    _plot(out / "scan_k.png", curves)
    _print(curves, ks)
    return curves


def _curve(
    key: tuple[int, str],
    points: np.ndarray,
    ks: Sequence[int],
    *,
    config: ClusteringConfig,
    seed: int,
    bar: console.Progress,
) -> list[ScanRow]:
    """Return the elbow curve of one (step, organ), k = 1 first."""
    mean = points.mean(axis=0)  # (d,)
    blocks = (points[start : start + _BLOCK] for start in range(0, len(points), _BLOCK))
    total = sum(float(((block - mean) ** 2).sum(dtype=np.float64)) for block in blocks)
    rows = [ScanRow(*key, len(points), 1, total, 1.0)]
    for k in sorted(set(ks)):
        if k <= len(points):
            wcss = _fit(points, k, config, seed).inertia
            normalised = wcss / total if total > 0 else 0.0
            rows.append(ScanRow(*key, len(points), k, wcss, normalised))
        bar.advance(note=f"{key[1]} k={k}")
    return rows


def _fit(points: np.ndarray, k: int, config: ClusteringConfig, seed: int) -> KMeansFit:
    return fit_kmeans(
        points,
        k,
        seed=seed,
        n_init=config.n_init,
        max_iter=config.max_iter,
        max_points_per_centroid=config.max_points_per_centroid,
    )


def _write_csv(path: Path, rows: Sequence[ScanRow]) -> None:
    with (
        files.atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as handle,
    ):
        writer = csv.DictWriter(handle, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _print(rows: Sequence[ScanRow], ks: Sequence[int]) -> None:
    """Print one line a curve: normalised sums of squares by k."""
    columns = ["organ", "points", *(f"k={k}" for k in sorted(set(ks)))]
    lines: list[list[object]] = []
    for name in dict.fromkeys(row.organ for row in rows):
        curve = {row.k: row for row in rows if row.organ == name}
        cells = [f"{curve[k].normalised:.3f}" if k in curve else "-" for k in sorted(set(ks))]
        lines.append([name, curve[1].n, *cells])
    console.table("Normalised within-cluster sum of squares", columns, lines)


def _plot(path: Path, rows: Sequence[ScanRow]) -> None:
    """Draw the elbow curves, step 1 beside step 2, sharing the axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 2, sharey=True)
    titles = ("Step 1: spots within each organ", "Step 2: step-1 centroids of all organs")
    ticks = sorted({row.k for row in rows})
    for step, (axes, title) in enumerate(zip(panels, titles, strict=True), start=1):
        for name in dict.fromkeys(row.organ for row in rows if row.step == step):
            curve = [row for row in rows if row.step == step and row.organ == name]
            label = f"{name} (n = {curve[0].n:,})"
            axes.plot([r.k for r in curve], [r.normalised for r in curve], "o-", ms=4, label=label)
        axes.set(title=title, xlabel="number of clusters k", xscale="log", ylim=(0, 1.03))
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=1 + len(axes.lines) // 9)
    panels[0].set_ylabel("within-cluster sum of squares\n(share of the total)")
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=140)
