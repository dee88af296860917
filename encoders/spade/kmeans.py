"""K-means with restarts, a cap on points per centroid and the same bits on every machine size."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KMeansFit", "fit_kmeans", "nearest"]

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
) -> KMeansFit:
    """Fit K-means (scikit-learn, k-means++ starts) to the points.

    Args:
        points: (n, d), n >= 1.
        k: Clusters; at most the number of distinct points is used.
        seed: Seed of the starts and of the subsample.
        n_init: Restarts; the one with the least inertia is kept.
        max_iter: Iterations at most.
        max_points_per_centroid: Beyond this many points per centroid, a seeded subsample is fitted.

    Raises:
        ValueError: When there is no point or k is below 1.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if k < 1 or not len(points):
        raise ValueError(f"cannot make {k} clusters of {len(points)} points")
    points = np.ascontiguousarray(points, dtype=np.float32)
    fitted = points
    if len(points) > max_points_per_centroid * k:
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(points), max_points_per_centroid * k, replace=False)
        fitted = points[np.sort(chosen)]
    model = KMeans(min(k, len(fitted)), n_init=n_init, max_iter=max_iter, random_state=seed % 2**32)
    # One thread: with more, partial sums are added in whatever order the threads finish.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than clusters is handled below: clusters without members go.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(fitted)
        centroids = np.asarray(model.cluster_centers_, dtype=np.float32)
        labels = nearest(points, centroids)
    used, labels = np.unique(labels, return_inverse=True)
    centroids = centroids[used]
    return KMeansFit(centroids, labels.astype(np.int64), _inertia(points, centroids, labels))


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
            chosen = points[start:stop] if rows is None else points[rows[start:stop]]
            block = np.asarray(chosen, dtype=np.float32) - origin
            labels[start:stop] = (squares - 2 * (block @ moved.T)).argmin(axis=1)
    return labels


def _inertia(
    points: NDArray[np.float32], centroids: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    total = 0.0
    for start in range(0, len(points), _BLOCK):
        stop = start + _BLOCK
        difference = points[start:stop] - centroids[labels[start:stop]]
        total += float((difference**2).sum(dtype=np.float64))
    return total
