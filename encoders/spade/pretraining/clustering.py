"""Data experts: K-means within each organ, then K-means over all those centroids.

Source: arXiv 2506.21857, "mixture of data experts". Step 1 clusters the spots of each organ, step 2
groups the step-1 centroids of all organs into experts; both keep 50 iterations, 5 restarts and at
most 50,000 points per centroid by default.

Spaces. ``image`` clusters base-encoder features. ``expression`` clusters the first 64 components of
a truncated SVD of the expression panel, fitted on the training spots. ``joint`` clusters both side
by side, each block scaled to unit total variance. An H&E-only patch has no expression, so for the
last two the centroid kept for routing is the mean image feature of the training members of each
step-1 cluster: an image-space stand-in through which any patch, and any spot that was not trained
on, is assigned. Training spots keep the cluster they were put in by the space itself.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spade_bench import console
from spade_bench.encoders.spade.centroids import Assignment, Experts
from spade_bench.encoders.spade.kmeans import fit_kmeans
from spade_bench.encoders.spade.pretraining.pretrainconfig import ClusteringConfig, settled
from spade_bench.encoders.spade.streams import stream_seed
from spade_bench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["fit_experts", "space_points"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
_SVD_DIM = 64
_BLOCK = 8192  # rows that are looked at together
_SCRATCH_BYTES = 256 << 20  # arrays larger than this lie in a file


def fit_experts(
    features: Any,
    organ: ArrayLike,
    config: ClusteringConfig,
    *,
    seed: int = 0,
    train: ArrayLike | None = None,
    expression: Any = None,
) -> tuple[Experts, Assignment]:
    """Cluster the training spots into experts and assign every spot.

    Args:
        features: Image features (n, D), array or memory map.
        organ: Organ of each spot (n,).
        config: Numbers of clusters, space and K-means settings.
        seed: Seed; each organ's K-means draws from (seed, organ).
        train: Mask (n,) of the spots that may fit centroids; None means all.
        expression: Expression (n, G), CSR or dense; needed for the spaces that use it.

    Returns:
        The experts, and the cluster and expert of every spot.

    Raises:
        DataError: When no spot is left to fit on, or the space needs expression that is not there.
    """
    organs = np.asarray(organ).astype(str)
    fitting = np.ones(len(organs), dtype=bool) if train is None else np.asarray(train, dtype=bool)
    if not len(organs) == len(fitting) == len(features):
        raise DataError(
            f"{len(features)} features, {len(organs)} organs and {len(fitting)} split entries"
        )
    rows = np.flatnonzero(fitting)
    if not len(rows):
        raise DataError("no training spot to cluster", fix="Check the split")
    points, places = space_points(features, expression, rows, config.space, seed)
    local = np.empty(len(rows), dtype=np.int64)
    blocks: list[FloatArray] = []
    names: list[str] = []
    for name in np.unique(organs[rows]):
        members = np.flatnonzero(organs[rows] == name)
        centroids, labels = _cluster_organ(str(name), points, places[members], config, seed)
        local[members] = labels + len(names)
        blocks.append(centroids)
        names.extend([str(name)] * len(centroids))
    centroid_expert, n_experts = _group(np.concatenate(blocks), config, seed)
    image_centroids = (
        np.concatenate(blocks)
        if config.space == "image"
        else _member_means(features, rows, local, len(names))
    )
    experts = Experts(image_centroids, centroid_expert, tuple(names), n_experts)
    return experts, _assign_all(experts, features, organs, rows, local)


def space_points(
    features: Any, expression: Any, rows: IntArray, space: str, seed: int
) -> tuple[Any, IntArray]:
    """Return the coordinates in which the spots ``rows`` are clustered.

    Nothing of the size of all features is held in memory: a cohort may have more than it.

    Returns:
        Points (m, d), of which float32 is made, and the place of each spot in them,
        (len(rows),): the features themselves, or what was made for these spots.

    Raises:
        DataError: When the space needs expression and none is given.
    """
    if space == "image":
        return features, rows
    if expression is None:
        raise DataError(f"clustering in '{space}' space needs expression", where="clustering.space")
    every = np.arange(len(rows))
    molecular = _components(expression[rows], seed)
    if space == "expression":
        return molecular, every
    width = features.shape[1]
    joint: Any = _scratch((len(rows), width + molecular.shape[1]))
    _unit_variance(features, rows, joint[:, :width])
    _unit_variance(molecular, every, joint[:, width:])
    return joint, every


def _scratch(shape: tuple[int, int]) -> FloatArray:
    """An array for the time being; a large one lies in a temporary file."""
    if 4 * shape[0] * shape[1] < _SCRATCH_BYTES:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile() as file:  # goes with the array
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _cluster_organ(
    name: str, points: Any, rows: IntArray, config: ClusteringConfig, seed: int
) -> tuple[FloatArray, IntArray]:
    k = settled(config.k_organ, "clustering.k_organ")
    fit = fit_kmeans(
        points,
        k,
        seed=stream_seed(seed, 0, "organ", name),
        n_init=config.n_init,
        max_iter=config.max_iter,
        max_points_per_centroid=config.max_points_per_centroid,
        rows=rows,
    )
    if len(fit.centroids) < k:
        console.say(
            f"organ {name}: {len(rows)} training spots give {len(fit.centroids)} clusters "
            f"instead of {k}"
        )
    return fit.centroids, fit.labels


def _group(centroids: FloatArray, config: ClusteringConfig, seed: int) -> tuple[IntArray, int]:
    k = settled(config.k_experts, "clustering.k_experts")
    fit = fit_kmeans(
        centroids,
        k,
        seed=stream_seed(seed, 0, "experts"),
        n_init=config.n_init,
        max_iter=config.max_iter,
        max_points_per_centroid=config.max_points_per_centroid,
    )
    if len(fit.centroids) < k:
        console.say(
            f"{len(centroids)} step-1 centroids give {len(fit.centroids)} experts instead of {k}"
        )
    return fit.labels, len(fit.centroids)


def _assign_all(
    experts: Experts, features: Any, organs: NDArray[np.str_], rows: IntArray, local: IntArray
) -> Assignment:
    cluster = np.empty(len(organs), dtype=np.int64)
    others = np.setdiff1d(np.arange(len(organs)), rows)
    cluster[rows] = local
    if len(others):
        cluster[others] = experts.assign(features, organs[others], rows=others).cluster
    return Assignment(cluster, experts.centroid_expert[cluster])


def _member_means(features: Any, rows: IntArray, labels: IntArray, n: int) -> FloatArray:
    """Return the mean image feature of the members of each cluster, (n, D) float32."""
    means = np.empty((n, features.shape[1]), dtype=np.float32)
    for cluster in range(n):
        means[cluster] = _mean(features, rows[labels == cluster])
    return means


def _components(expression: Any, seed: int) -> FloatArray:
    """Return the leading components of the expression rows, (n, at most 64) float32."""
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    width = min(_SVD_DIM, expression.shape[1] - 1, expression.shape[0] - 1)
    if width < 1:
        dense = expression.toarray() if hasattr(expression, "toarray") else expression
        return np.asarray(dense, dtype=np.float32)
    svd = TruncatedSVD(width, random_state=stream_seed(seed, 0, "svd") % 2**32)
    # One thread: sums in another order would give other bits on another machine.
    with threadpool_limits(1):
        return np.asarray(svd.fit_transform(expression), dtype=np.float32)


def _unit_variance(points: Any, rows: IntArray, out: FloatArray) -> None:
    """Centre rows and scale them to unit total variance, block by block, into ``out`` (n, d)."""
    mean = _mean(points, rows)  # (d,)
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    squares = [
        ((np.asarray(points[block], dtype=np.float32) - mean) ** 2).sum(axis=1) for block in blocks
    ]
    scale = np.sqrt(np.concatenate(squares).mean())
    for number, block in enumerate(blocks):
        centred = np.asarray(points[block], dtype=np.float32) - mean  # (b, d) float64
        out[number * _BLOCK : number * _BLOCK + len(block)] = centred / (scale or 1.0)


def _mean(points: Any, rows: IntArray) -> NDArray[np.float64]:
    """Mean of rows (d,), added up in their order as numpy does it for all of them at once."""
    total = np.zeros((1, points.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = np.asarray(points[rows[start : start + _BLOCK]], dtype=np.float64)
        total = np.concatenate([total, block]).sum(axis=0, keepdims=True)
    mean: NDArray[np.float64] = total[0] / len(rows)
    return mean
