"""Encoders over tasks: mean ranks with bootstrap intervals, and the signed-rank test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["MeanRanks", "SignedRank", "mean_ranks", "middle_ranks", "signed_rank"]

_EXACT_UP_TO = 50


@dataclass(frozen=True)
class MeanRanks:
    """Mean rank of each encoder over the tasks on which all of them have a result.

    Attributes:
        rank: (E,) mean rank, 1 is best; tied encoders share the mean of their ranks.
        low: (E,) lower end of the 95% interval.
        high: (E,) upper end.
        tasks: Positions of the tasks that counted.
    """

    rank: Floats
    low: Floats
    high: Floats
    tasks: tuple[int, ...]


def mean_ranks(
    scores: Floats,
    resampled: Floats | None = None,
    *,
    resample_tasks: bool = True,
    n_boot: int = 1000,
    seed: int = 0,
) -> MeanRanks:
    """Rank encoders on each task and average.

    Args:
        scores: (E, T) metric of each encoder on each task, higher is better; NaN where missing.
        resampled: (E, T, B) the same on B case resamples, equal for all encoders of a task;
            None leaves the uncertainty of the scores themselves out.
        resample_tasks: Draw tasks with replacement as well, so that the interval speaks of tasks
            like these and not of exactly these.
        n_boot: Resamples of tasks when ``resampled`` is None.
        seed: Seed of the resampling of tasks.

    Raises:
        DataError: When shapes do not fit or no task has results of all encoders.
    """
    import numpy as np

    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or (resampled is not None and resampled.shape[:2] != values.shape):
        raise DataError("scores are not (encoders, tasks), or resamples differ", where="mean rank")
    tasks = np.flatnonzero(np.isfinite(values).all(axis=0))
    if not len(tasks):
        raise DataError("no task has results of all encoders", where="mean rank")
    plain = _ranks(values[:, tasks])  # (E, T)
    if resampled is None:
        boot = np.broadcast_to(plain[..., None], (*plain.shape, n_boot))  # (E, T, B)
    else:
        boot = _ranks(resampled[:, tasks])  # (E, T, B)
    if resample_tasks:
        rng = np.random.default_rng([seed, 2])
        even = np.full(len(tasks), 1 / len(tasks))
        drawn = rng.multinomial(len(tasks), even, size=boot.shape[2])  # (B, T)
        means = np.einsum("etb,bt->eb", boot, drawn / len(tasks))  # (E, B)
    else:
        means = boot.mean(axis=1)  # (E, B)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return MeanRanks(plain.mean(axis=1), low, high, tuple(int(task) for task in tasks))


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of paired differences.

    Attributes:
        n: Differences other than zero; zeros are left out.
        positive: Sum of the ranks of positive differences.
        p: Two-sided p value; 1 when no difference is left.
    """

    n: int
    positive: float
    p: float


def signed_rank(differences: Floats) -> SignedRank:
    """Test whether paired differences lie symmetrically around zero (Wilcoxon, 1945).

    Up to 50 differences the distribution over all signs is exact, ties included; beyond, it is
    normal with a correction for ties. With fewer than six tasks p cannot fall below 0.05.

    Args:
        differences: (T,) difference per task; NaN is left out.
    """
    import numpy as np
    from scipy.special import ndtr

    given = np.asarray(differences, dtype=float)
    values = given[np.isfinite(given) & (given != 0)]
    n = len(values)
    if n == 0:
        return SignedRank(0, 0.0, 1.0)
    ranks = middle_ranks(np.abs(values))  # (n,)
    positive = float(ranks[values > 0].sum())
    mean = n * (n + 1) / 4
    if n <= _EXACT_UP_TO:
        chances = _sign_distribution(np.rint(2 * ranks).astype(int))  # index: twice the rank sum
        away = np.abs(np.arange(len(chances)) / 2 - mean)
        p = float(chances[away >= abs(positive - mean) - 1e-9].sum())
    else:
        p = float(2 * ndtr(-abs(positive - mean) / np.sqrt((ranks**2).sum() / 4)))
    return SignedRank(n, positive, min(1.0, p))


def middle_ranks(values: Floats, axis: int = -1) -> Floats:
    """Rank along an axis from 1; tied values share the mean of their ranks.

    Equal to scipy's ``rankdata``, whose import takes longer than most reports compute.

    Args:
        values: Numbers; a line along the axis that holds NaN has ranks of NaN.
        axis: Along which they are ranked.
    """
    import numpy as np

    lines = np.moveaxis(np.asarray(values, dtype=float), axis, -1)  # (..., n)
    n = lines.shape[-1]
    order = np.argsort(lines, axis=-1, kind="stable")
    ordered = np.take_along_axis(lines, order, axis=-1)
    differs = ordered[..., 1:] != ordered[..., :-1]  # (..., n - 1)
    edge = np.ones((*lines.shape[:-1], min(n, 1)), dtype=bool)
    begins, ends = np.concatenate([edge, differs], -1), np.concatenate([differs, edge], -1)
    at = np.arange(n)
    first = np.maximum.accumulate(np.where(begins, at, 0), axis=-1)  # (..., n) of those that tie
    last = np.minimum.accumulate(np.where(ends, at, n)[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(lines.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    ranks[np.isnan(lines).any(axis=-1)] = np.nan
    return np.moveaxis(ranks, -1, axis)


def _ranks(scores: Floats) -> Floats:
    """Rank along the first axis, the highest score is 1."""
    return middle_ranks(-scores, axis=0)


def _sign_distribution(doubled: NDArray[np.int64]) -> Floats:
    """Chance of each sum when every rank is counted or not with chance one half."""
    import numpy as np

    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for step in doubled:
        chances[step:] = (chances[step:] + chances[: len(chances) - step]) / 2
        chances[:step] /= 2
    return chances
