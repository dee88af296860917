"""Where the true partner lands among all candidates, ties counted fairly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from spade_bench.errors import DataError

__all__ = ["DIRECTIONS", "METRICS", "RECALL_AT", "PartnerRanks", "chance_values", "partner_ranks"]

DIRECTIONS = ("image_to_expression", "expression_to_image")
RECALL_AT = (1, 5, 10)
METRICS = (*(f"recall@{k}" for k in RECALL_AT), "mean_percentile")


@dataclass(frozen=True)
class PartnerRanks:
    """Ranks of the true partner of every spot of one sample, in both directions.

    Attributes:
        better: (2, n) number of candidates with a higher score than the true partner.
        ties: (2, n) number of OTHER candidates with the same score.
    """

    better: np.ndarray
    ties: np.ndarray

    def values(self) -> np.ndarray:
        """Return (2, 4, n) values in the order of `DIRECTIONS` and `METRICS`.

        A tie counts as its expectation under random order: recall@k is the share of the orders
        that put the partner among the first k, and the percentile uses the mid-rank. A constant
        score therefore reads exactly k / n and 0.5.
        """
        n = self.better.shape[1]
        hits = [np.clip((k - self.better) / (self.ties + 1), 0.0, 1.0) for k in RECALL_AT]
        percentile = (self.better + 0.5 * self.ties) / (n - 1)
        return np.stack([*hits, percentile], axis=1)


def chance_values(n: int) -> np.ndarray:
    """Return the (4,) values a random order of `n` candidates has in expectation."""
    return np.array([*(min(1.0, k / n) for k in RECALL_AT), 0.5])


def partner_ranks(
    score_rows: Callable[[int, int], torch.Tensor],
    pair_scores: torch.Tensor,
    *,
    tolerance: float = 0.0,
    chunk: int = 1024,
) -> PartnerRanks:
    """Rank the true partners from a score matrix that is never held whole.

    Args:
        score_rows: Function of (start, stop) giving rows start..stop of the (n, n) scores of
            images (rows) against expressions (columns).
        pair_scores: (n,) score of each true pair, the diagonal.
        tolerance: Scores closer than this are ties: the same number computed by two matrix
            products differs in its last bits.
        chunk: Rows computed at once.

    Raises:
        DataError: When there are fewer than two spots or a score is not finite.
    """
    n = pair_scores.shape[0]
    if n < 2:
        raise DataError(f"retrieval needs at least two spots in a sample, here are {n}")
    better = torch.zeros(2, n, dtype=torch.int64, device=pair_scores.device)
    ties = torch.zeros(2, n, dtype=torch.int64, device=pair_scores.device)
    for start in range(0, n, chunk):
        stop = min(start + chunk, n)
        scores = score_rows(start, stop)  # (stop - start, n)
        if not bool(torch.isfinite(scores).all()):
            raise DataError("retrieval scores are not finite", fix="check the features for NaN")
        for direction, gap in enumerate(
            (scores - pair_scores[start:stop, None], scores - pair_scores[None, :])
        ):
            gap[torch.arange(stop - start), torch.arange(start, stop)] = float("-inf")  # itself
            higher, same = gap > tolerance, gap.abs() <= tolerance  # (stop - start, n)
            if direction == 0:
                better[0, start:stop], ties[0, start:stop] = higher.sum(1), same.sum(1)
            else:
                better[1] += higher.sum(0)
                ties[1] += same.sum(0)
    return PartnerRanks(better.cpu().numpy(), ties.cpu().numpy())
