"""Percentile bootstrap of means, over spots within samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["interval", "resampled_means"]

_BLOCK = 2_000_000  # multinomial counts held at once


def resampled_means(
    values: np.ndarray, strata: Sequence[object] | np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """Return bootstrap means of several metrics, resampling rows within strata.

    The same seed gives the same resamples, so that two calls are paired; a difference of two
    methods is resampled by passing the difference.

    Args:
        values: (m, n) values of m metrics on n spots.
        strata: (n,) sample of each spot. Each stratum keeps its size.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        (draws, m) means over all n spots.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), stratified resampling.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    _, codes = np.unique(np.asarray(strata), return_inverse=True)
    sums = np.zeros((draws, values.shape[0]))
    for code in range(int(codes.max()) + 1):
        inside = values[:, codes == code]  # (m, n_stratum)
        size = inside.shape[1]
        block = max(1, _BLOCK // size)
        for start in range(0, draws, block):
            stop = min(start + block, draws)
            counts = rng.multinomial(size, np.full(size, 1.0 / size), size=stop - start)
            sums[start:stop] += counts @ inside.T  # (stop - start, m)
    means: np.ndarray = sums / values.shape[1]
    return means


def interval(means: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the (m,) lower and upper percentile bounds of (draws, m) bootstrap means."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return low, high
