"""K-means with restarts, a cap on points per centroid and the same bits on every machine size.

Points may be a memory map larger than memory: what is fitted is copied out of it once, at most
`FIT_BYTES` of it, and all points are then assigned block by block.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIT_BYTES", "KMeansFit", "fit_kmeans", "nearest"]

FIT_BYTES = 2 << 30
"""What the points that are fitted may take; of more, fewer are drawn per centroid."""

_BLOCK = 8192


@dataclass(frozen=True)
class KMeansFit:
    """Result of :func:`fit_kmeans`.

    Attributes:
        centroids: (k, d) float32; k may be smaller than asked where there are too few points.
        labels: Nearest centroid of each point, (n,) int64; every centroid has a member.
        inertia: Sum of squared distances of all n points to their centroids.
    """

    centroids: NDArray[np.float32]
    labels: NDArray[np.int64]
    inertia: float


def fit_kmeans(
    points: NDArray[Any],
    k: int,
    *,
    seed: int,
    n_init: int = 5,
    max_iter: int = 50,
    max_points_per_centroid: int = 50_000,
    rows: NDArray[np.int64] | None = None,
) -> KMeansFit:
    """Fit K-means (scikit-learn, k-means++ starts) to the points.

    Args:
        points: (n, d), array or memory map, n >= 1.
        k: Clusters; at most the number of distinct points is used.
        seed: Seed of the starts and of the subsample.
        n_init: Restarts; the one with the least inertia is kept.
        max_iter: Iterations at most.
        max_points_per_centroid: Beyond this many points per centroid, a seeded subsample is fitted.
        rows: Cluster these rows of ``points`` only; n is their number then.

    Raises:
        ValueError: When there is no point or k is below 1.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    n = len(points) if rows is None else len(rows)
    if k < 1 or not n:
        raise ValueError(f"cannot make {k} clusters of {n} points")
    most = min(max_points_per_centroid * k, max(k, FIT_BYTES // (4 * points.shape[1])))
    chosen = np.arange(n)
    if n > most:
        chosen = np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
    fitted = _taken(points, chosen if rows is None else rows[chosen])
    model = KMeans(
        min(k, len(fitted)),
        n_init=n_init,
        max_iter=max_iter,
        random_state=seed % 2**32,
        copy_x=False,  # nobody else has these points
    )
    # One thread: with more, partial sums are added in whatever order the threads finish.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than clusters is handled below: clusters without members go.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(fitted)
        del fitted
        centroids = np.asarray(model.cluster_centers_, dtype=np.float32)
        labels = nearest(points, centroids, rows)
    used, labels = np.unique(labels, return_inverse=True)
    centroids = centroids[used]
    return KMeansFit(centroids, labels.astype(np.int64), _inertia(points, centroids, labels, rows))


def nearest(
    points: Any, centroids: NDArray[np.float32], rows: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the index of the nearest centroid (Euclidean) of each point.

    Args:
        points: (n, d).
        centroids: (k, d).
        rows: Look at these rows of ``points`` only.

    Returns:
        (n,) or (len(rows),) int64.
    """
    from threadpoolctl import threadpool_limits

    # Distances do not change when both sides move; near the origin less precision is lost.
    origin = centroids.mean(axis=0)
    moved = centroids - origin
    squares = (moved**2).sum(axis=1)
    n = len(points) if rows is None else len(rows)
    labels = np.empty(n, dtype=np.int64)
    with threadpool_limits(1):
        for start in range(0, n, _BLOCK):
            stop = min(start + _BLOCK, n)
            block = _block(points, rows, start, stop) - origin
            labels[start:stop] = (squares - 2 * (block @ moved.T)).argmin(axis=1)
    return labels


def _taken(points: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Copy rows out of an array or a memory map, (len(rows), d) float32, block by block."""
    taken = np.empty((len(rows), points.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        taken[start : start + _BLOCK] = points[rows[start : start + _BLOCK]]
    return taken


def _block(
    points: Any, rows: NDArray[np.int64] | None, start: int, stop: int
) -> NDArray[np.float32]:
    """Points start to stop of all, or of the rows that are looked at, (m, d) float32."""
    chosen = points[start:stop] if rows is None else points[rows[start:stop]]
    return np.asarray(chosen, dtype=np.float32)


def _inertia(
    points: Any,
    centroids: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64] | None,
) -> float:
    total = 0.0
    for start in range(0, len(labels), _BLOCK):
        stop = start + _BLOCK
        difference = _block(points, rows, start, stop) - centroids[labels[start:stop]]
        total += float((difference**2).sum(dtype=np.float64))
    return total
