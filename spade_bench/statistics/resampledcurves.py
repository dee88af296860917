"""ROC and precision-recall curves of many resamples at fixed places."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["on_grid"]

_CACHED = 25_000  # numbers of a block that stays in the cache


def on_grid(
    kind: str, positive: NDArray[np.bool_], scores: Floats, weights: Floats, x: Floats
) -> Floats:
    """Evaluate ROC or precision-recall curves of many resamples at fixed places.

    ROC curves are joined by straight lines, so that the area below is the AUROC; precision at a
    recall is that of the highest threshold that reaches it, so that its mean over all recalls is
    the average precision.

    Args:
        kind: `roc` or `pr`.
        positive: (n,) whether each case is positive.
        scores: (n,) scores, high for positive; tied cases are called together.
        weights: (B, n) how often each case counts.
        x: (G,) false-positive rates or recalls, within 0..1.

    Returns:
        (B, G) true-positive rates or precisions; NaN for a resample that lacks a class.
    """
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of ties, (K,)
    out = np.empty((len(weights), len(x)))
    step = max(16, _CACHED // max(len(scores), len(x)))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        out[rows] = _block(kind, positive[order], ends, weights[rows][:, order], x)
    return out


def _block(
    kind: str,
    positive: NDArray[np.bool_],
    ends: NDArray[np.int64],
    counted: Floats,
    x: Floats,
) -> Floats:
    """What :func:`on_grid` says, of few resamples.

    Args:
        kind: `roc` or `pr`.
        positive: (n,) whether each case is positive, the highest score first.
        ends: (K,) the last case of each score.
        counted: (B, n) how often each case counts.
        x: (G,) places.
    """
    import numpy as np

    true = np.cumsum(counted * positive, axis=1)[:, ends]  # (B, K)
    false = np.cumsum(counted * ~positive, axis=1)[:, ends]
    n_true, n_false = true[:, -1:], false[:, -1:]
    lacking = ((n_true == 0) | (n_false == 0))[:, 0]  # (B,)
    recall = np.hstack([np.zeros_like(n_true), true / np.where(n_true > 0, n_true, 1)])  # (B, K+1)
    if kind == "roc":
        wrong = np.hstack([np.zeros_like(n_true), false / np.where(n_false > 0, n_false, 1)])
        out = _joined(wrong, recall, x)
    else:
        called = true + false
        precision = true / np.where(called > 0, called, 1)  # (B, K)
        at = np.minimum(_places(recall[:, 1:], x, "left"), len(ends) - 1)  # (B, G)
        # No recall at all is reached by no call: the first call that finds a case stands for it.
        first = np.minimum((true > 0).argmax(axis=1), len(ends) - 1)  # (B,)
        at = np.maximum(at, first[:, None]) + len(ends) * np.arange(len(at))[:, None]
        out = precision.ravel().take(at)
    out[lacking] = np.nan
    return out


def _places(rising: Floats, x: Floats, side: str) -> NDArray[np.int64]:
    """Search each row for all places at once: (B, K) rising in 0..1 and (G,) -> (B, G)."""
    import numpy as np

    rows, k = rising.shape
    near = 1e-10 if side == "left" else -1e-10  # of rates that sums of counts make
    order = np.argsort(x, kind="stable")
    # There are fewer values than places, so it is they that are searched for: before which place
    # each lies, and then how many lie before a place.
    before = _searched(x[order] - near, rising)  # (B, K) 0..G
    before += (len(x) + 1) * np.arange(rows)[:, None]
    count = np.bincount(before.ravel(), minlength=rows * (len(x) + 1)).reshape(rows, -1)
    found = np.empty((rows, len(x)), dtype=np.int64)
    found[:, order] = np.cumsum(count[:, :-1], axis=1)
    return np.clip(found, 0, k, out=found)


def _searched(places: Floats, values: Floats) -> NDArray[np.int64]:
    """Count for each of some values the sorted places that do not lie beyond it."""
    import numpy as np

    n, first, last = len(places), places[0], places[-1]
    if n > 1 and np.abs(places - np.linspace(first, last, n)).max() < 1e-12:
        # Nothing lies so near to a place that what rounding does to this division counts.
        at = np.floor((values - first) * ((n - 1) / (last - first)))
        even: NDArray[np.int64] = np.clip(at, -1, n - 1).astype(np.int64) + 1
        return even
    found: NDArray[np.int64] = np.searchsorted(places, values, side="right")
    return found


def _joined(rising: Floats, values: Floats, x: Floats) -> Floats:
    """Read lines through (B, K) places and values at (G,) others; at a step its upper end."""
    import numpy as np

    width, height = np.diff(rising, axis=1), np.diff(values, axis=1)  # (B, K-1)
    wide = width > 1e-12
    slope = np.zeros_like(rising)  # (B, K) of the line that begins at a place
    slope[:, :-1] = np.where(wide, height / np.where(wide, width, 1.0), 0.0)
    start = values - slope * rising  # (B, K) where that line would meet 0
    last = np.maximum(_places(rising, x, "right") - 1, 0)  # (B, G) the last place that is passed
    last += rising.shape[1] * np.arange(len(rising))[:, None]  # of the rows, end to end
    out = slope.ravel().take(last) * x
    out += start.ravel().take(last)
    return np.clip(out, 0.0, 1.0, out=out)
