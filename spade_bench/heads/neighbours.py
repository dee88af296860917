"""Heads without training: nearest neighbours and nearest class mean on mean-pooled features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from spade_bench.config import check_ranges
from spade_bench.heads._base import Fit
from spade_bench.heads._pooled import pooled_head
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["KnnConfig", "PrototypeConfig", "knn", "prototype"]


@dataclass(frozen=True)
class KnnConfig:
    """Settings of the nearest-neighbour head.

    Attributes:
        k: Neighbours that vote, all alike; as many as there are when training cases are fewer.
        metric: `euclidean` on the features as they are, or `cosine`.
    """

    k: int = 5
    metric: Literal["euclidean", "cosine"] = "euclidean"

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_ranges(self, {"k": (1, math.inf)}, "")


@dataclass(frozen=True)
class PrototypeConfig:
    """Settings of the nearest-mean head.

    Attributes:
        centre: Whether the mean of the training cases is subtracted first (SimpleShot's CL2N;
            else L2N).
        temperature: What squared distances are divided by to become probabilities. It orders
            cases alike and only changes how sure the head sounds.
    """

    centre: bool = True
    temperature: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_ranges(self, {"temperature": (1e-12, math.inf)}, "")


KNN = HeadCard(
    name="knn",
    kinds=("classification",),
    description="Vote of the nearest training cases, on mean-pooled features",
    input="pooled",
    defaults=asdict(KnnConfig()),
    grid={"k": (1, 3, 5, 10, 20), "metric": ("euclidean", "cosine")},
    cheap=True,
    reference="Fix and Hodges 1951; equals scikit-learn KNeighborsClassifier",
)

PROTOTYPE = HeadCard(
    name="prototype",
    kinds=("classification",),
    description="Nearest class mean after centring on the training cases and scaling to length 1",
    input="pooled",
    defaults=asdict(PrototypeConfig()),
    grid={"centre": (True, False)},
    cheap=True,
    reference="Wang, Chao, Weinberger, van der Maaten: SimpleShot, arXiv:1911.04623",
)


@pooled_head(KNN, KnnConfig)
def knn(pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: KnnConfig) -> list[Floats]:
    """Let the nearest training cases vote; of equally near ones the first in training order."""
    import numpy as np

    x = _to_length_one(pooled) if settings.metric == "cosine" else pooled  # (N, D)
    out = []
    for fit in fits:
        distance = _squared_distances(x[fit.test], x[fit.train])  # (m, n)
        nearest = distance.argsort(axis=1, kind="stable")[:, : settings.k]  # (m, k)
        out.append(np.eye(n_outputs)[fit.target[nearest]].mean(axis=1))  # (m, C)
    return out


@pooled_head(PROTOTYPE, PrototypeConfig)
def prototype(
    pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: PrototypeConfig
) -> list[Floats]:
    """Compare with the mean of each class; a class without training cases gets probability 0."""
    import numpy as np
    from scipy.special import softmax

    out = []
    for fit in fits:
        train, test = pooled[fit.train], pooled[fit.test]  # (n, D), (m, D)
        if settings.centre:
            mean = train.mean(axis=0)  # (D,)
            train, test = train - mean, test - mean
        train, test = _to_length_one(train), _to_length_one(test)
        member = np.eye(n_outputs)[fit.target]  # (n, C)
        size = member.sum(axis=0)  # (C,)
        means = member.T @ train / np.maximum(size, 1)[:, None]  # (C, D)
        logits = -_squared_distances(test, means) / settings.temperature  # (m, C)
        out.append(np.asarray(softmax(np.where(size > 0, logits, -np.inf), axis=1)))  # (m, C)
    return out


def _squared_distances(a: Floats, b: Floats) -> Floats:
    """Squared Euclidean distances of the rows of (m, D) and (n, D), (m, n)."""
    import numpy as np
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(a, b, "sqeuclidean"))


def _to_length_one(x: Floats) -> Floats:
    """Scale the rows of (n, D) to length one; a row of zeros stays."""
    import numpy as np

    length = np.linalg.norm(x, axis=1, keepdims=True)  # (n, 1)
    return x / np.where(length > 0, length, 1.0)
