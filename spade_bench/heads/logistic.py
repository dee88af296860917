"""Logistic regression on mean-pooled features: the linear probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.config import check_ranges
from spade_bench.heads._base import Fit
from spade_bench.heads._contribution import Linear
from spade_bench.heads._pooled import Form, Solved, pooled_head
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["LogisticConfig", "solve"]


@dataclass(frozen=True)
class LogisticConfig:
    """Settings of the logistic head.

    Attributes:
        C: Inverse strength of the L2 penalty, as in scikit-learn.
    """

    C: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_ranges(self, {"C": (1e-12, math.inf)}, "")


CARD = HeadCard(
    name="logistic",
    title="Logistic regression",
    kinds=("classification",),
    description="L2-penalised logistic regression on mean-pooled features, centred and scaled "
    "by one number in training",
    input="pooled",
    defaults=asdict(LogisticConfig()),
    grid={"C": (0.001, 0.01, 0.1, 1.0, 10.0)},
    cheap=True,
    reference="scikit-learn LogisticRegression; same optimum, solved for all draws at once",
)


def predict(
    tensors: Mapping[str, NDArray[Any]], x: Floats, n_outputs: int, settings: LogisticConfig
) -> Floats:
    """Class probabilities of mean vectors, (m, D) -> (m, C)."""
    return _probabilities(x @ tensors["weights"] + tensors["intercept"])  # (m, K) -> (m, C)


def linear(tensors: Mapping[str, NDArray[Any]], n_outputs: int, settings: LogisticConfig) -> Linear:
    """Logits of classes; where one logit tells two classes apart, the log odds of each."""
    import numpy as np

    weights, intercept = tensors["weights"], tensors["intercept"]  # (D, K), (K,)
    if len(intercept) > 1:
        return Linear(weights, intercept, "softmax")
    both = np.array([-1.0, 1.0])  # of the first class, of the second
    return Linear(weights * both, intercept * both, "log odds")


def _layout(dim: int, n_outputs: int) -> dict[str, tuple[tuple[int | None, ...], str]]:
    logits = 1 if n_outputs == 2 else n_outputs  # K
    return {"weights": ((dim, logits), "float64"), "intercept": ((logits,), "float64")}


@pooled_head(CARD, LogisticConfig, Form(_layout, predict, linear))
def solve(
    pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: LogisticConfig
) -> list[Solved]:
    """Solve all fits of one size at once."""
    from spade_bench.heads import _kernel

    with _kernel.one_thread():
        if n_outputs == 2 and len(fits[0].train) <= pooled.shape[1]:
            weights, shift = _kernel.fit_two_classes(pooled, fits, settings.C)  # (D, B), (B,)
            logits = (pooled @ weights + shift).T  # (B, N)
            return [
                Solved(
                    _probabilities(row[fit.test][:, None]),  # (m, 2)
                    partial(_tensors, weights[:, b : b + 1], shift[b : b + 1]),
                )
                for b, (row, fit) in enumerate(zip(logits, fits, strict=True))
            ]
        return _primal(pooled, fits, n_outputs, settings)


def _tensors(weights: Floats, intercept: Floats) -> dict[str, NDArray[Any]]:
    """Copies, so that what is kept of one fit does not hold the weights of all of them."""
    return {"weights": weights.copy(), "intercept": intercept.copy()}


def _primal(
    pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: LogisticConfig
) -> list[Solved]:
    """Solve for the weights themselves, in the space that the training cases span."""
    import numpy as np

    from spade_bench.heads import _softmax

    x = np.stack([pooled[fit.train] for fit in fits])  # (B, n, D)
    scaler = _softmax.Scaler.fit_overall(x)
    z, basis = _softmax.coordinates(scaler(x))  # (B, n, r), (B, D, r)
    target = np.stack([fit.target for fit in fits])  # (B, n)
    weights = _softmax.solve(z, target, n_outputs, settings.C)  # (B, r + 1, K)
    out = []
    for b, fit in enumerate(fits):
        # w in feature space, so that the test cases are scaled and projected in one product.
        w = (basis[b] @ weights[b, :-1]) / scaler.scale[b]  # (D, K)
        shift = weights[b, -1] - scaler.mean[b, 0] @ w  # (K,)
        tensors = {"weights": w, "intercept": shift}
        predictions = predict(tensors, pooled[fit.test], n_outputs, settings)  # (m, C)
        out.append(Solved(predictions, partial(_tensors, w, shift)))
    return out


def _probabilities(logits: Floats) -> Floats:
    import numpy as np
    from scipy.special import expit, softmax

    if logits.shape[1] == 1:
        return np.concatenate([expit(-logits), expit(logits)], axis=1)
    return np.asarray(softmax(logits, axis=1))
