"""Who lies next to whom: the robustness index, margins and a clustering score of points.

Points have a biological class, a centre (a hospital or a scanner) and a group (a patient or a
slide). Similarity is the cosine, and neighbours of a point's own group never count. The index is
that of PathoROB (Koemen et al. 2025): of the k nearest neighbours of each point, those of the same
class and another centre (SO) over these and those of another class and the same centre (OS). Sums
are over anchors for which both kinds exist at all; elsewhere one of them could only be zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["Neighbourhoods", "clustering_score", "neighbourhoods", "resampled_index"]

_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Neighbourhoods:
    """What surrounds each point.

    Attributes:
        usable: (n,) whether a point of another group has its class at another centre, and one
            another class at its centre.
        same_other: (n,) SO: how many of its k nearest neighbours are of the first kind.
        other_same: (n,) OS: how many are of the second.
        expected: (n, 2) how many of each there would be, were the k neighbours drawn at random.
        margin: (n,) similarity to the nearest of the first kind less that to the nearest of the
            second, over the standard deviation of all similarities, because features of one encoder
            lie closer together than those of another; NaN where a point is not usable.
        k: Number of neighbours.
    """

    usable: NDArray[np.bool_]
    same_other: Ints
    other_same: Ints
    expected: Floats
    margin: Floats
    k: int

    @property
    def index(self) -> float:
        """The robustness index; NaN where no neighbour of a usable anchor is of either kind."""
        return _share(self.same_other[self.usable].sum(), self.other_same[self.usable].sum())

    @property
    def chance(self) -> float:
        """What the index would be, were neighbours drawn at random."""
        return _share(*self.expected[self.usable].sum(axis=0))


def neighbourhoods(x: Floats, label: Ints, centre: Ints, group: Ints, k: int) -> Neighbourhoods:
    """Find the neighbours of every point and what they are.

    Args:
        x: Points, (n, D).
        label: Class of each, (n,).
        centre: Centre of each, (n,).
        group: Patient or slide of each, (n,).
        k: Number of neighbours.

    Raises:
        DataError: When a point is zero and has no direction, or some point has fewer than k points
            of other groups.
    """
    import numpy as np

    n = len(x)
    size = np.linalg.norm(x, axis=1)  # (n,)
    if not (size > 0).all():
        raise DataError(
            f"{int((size <= 0).sum())} of {n} vectors are zero and have no direction",
            fix="Leave these slides out, or use another encoder",
        )
    others = n - np.bincount(group)[group]  # (n,) points of other groups
    if k < 1 or k > others.min():
        raise DataError(
            f"{k} neighbours are asked for, and a point has {int(others.min())} of other cases",
            where="--k",
            fix="Ask for fewer, or add cases",
        )
    z = x / size[:, None]  # (n, D)
    counts = np.zeros((2, n), dtype=np.int64)
    there = np.zeros((2, n), dtype=np.int64)
    margin = np.full(n, np.nan)
    sums = np.zeros(3)  # of how many similarities, of them, and of their squares
    rows = max(1, _BLOCK_BYTES // (8 * n))
    for start in range(0, n, rows):
        at = slice(start, start + rows)
        similar = z[at] @ z.T  # (b, n)
        out = group[at, None] == group  # (b, n)
        told = similar[~out]
        sums += (len(told), told.sum(), (told**2).sum())
        similar[out] = -np.inf
        nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]  # (b, k)
        same_label, same_centre = label[at, None] == label, centre[at, None] == centre  # (b, n)
        kinds = (same_label & ~same_centre & ~out, ~same_label & same_centre & ~out)  # (b, n) each
        best = []
        for number, kind in enumerate(kinds):
            counts[number, at] = np.take_along_axis(kind, nearest, axis=1).sum(axis=1)
            there[number, at] = kind.sum(axis=1)
            best.append(np.where(kind, similar, -np.inf).max(axis=1))  # (b,)
        both = np.isfinite(best[0]) & np.isfinite(best[1])  # (b,)
        apart = np.full(len(both), np.nan)  # (b,)
        np.subtract(best[0], best[1], out=apart, where=both)
        margin[at] = apart
    spread = float(np.sqrt(max(sums[2] / sums[0] - (sums[1] / sums[0]) ** 2, 1e-30)))
    margin /= spread
    expected = (k * there / others).T  # (n, 2)
    usable = (there[0] > 0) & (there[1] > 0)  # (n,)
    return Neighbourhoods(usable, counts[0], counts[1], expected, margin, k)


def resampled_index(found: Neighbourhoods, weights: Floats) -> Floats:
    """Robustness index of resampled anchors; their neighbours stay.

    Args:
        found: What surrounds each point.
        weights: How often each point is drawn, (B, n).

    Returns:
        (B,) indices, NaN where no neighbour is of either kind.
    """
    import numpy as np

    hits = weights @ np.where(found.usable, found.same_other, 0)  # (B,)
    total = hits + weights @ np.where(found.usable, found.other_same, 0)  # (B,)
    return np.where(total > 0, hits / np.maximum(total, 1e-300), np.nan)


def clustering_score(
    x: Floats, label: Ints, centre: Ints, seed: int = 0
) -> tuple[float, float, float]:
    """Cluster points by k-means into as many clusters as there are classes, and see what they are.

    Args:
        x: Points, (n, D); only their direction counts.
        label: Class of each, (n,).
        centre: Centre of each, (n,).
        seed: Seed of the clustering.

    Returns:
        Adjusted Rand index with the class, that with the centre, and the score: the first minus
        the second.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    z = x / np.linalg.norm(x, axis=1, keepdims=True)  # (n, D)
    clusters = KMeans(len(np.unique(label)), n_init=10, random_state=seed).fit_predict(z)
    of_class = float(adjusted_rand_score(label, clusters))
    of_centre = float(adjusted_rand_score(centre, clusters))
    return of_class, of_centre, of_class - of_centre


def _share(first: float, second: float) -> float:
    total = float(first + second)
    return float(first) / total if total > 0 else float("nan")
