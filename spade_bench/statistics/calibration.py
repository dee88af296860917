"""How honest class probabilities are: Brier score, slope and error, for many weightings.

The Brier score agrees with scikit-learn's ``brier_score_loss``, the slope with its unpenalised
``LogisticRegression`` of the outcome on the log odds (Cox, Biometrika 1958).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["ECE_BINS", "brier", "calibration_slope", "ece", "ece_of_calibrated"]

ECE_BINS = 10
"""Bins of equally many cases in which the calibration error is measured."""

_CLIP = 1e-6
_STEPS = 50


def brier(label: NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
    """Mean squared error of the probabilities, 0 at best.

    With two classes that of the second one; with more the squared errors of all are summed.

    Args:
        label: (n,) class index of each case.
        scores: (n, C) probabilities.
        weights: (B, n) case weights, or None for one unweighted evaluation.

    Returns:
        (B,) values (B = 1 without weights).
    """
    import numpy as np

    truth = (label[:, None] == np.arange(scores.shape[1])).astype(float)  # (n, C)
    errors = (scores - truth) ** 2  # (n, C)
    per_case = errors[:, 1] if scores.shape[1] == 2 else errors.sum(axis=1)  # (n,)
    counts = np.ones((1, len(label))) if weights is None else weights
    return np.asarray((counts @ per_case) / counts.sum(axis=1))


def calibration_slope(
    label: NDArray[np.int64], scores: Floats, weights: Floats | None = None
) -> Floats:
    """Slope of the outcome's log odds on the predicted log odds: 1 is calibrated.

    Below 1 probabilities are too extreme, above 1 too timid, 0 says that they carry nothing. With
    more than two classes the mean over the classes, each against the rest. Probabilities are
    clipped to 1e-6 from 0 and 1. Arguments as for :func:`brier`.

    Returns:
        (B,) slopes; NaN where a class is absent, where all scores are equal, or where scores
        separate the classes so that no finite slope fits best.
    """
    import numpy as np

    counts = np.ones((1, len(label))) if weights is None else np.asarray(weights, dtype=float)
    columns = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    slopes = []
    for column in columns:
        p = np.clip(scores[:, column], _CLIP, 1 - _CLIP)
        slopes.append(_slope((label == column).astype(float), np.log(p / (1 - p)), counts))
    return np.asarray(np.mean(slopes, axis=0))


def ece(label: NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
    """Expected calibration error: mean gap between what is predicted and what happens, per bin.

    Bins hold equally many cases (`ECE_BINS` of them, fewer where predictions are tied), by the
    probability of the second of two classes, or with more classes by that of the likeliest, which
    is then right or wrong. Bins are those of the cases as they are, also in resamples.

    The error is never below zero and therefore too high on average: chance alone makes gaps. What
    calibrated probabilities would show is :func:`ece_of_calibrated`.

    Arguments and result as for :func:`brier`.
    """
    import numpy as np

    predicted, happened = _events(label, scores)  # (n,) each
    member = _bins(predicted)  # (n, K)
    counts = np.ones((1, len(label))) if weights is None else np.asarray(weights, dtype=float)
    gaps = counts @ (member * (happened - predicted)[:, None])  # (B, K)
    return np.asarray(np.abs(gaps).sum(axis=1) / counts.sum(axis=1))


def ece_of_calibrated(label: NDArray[np.int64], scores: Floats) -> float:
    """Calibration error that chance alone gives on average, were the probabilities true.

    The mean over a bin of what happens varies around what is predicted as a sum of coin tosses
    does, of which the mean absolute value is that of a normal distribution.

    Args:
        label: (n,) class index of each case.
        scores: (n, C) probabilities.
    """
    import numpy as np

    predicted, _ = _events(label, scores)
    variance = _bins(predicted).T @ (predicted * (1 - predicted))  # (K,)
    return float(np.sqrt(2 / np.pi * variance).sum() / len(predicted))


def _events(label: NDArray[np.int64], scores: Floats) -> tuple[Floats, Floats]:
    """Probability of an event of each case and whether it happened, (n,) each."""
    import numpy as np

    if scores.shape[1] == 2:
        return scores[:, 1], (label == 1).astype(float)
    best = scores.argmax(axis=1)  # (n,)
    return scores[np.arange(len(label)), best], (label == best).astype(float)


def _bins(predicted: Floats) -> Floats:
    """Which bin each case is in, (n, K) of 0 and 1; equal predictions share a bin."""
    import numpy as np

    edges = np.unique(np.quantile(predicted, np.arange(1, ECE_BINS) / ECE_BINS))
    place = np.searchsorted(edges, predicted, side="left")  # (n,)
    member: Floats = (place[:, None] == np.unique(place)).astype(float)
    return member


def _slope(y: Floats, x: Floats, weights: Floats) -> Floats:
    """Newton's method for B weighted logistic regressions with an intercept, (B,)."""
    import numpy as np

    total = weights.sum(axis=1)  # (B,)
    positive = weights @ y  # (B,)
    centre = (weights @ x / total)[:, None]  # (B, 1)
    z = x - centre  # (B, n)
    spread = np.sqrt((weights * z**2).sum(axis=1) / total)  # (B,)
    usable = (positive > 0) & (positive < total) & (spread > 1e-12)
    z = z / np.where(spread > 1e-12, spread, 1.0)[:, None]
    share = np.clip(positive / total, 1e-9, 1 - 1e-9)
    a, b = np.log(share / (1 - share)), np.zeros(len(total))
    step = np.full(len(total), np.inf)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(a[:, None] + b[:, None] * z, -40, 40)))  # (B, n)
        residual, curve = weights * (y - p), weights * p * (1 - p)  # (B, n)
        g0, g1 = residual.sum(axis=1), (residual * z).sum(axis=1)
        h00, h01, h11 = curve.sum(axis=1), (curve * z).sum(axis=1), (curve * z**2).sum(axis=1)
        det = h00 * h11 - h01**2
        safe = np.where(det > 1e-12, det, np.inf)
        da, db = (h11 * g0 - h01 * g1) / safe, (h00 * g1 - h01 * g0) / safe
        step = np.where(det > 1e-12, np.maximum(np.abs(da), np.abs(db)), np.inf)
        damp = np.minimum(1.0, 2.0 / np.maximum(np.where(np.isfinite(step), step, 1.0), 1e-300))
        a, b = a + damp * da, b + damp * db
        if (step[usable] < 1e-10).all():
            break
    good = usable & (step < 1e-6)
    return np.where(good, b / np.where(spread > 1e-12, spread, 1.0), np.nan)
