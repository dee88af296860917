"""Penalised Cox regression on mean-pooled features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.config import check_ranges
from spade_bench.errors import DataError
from spade_bench.heads._base import Fit
from spade_bench.heads._contribution import Linear
from spade_bench.heads._pooled import Form, Solved, pooled_head
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["CoxConfig", "solve"]


@dataclass(frozen=True)
class CoxConfig:
    """Settings of the Cox head.

    Attributes:
        components: Principal components of the scaled training features that enter the model.
            Never more than half the training cases, or than there are.
        penalizer: Ridge penalty of lifelines, on components scaled to unit variance.
    """

    components: int = 16
    penalizer: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        ranges = {"components": (1, math.inf), "penalizer": (1e-12, math.inf)}
        check_ranges(self, ranges, "")


CARD = HeadCard(
    name="cox",
    title="Cox regression",
    kinds=("survival",),
    description="Ridge Cox regression on principal components of mean-pooled features",
    input="pooled",
    defaults=asdict(CoxConfig()),
    grid={"components": (4, 16, 64), "penalizer": (0.01, 0.1, 1.0)},
    cheap=True,
    reference="Cox 1972, fitted by lifelines CoxPHFitter",
)


def predict(
    tensors: Mapping[str, NDArray[Any]], x: Floats, n_outputs: int, settings: CoxConfig
) -> Floats:
    """Log risks of mean vectors, (m, D) -> (m, 1)."""
    scaled = (x - tensors["mean"]) / tensors["scale"]  # (m, D)
    risk: Floats = scaled @ tensors["projection"] @ tensors["beta"]  # (m,)
    return risk[:, None]  # (m, 1)


def linear(tensors: Mapping[str, NDArray[Any]], n_outputs: int, settings: CoxConfig) -> Linear:
    """The log risk, with scaling and components folded into the weights."""
    import numpy as np

    weights = tensors["projection"] @ tensors["beta"] / tensors["scale"]  # (D,)
    return Linear(weights[:, None], np.atleast_1d(-tensors["mean"] @ weights), "risk")


FORM = Form(
    lambda dim, n_outputs: {
        "mean": ((dim,), "float64"),
        "scale": ((dim,), "float64"),
        "projection": ((dim, None), "float64"),
        "beta": ((None,), "float64"),
    },
    predict,
    linear,
)


@pooled_head(CARD, CoxConfig, FORM)
def solve(pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: CoxConfig) -> list[Solved]:
    """Fit one after another. Scaling and components come from the training cases alone.

    With more features than cases the likelihood has no maximum; the few leading components and
    the ridge make it one, also with two cases.
    """
    out = []
    for fit in fits:
        tensors = _fit(pooled[fit.train], fit.target, settings)
        predictions = predict(tensors, pooled[fit.test], n_outputs, settings)  # (m, 1)
        out.append(Solved(predictions, partial(dict, tensors)))
    return out


def _fit(x: Floats, target: Floats, settings: CoxConfig) -> dict[str, NDArray[Any]]:
    import numpy as np
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError, ConvergenceWarning

    from spade_bench.heads._softmax import Scaler

    if not target[:, 0].any():
        raise DataError("no event among the training cases", where="head cox")
    scaler = Scaler.fit(x[None])
    scaled = scaler(x)[0]  # (n, D)
    _, spread, axes = np.linalg.svd(scaled, full_matrices=False)  # (r,), (r, D)
    real = int((spread > 1e-8 * max(spread[0], 1.0)).sum())
    rank = min(settings.components, max(1, len(x) // 2), real)
    scaling = {"mean": scaler.mean[0, 0], "scale": scaler.scale[0, 0]}  # (D,) each
    if rank == 0:  # cases that are all alike have one risk
        return {**scaling, "projection": np.zeros((x.shape[1], 0)), "beta": np.zeros(0)}
    # Components of unit variance, so that the ridge treats them alike.
    projection = axes[:rank].T / spread[:rank] * np.sqrt(len(x))  # (D, r)
    names = [f"c{i}" for i in range(rank)]
    table = pd.DataFrame(scaled @ projection, columns=names)  # (n, r)
    table["duration_days"], table["event"] = target[:, 1], target[:, 0]
    model = CoxPHFitter(penalizer=settings.penalizer)
    try:
        with warnings.catch_warnings():
            # Components that separate the few events are what the ridge is for.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            model.fit(table, "duration_days", "event")
    except ConvergenceError as error:
        raise DataError(
            f"Cox regression on {len(x)} cases did not converge",
            where="head cox",
            fix="Raise penalizer or lower components",
        ) from error
    return {**scaling, "projection": projection, "beta": model.params_.to_numpy()}  # beta: (r,)
