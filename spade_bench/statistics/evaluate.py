"""Any metric by name, whatever the kind of task, for many resamples at once."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Any

from spade_bench.statistics.metrics import METRICS, score_many
from spade_bench.statistics.regression_metrics import REGRESSION_METRICS, regression_score_many
from spade_bench.statistics.survival_metrics import SURVIVAL_METRICS, survival_score_many

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["ALL_METRICS", "bounds", "chance", "direction", "evaluate", "is_measured",
           "metrics_of", "strata"]  # fmt: skip

ALL_METRICS = (*METRICS, *SURVIVAL_METRICS, *REGRESSION_METRICS)
_LOWER_IS_BETTER = {"brier", "ibs", "ece", "mae"}
_NEITHER = {"calibration_slope"}
_CORRELATIONS = ("pearson", "pearson_per_sample", "spearman")
_CHANCE = {
    **dict.fromkeys(("auroc", "auroc_over_time", "c_index", "c_index_uno"), 0.5),
    **dict.fromkeys(("kappa_quadratic", *_CORRELATIONS), 0.0),
}
_BOUNDS = {
    **dict.fromkeys(_NEITHER, (-float("inf"), float("inf"))),
    **dict.fromkeys(("kappa_quadratic", *_CORRELATIONS), (-1.0, 1.0)),
    "r2": (-float("inf"), 1.0),
    "mae": (0.0, float("inf")),
    "ece": (0.0, 1.0),
}
_BLOCK = 50_000


def evaluate(
    name: str,
    target: NDArray[Any],
    scores: Floats,
    weights: Floats | None = None,
    train: tuple[Floats, Floats] | None = None,
) -> Floats:
    """Evaluate a metric of any kind of task.

    Args:
        name: Name of the metric.
        target: (n,) class indices, (n,) measured values, or (n, 2) events and days.
        scores: (n, C) probabilities, (n, 1) predicted values, or (n, 1) risks.
        weights: (B, n) case weights; None for the cases as they are.
        train: Target and scores of the training cases, for survival.

    Returns:
        (B,) values, B = 1 without weights.

    Raises:
        ConfigError: When the kind of task has no metric of this name.
    """
    import numpy as np

    if target.ndim == 2:
        return survival_score_many(name, target, scores, weights, train)
    many = regression_score_many if is_measured(target) else score_many
    if weights is None:
        return many(name, target, scores)
    # A block of resamples that stays in the cache takes half the time of all at once.
    rows = max(1, _BLOCK // max(1, len(target)))
    blocks = [weights[i : i + rows] for i in range(0, len(weights), rows)]
    return np.concatenate([many(name, target, scores, block) for block in blocks])


@cache
def metrics_of(kind: str) -> Collection[str]:
    """Names of the metrics by which predictions of a kind are scored."""
    from spade_bench.statistics.genescores import GENE_METRICS

    of_kinds: dict[str, Collection[str]] = {
        "classification": METRICS,
        "expression": GENE_METRICS,
        "regression": REGRESSION_METRICS,
        "survival": SURVIVAL_METRICS,
    }
    return of_kinds[kind]


def is_measured(target: NDArray[Any]) -> bool:
    """Whether targets are measured values, not classes or events."""
    return target.ndim == 1 and target.dtype.kind == "f"


def strata(target: NDArray[Any]) -> NDArray[np.int64]:
    """Group of each case whose size resamples keep: the class, or whether the event happened.

    Cases with a measured value are one group.
    """
    import numpy as np

    if is_measured(target):
        return np.zeros(len(target), dtype=np.int64)
    return (target[:, 0] > 0).astype(np.int64) if target.ndim == 2 else target


def direction(name: str) -> int:
    """1 where more is better, -1 where less is better, 0 where neither end is."""
    return 0 if name in _NEITHER else -1 if name in _LOWER_IS_BETTER else 1


def bounds(name: str, n_classes: int = 0) -> tuple[float, float]:
    """Lowest and highest value that a metric can take, with any number of classes or this one."""
    if name in _BOUNDS:
        return _BOUNDS[name]
    if name == "brier" and n_classes == 2:
        return 0.0, 1.0
    return 0.0, 2.0 if name in _LOWER_IS_BETTER else 1.0


def chance(name: str, n_classes: int = 0) -> float | None:
    """Expected value of predictions that know nothing of the cases, where there is one.

    Args:
        name: Name of the metric.
        n_classes: Number of classes that are all among the test cases; 0 where one is not.

    Returns:
        The level; None for a metric whose level depends on how common the classes are, or on how
        sure the predictions are.
    """
    if name == "balanced_accuracy":
        return 1.0 / n_classes if n_classes else None
    return _CHANCE.get(name)
