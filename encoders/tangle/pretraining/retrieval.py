"""Does a held-out slide find its own case's expression among the others', better than chance?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["score_retrieval"]

_DRAWS = 2000
_PERMUTATIONS = 5000


def score_retrieval(
    slide: NDArray[np.floating], expression: NDArray[np.floating], seed: int = 0
) -> dict[str, Any]:
    """Score retrieval among n held-out cases, both ways.

    The percentile of a query is the share of the other candidates that its partner beats (ties
    count one half): 1 is perfect, 0.5 is chance. Its interval resamples cases. The p value counts
    random pairings of the same vectors with a mean percentile as high: exact under chance.

    Args:
        slide: Slide vectors, (n, H).
        expression: Expression vectors, (n, H), row i the partner.
        seed: Seed of resamples and pairings.

    Returns:
        n, percentile with low and high, recall at 1, 5 and 10 with low, high and chance, the p
        value, and whether chance is beaten: p below 0.05 and the interval above 0.5.
    """
    cosine = _unit(slide) @ _unit(expression).T  # (n, n)
    n = len(cosine)
    both = np.stack([_percentiles(cosine), _percentiles(cosine.T)])  # (2, n, n)
    pair_percentile = both[:, np.arange(n), np.arange(n)].mean(axis=0)  # (n,)
    rng = np.random.default_rng([seed, 23])
    picks = rng.integers(0, n, (_DRAWS, n))  # (draws, n)
    out: dict[str, Any] = {"n": n, "percentile": _summary(pair_percentile, picks, 0.5)}
    ranks = (1 - both[:, np.arange(n), np.arange(n)]) * (n - 1)  # (2, n), 0 is best
    for k in (1, 5, 10):
        if k < n:
            hits = (ranks < k).mean(axis=0)  # (n,)
            out[f"recall@{k}"] = _summary(hits, picks, k / n)
    means = np.empty(_PERMUTATIONS)
    for i in range(_PERMUTATIONS):
        other = rng.permutation(n)
        means[i] = (both[0, np.arange(n), other] + both[1, other, np.arange(n)]).mean() / 2
    out["p"] = float((1 + (means >= pair_percentile.mean() - 1e-12).sum()) / (1 + _PERMUTATIONS))
    out["beats_chance"] = bool(out["p"] < 0.05 and out["percentile"]["low"] > 0.5)
    return out


def _percentiles(cosine: NDArray[np.floating]) -> NDArray[np.float64]:
    """For each row, the share of the other columns that a column beats, (n, n)."""
    from scipy.stats import rankdata

    ranks = rankdata(cosine, method="average", axis=1)  # (n, n), 1 is the least similar
    return np.asarray((ranks - 1) / (cosine.shape[1] - 1), dtype=np.float64)  # (n, n)


def _summary(
    values: NDArray[np.float64], picks: NDArray[np.int64], chance: float
) -> dict[str, float]:
    means = values[picks].mean(axis=1)  # (draws,)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "mean": float(values.mean()),
        "low": float(low),
        "high": float(high),
        "chance": chance,
    }


def _unit(x: NDArray[np.floating]) -> NDArray[np.float64]:
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
