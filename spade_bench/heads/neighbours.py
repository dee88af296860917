"""Heads without training: nearest neighbours and nearest class mean on mean-pooled features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from spade_bench.config import check_ranges
from spade_bench.heads._base import Fit
from spade_bench.heads._pooled import Form, Solved, pooled_head
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Tensors = Mapping[str, NDArray[Any]]

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
    title="Nearest neighbours",
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
    title="Class prototypes",
    kinds=("classification",),
    description="Nearest class mean after centring on the training cases and scaling to length 1",
    input="pooled",
    defaults=asdict(PrototypeConfig()),
    grid={"centre": (True, False)},
    cheap=True,
    reference="Wang, Chao, Weinberger, van der Maaten: SimpleShot, arXiv:1911.04623",
)


def predict_knn(tensors: Tensors, x: Floats, n_outputs: int, settings: KnnConfig) -> Floats:
    """Let the nearest training cases vote; of equally near ones the first in training order."""
    import numpy as np

    train = tensors["train"]  # (n, D)
    if settings.metric == "cosine":
        x, train = _to_length_one(x), _to_length_one(train)
    distance = _squared_distances(x, train)  # (m, n)
    nearest = distance.argsort(axis=1, kind="stable")[:, : settings.k]  # (m, k)
    votes: Floats = np.eye(n_outputs)[tensors["target"][nearest]].mean(axis=1)  # (m, C)
    return votes


def _knn_layout(dim: int, n_outputs: int) -> dict[str, tuple[tuple[int | None, ...], str]]:
    return {"train": ((None, dim), "float64"), "target": ((None,), "int64")}


@pooled_head(KNN, KnnConfig, Form(_knn_layout, predict_knn))
def knn(pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: KnnConfig) -> list[Solved]:
    """Keep the training cases: there is nothing to fit."""
    out = []
    for fit in fits:
        tensors = partial(_neighbours, pooled, fit)
        predictions = predict_knn(tensors(), pooled[fit.test], n_outputs, settings)  # (m, C)
        out.append(Solved(predictions, tensors))
    return out


def _neighbours(pooled: Floats, fit: Fit) -> dict[str, NDArray[Any]]:
    import numpy as np

    return {"train": pooled[fit.train], "target": np.asarray(fit.target, dtype=np.int64)}


def predict_prototype(
    tensors: Tensors, x: Floats, n_outputs: int, settings: PrototypeConfig
) -> Floats:
    """Compare with the mean of each class; a class without training cases gets probability 0."""
    import numpy as np
    from scipy.special import softmax

    x = _to_length_one(x - tensors["centre"])  # (m, D)
    logits = -_squared_distances(x, tensors["means"]) / settings.temperature  # (m, C)
    return np.asarray(softmax(np.where(tensors["sizes"] > 0, logits, -np.inf), axis=1))  # (m, C)


def _prototype_layout(dim: int, n_outputs: int) -> dict[str, tuple[tuple[int | None, ...], str]]:
    return {
        "centre": ((dim,), "float64"),
        "means": ((n_outputs, dim), "float64"),
        "sizes": ((n_outputs,), "float64"),
    }


@pooled_head(PROTOTYPE, PrototypeConfig, Form(_prototype_layout, predict_prototype))
def prototype(
    pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: PrototypeConfig
) -> list[Solved]:
    """Take the mean of each class, after centring and scaling to length one."""
    out = []
    for fit in fits:
        tensors = _prototypes(pooled[fit.train], fit, n_outputs, settings)
        predictions = predict_prototype(tensors, pooled[fit.test], n_outputs, settings)  # (m, C)
        out.append(Solved(predictions, partial(dict, tensors)))
    return out


def _prototypes(
    train: Floats, fit: Fit, n_outputs: int, settings: PrototypeConfig
) -> dict[str, NDArray[Any]]:
    import numpy as np

    centre = train.mean(axis=0) if settings.centre else np.zeros(train.shape[1])  # (D,)
    train = _to_length_one(train - centre)  # (n, D)
    member = np.eye(n_outputs)[fit.target]  # (n, C)
    sizes = member.sum(axis=0)  # (C,)
    means = member.T @ train / np.maximum(sizes, 1)[:, None]  # (C, D)
    return {"centre": centre, "means": means, "sizes": sizes}


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
