"""Ridge regression on mean-pooled features."""

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

__all__ = ["RidgeConfig", "solve"]


@dataclass(frozen=True)
class RidgeConfig:
    """Settings of the ridge head.

    Attributes:
        alpha: Penalty per feature: the variance of the noise over that of the signal, if each
            feature carries as much of it. scikit-learn's `Ridge(alpha * dim)` on the scaled
            features is the same.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_ranges(self, {"alpha": (1e-12, math.inf)}, "")


CARD = HeadCard(
    name="ridge",
    title="Ridge regression",
    kinds=("regression",),
    description="L2-penalised linear regression on mean-pooled features, centred and scaled by one "
    "number in training",
    input="pooled",
    defaults=asdict(RidgeConfig()),
    grid={"alpha": (0.001, 0.01, 0.1, 1.0, 10.0)},
    cheap=True,
    reference="Hoerl and Kennard, Technometrics 1970; scikit-learn Ridge, same optimum",
)


def predict(
    tensors: Mapping[str, NDArray[Any]], x: Floats, n_outputs: int, settings: RidgeConfig
) -> Floats:
    """Values of mean vectors, (m, D) -> (m, 1)."""
    values: Floats = x @ tensors["weights"] + tensors["intercept"]  # (m, 1)
    return values


def linear(tensors: Mapping[str, NDArray[Any]], n_outputs: int, settings: RidgeConfig) -> Linear:
    """The predicted value itself."""
    return Linear(tensors["weights"], tensors["intercept"], "value")


FORM = Form(
    lambda dim, n_outputs: {
        "weights": ((dim, n_outputs), "float64"),
        "intercept": ((n_outputs,), "float64"),
    },
    predict,
    linear,
)


@pooled_head(CARD, RidgeConfig, FORM)
def solve(
    pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: RidgeConfig
) -> list[Solved]:
    """Solve all fits; those that share their training cases share one factorisation."""
    import numpy as np

    alike: dict[bytes, list[int]] = {}
    for at, fit in enumerate(fits):
        alike.setdefault(fit.train.tobytes(), []).append(at)
    out: dict[int, Solved] = {}
    for members in alike.values():
        targets = np.stack([fits[at].target for at in members], axis=1)  # (n, T)
        weights, shift = _fit(pooled[fits[members[0]].train], targets, settings.alpha)
        for column, at in enumerate(members):
            # Copies, so that what is kept of one fit does not hold the weights of all of them.
            tensors = {
                "weights": weights[:, column : column + 1].copy(),  # (D, 1)
                "intercept": shift[column : column + 1].copy(),  # (1,)
            }
            predictions = predict(tensors, pooled[fits[at].test], n_outputs, settings)  # (m, 1)
            out[at] = Solved(predictions, partial(dict, tensors))
    return [out[at] for at in range(len(fits))]


def _fit(x: Floats, targets: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Weights and intercepts of T targets of the same cases.

    Args:
        x: Mean vectors of the training cases, (n, D).
        targets: (n, T).
        alpha: Penalty per feature.

    Returns:
        (D, T) and (T,).
    """
    import numpy as np

    from spade_bench.heads._softmax import Scaler

    n, dim = x.shape
    scaler = Scaler.fit_overall(x[None])
    z = scaler(x)[0]  # (n, D), centred
    centre = targets.mean(axis=0)  # (T,)
    y = targets - centre  # (n, T)
    if n <= dim:  # in the space of the cases
        gram = z @ z.T  # (n, n)
        scaled = z.T @ np.linalg.solve(gram + alpha * dim * np.eye(n), y)  # (D, T)
    else:
        scaled = np.linalg.solve(z.T @ z + alpha * dim * np.eye(dim), z.T @ y)  # (D, T)
    weights = scaled / scaler.scale[0, 0, 0]  # (D, T)
    shift: Floats = centre - scaler.mean[0, 0] @ weights  # (T,)
    return weights, shift
