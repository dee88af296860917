"""Classification metrics that take many case weightings at once.

A bootstrap resample is a vector of case counts, so a metric that accepts a matrix of counts
``(B, n)`` evaluates ``B`` resamples with one sort. Unweighted results agree with scikit-learn,
ties included (``roc_auc_score``, ``average_precision_score``, ``balanced_accuracy_score``,
``f1_score(average="macro")``, ``cohen_kappa_score``, ``roc_curve``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from spade_bench.errors import ConfigError
from spade_bench.statistics.calibration import brier, calibration_slope, ece

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Metric = Callable[[NDArray[np.int64], Floats, Floats | None], Floats]

__all__ = [
    "METRICS",
    "auprc",
    "auroc",
    "balanced_accuracy",
    "f1_macro",
    "kappa_quadratic",
    "macro_f1",
    "mean_recall",
    "score",
    "score_many",
    "sensitivity_at",
]

_SUMMED_IN_TURN = 8  # so many numbers numpy adds in another order


def auroc(label: NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
    """Area under the ROC curve; macro one-versus-rest with more than two classes.

    Args:
        label: (n,) class index of each case.
        scores: (n, C) score of each class; with C = 2 only the second column counts.
        weights: (B, n) case weights, or None for one unweighted evaluation.

    Returns:
        (B,) values (B = 1 without weights), NaN where a class is absent.
    """
    return _per_class(label, scores, weights, _binary_auroc)


def auprc(label: NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
    """Average precision of the second class; macro one-versus-rest with more classes.

    Arguments and result as for :func:`auroc`.
    """
    return _per_class(label, scores, weights, _binary_auprc)


def balanced_accuracy(
    label: NDArray[np.int64], scores: Floats, weights: Floats | None = None
) -> Floats:
    """Mean recall over the classes that occur. Arguments and result as for :func:`auroc`."""
    truth, hit, _ = _confusion(label, scores, weights)
    return mean_recall(truth, hit)


def f1_macro(label: NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
    """Mean F1 over the classes that occur in labels or predictions. As :func:`auroc`."""
    return macro_f1(*_confusion(label, scores, weights))


def kappa_quadratic(
    label: NDArray[np.int64], scores: Floats, weights: Floats | None = None
) -> Floats:
    """Cohen's kappa with quadratic weights between the truth and the likeliest class.

    For ordinal classes: a call two grades off costs four times as much as one grade off. Equal to
    scikit-learn's ``cohen_kappa_score(weights="quadratic", labels=range(C))``. Arguments and
    result as for :func:`auroc`; NaN where truth and calls are one and the same class.
    """
    import numpy as np

    truth, _, predicted = _confusion(label, scores, weights)  # (B, C) each
    weights = np.ones((1, len(label))) if weights is None else weights
    classes = np.arange(scores.shape[1])
    cost = (classes[:, None] - classes) ** 2  # (C, C)
    observed = weights @ (label - scores.argmax(axis=1)) ** 2.0  # (B,)
    total = truth.sum(axis=1)  # (B,)
    expected = ((truth @ cost) * predicted).sum(axis=1) / np.maximum(total, 1e-300)  # (B,)
    known = expected > 0
    return np.where(known, 1.0 - observed / np.where(known, expected, 1.0), np.nan)


def sensitivity_at(specificity: float) -> Metric:
    """Return a metric: the highest sensitivity of any threshold at least this specific.

    Args:
        specificity: Between 0 and 1.

    Returns:
        A metric like :func:`auroc`, macro one-versus-rest with more than two classes.
    """

    def binary(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
        import numpy as np

        up, down = _tie_groups(positive, score, weights)  # (B, G)
        hits, alarms = np.cumsum(up, axis=1), np.cumsum(down, axis=1)  # (B, G)
        n_up, n_down = hits[:, -1], alarms[:, -1]  # (B,)
        # Alarms are counts; the margin only absorbs the rounding of 1 - specificity.
        allowed = alarms <= (1 - specificity) * n_down[:, None] + 1e-9  # (B, G)
        best = np.where(allowed, hits, 0.0).max(axis=1)  # (B,)
        known = (n_up > 0) & (n_down > 0)
        return np.where(known, best / np.where(known, n_up, 1.0), np.nan)

    def metric(label: NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
        return _per_class(label, scores, weights, binary)

    return metric


METRICS: Mapping[str, Metric] = {
    "auroc": auroc,
    "auprc": auprc,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": f1_macro,
    "kappa_quadratic": kappa_quadratic,
    "sensitivity_at_90_specificity": sensitivity_at(0.90),
    "sensitivity_at_95_specificity": sensitivity_at(0.95),
    "brier": brier,
    "calibration_slope": calibration_slope,
    "ece": ece,
}


def score_many(
    name: str, label: NDArray[np.int64], scores: Floats, weights: Floats | None = None
) -> Floats:
    """Evaluate the metric called ``name``.

    Raises:
        ConfigError: When no classification metric has this name.
    """
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}", fix=f"Use one of {', '.join(METRICS)}")
    return METRICS[name](label, scores, weights)


def score(names: Sequence[str], label: NDArray[np.int64], scores: Floats) -> dict[str, float]:
    """Return each named metric once, unweighted."""
    return {name: float(score_many(name, label, scores)[0]) for name in names}


def _per_class(
    label: NDArray[np.int64],
    scores: Floats,
    weights: Floats | None,
    binary: Callable[[NDArray[np.bool_], Floats, Floats], Floats],
) -> Floats:
    import numpy as np

    weights = np.ones((1, len(label))) if weights is None else weights
    columns = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    values = [binary(label == c, scores[:, c], weights) for c in columns]
    return np.asarray(np.mean(values, axis=0))


def _tie_groups(
    positive: NDArray[np.bool_], score: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Sum the weights of positives and negatives over equal scores, best score first."""
    import numpy as np

    order = np.argsort(-score, kind="stable")  # (n,)
    descending = score[order]
    starts = np.flatnonzero(np.r_[True, descending[1:] != descending[:-1]])  # (G,)
    ordered = np.take(weights, order, axis=1)  # (B, n)
    if len(starts) == len(score):  # no ties
        return ordered * positive[order], ordered * ~positive[order]
    up = np.add.reduceat(ordered * positive[order], starts, axis=1)  # (B, G)
    down = np.add.reduceat(ordered * ~positive[order], starts, axis=1)  # (B, G)
    return up, down


