"""The centroids that define the experts: all of routing's state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spade_bench.encoders.spade.kmeans import nearest
from spade_bench.errors import DataError

__all__ = ["Assignment", "Experts"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Assignment:
    """Where spots belong.

    Attributes:
        cluster: Row of the nearest step-1 centroid, (n,) int64.
        expert: Expert of that centroid, (n,) int64.
    """

    cluster: IntArray
    expert: IntArray


@dataclass(frozen=True)
class Experts:
    """The centroids that define the experts; all of routing's state.

    Attributes:
        centroids: Step-1 centroids in image-feature space, (C, D) float32.
        centroid_expert: Expert of each centroid, (C,) int64 in 0..K-1.
        centroid_organ: Organ of each centroid, C of them; empty strings where unknown.
        n_experts: K.
    """

    centroids: FloatArray
    centroid_expert: IntArray
    centroid_organ: tuple[str, ...]
    n_experts: int

    def __post_init__(self) -> None:
        """Check that the three tables agree.

        Raises:
            DataError: When they do not.
        """
        n = len(self.centroids)
        if self.centroids.ndim != 2 or not (
            n == len(self.centroid_expert) == len(self.centroid_organ)
        ):
            raise DataError(
                f"centroids {self.centroids.shape}, their experts {self.centroid_expert.shape} and "
                f"{len(self.centroid_organ)} organs do not belong together"
            )
        if n == 0 or self.centroid_expert.min() < 0 or self.centroid_expert.max() >= self.n_experts:
            raise DataError(f"centroids must map to experts 0..{self.n_experts - 1}")

    def assign(
        self,
        features: ArrayLike,
        organ: ArrayLike | None = None,
        *,
        rows: NDArray[np.int64] | None = None,
    ) -> Assignment:
        """Assign spots to the nearest centroid, of their own organ where that organ is known.

        Args:
            features: Image features (n, D).
            organ: Organ of each spot (n,); None, or an organ without centroids, means that all
                centroids compete, as they do for a patch at inference.
            rows: Assign these rows of ``features`` only, which may be a memory map; n is their
                number then.
        """
        points = np.asarray(features)
        n = len(points) if rows is None else len(rows)
        organs = np.full(n, "") if organ is None else np.asarray(organ).astype(str)
        centroid_organs = np.asarray(self.centroid_organ, dtype=str)
        cluster = np.empty(n, dtype=np.int64)
        for name in np.unique(organs):
            here = np.flatnonzero(organs == name)
            candidates = (
                np.flatnonzero(centroid_organs == name) if name else np.empty(0, dtype=np.int64)
            )
            if not len(candidates):
                candidates = np.arange(len(centroid_organs))
            looked_at = here if rows is None else rows[here]
            cluster[here] = candidates[nearest(points, self.centroids[candidates], looked_at)]
        return Assignment(cluster, self.centroid_expert[cluster])