def _binary_auroc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    import numpy as np

    up, down = _tie_groups(positive, score, weights)
    # A positive wins against every negative in a later group and half of those in its own.
    below = down.sum(axis=1, keepdims=True) - np.cumsum(down, axis=1)  # (B, G)
    wins = (up * (below + 0.5 * down)).sum(axis=1)  # (B,)
    pairs = up.sum(axis=1) * down.sum(axis=1)  # (B,)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1e-300), np.nan)


def _binary_auprc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    import numpy as np

    up, down = _tie_groups(positive, score, weights)
    hit = np.cumsum(up, axis=1)  # (B, G)
    called = hit + np.cumsum(down, axis=1)  # (B, G)
    total = hit[:, -1]  # (B,)
    area = (up * hit / np.maximum(called, 1e-300)).sum(axis=1)  # (B,)
    return np.where(total > 0, area / np.maximum(total, 1e-300), np.nan)


def _confusion(
    label: NDArray[np.int64], scores: Floats, weights: Floats | None
) -> tuple[Floats, Floats, Floats]:
    """Weights per class of the truth, of the hits and of the calls, each (B, C)."""
    import numpy as np

    weights = np.ones((1, len(label))) if weights is None else weights
    classes = np.arange(scores.shape[1])
    truth = (label[:, None] == classes).astype(float)  # (n, C)
    called = (scores.argmax(axis=1)[:, None] == classes).astype(float)  # (n, C)
    return weights @ truth, weights @ (truth * called), weights @ called


def mean_recall(truth: Floats, hit: Floats) -> Floats:
    """Mean over classes of the share that was found, (...), from (..., C) weights of both."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        recall = np.where(truth > 0, hit / np.maximum(truth, 1e-300), np.nan)  # (..., C)
    return _nan_mean(recall)


def macro_f1(truth: Floats, hit: Floats, predicted: Floats) -> Floats:
    """Mean F1 over classes, (...), from (..., C) weights of the truth, the hits and the calls."""
    import numpy as np

    total = truth + predicted  # (..., C): 2 tp + fp + fn
    return _nan_mean(np.where(total > 0, 2 * hit / np.maximum(total, 1e-300), np.nan))


def _nan_mean(values: Floats) -> Floats:
    """Mean over the last axis without its NaN entries; NaN where all are NaN."""
    import numpy as np

    known = np.isfinite(values)
    if known.all():
        return np.asarray(_total(values) / values.shape[-1])
    count = known.sum(axis=-1)
    total = _total(np.where(known, values, 0.0))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _total(values: Floats) -> Floats:
    """Sum over the last axis: of a few classes one after another, which numpy is slow to do."""
    import numpy as np

    n = values.shape[-1]
    if not 0 < n < _SUMMED_IN_TURN:
        return np.asarray(values.sum(axis=-1))
    total = values[..., 0].copy()
    for c in range(1, n):
        total += values[..., c]
    return np.asarray(total)
