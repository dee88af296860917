"""A metric of many draws on the same cases and the same resamples, in few large operations.

Draws differ in the scores only, so what depends on the targets and the resamples is computed once,
and the rest is one product of matrices for many draws. What is summed are counts, which floating
point adds exactly in any order: the results are those of :func:`.evaluate.evaluate`, to the bit.
Metrics that are not counts are evaluated draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.statistics.evaluate import evaluate, is_measured
from spade_bench.statistics.metrics import macro_f1, mean_recall
from spade_bench.statistics.regression_metrics import pearsons
from spade_bench.statistics.survival_metrics import ibs_of_draws

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Training = tuple[Floats, Floats] | None

__all__ = ["auroc_influences", "evaluate_draws", "resampled"]

_SORTING = 100  # comparing all pairs costs less than sorting below so many pairs per case
_EXACT = 1 << 22  # pairs, halves included, that single precision still counts exactly
_BLOCK = 500_000  # pairs that are compared at once
_CACHED = 50_000  # numbers of a block that stays in the cache


def evaluate_draws(
    metric: str,
    target: NDArray[Any],
    draws: Sequence[Floats],
    weights: Floats | None = None,
    trains: Sequence[Training] | None = None,
) -> Floats:
    """Evaluate a metric of each draw on the cases as they are, or on every resample.

    Args:
        metric: Metric name.
        target: (n,) class index of each test case, its value, or (n, 2) its event and days.
        draws: For each draw the (n, C) scores of these cases, in the same order.
        weights: (B, n) counts of cases; None for the cases as they are.
        trains: For each draw target and scores of its training cases, for survival.

    Returns:
        (D, B) values, B = 1 without weights.
    """
    import numpy as np

    if metric == "c_index" and len(target) ** 2 <= _EXACT:
        return _c_index(target, np.stack(draws)[:, :, 0], weights)
    if metric == "ibs" and target.ndim == 2:
        return ibs_of_draws(target, draws, weights, trains)
    if metric == "pearson" and is_measured(target):
        return _pearson(target, np.stack(draws)[:, :, 0], weights)
    together = _TOGETHER.get(metric)
    if together is not None and target.ndim == 1 and target.dtype.kind == "i":
        found = together(target, np.stack(draws), weights)
        if found is not None:
            return found
    pairs = zip(draws, trains or [None] * len(draws), strict=True)
    return np.stack([evaluate(metric, target, scores, weights, train) for scores, train in pairs])


def resampled(
    metric: str,
    target: NDArray[Any],
    draws: Sequence[Floats],
    weights: Floats,
    trains: Sequence[tuple[Floats, Floats] | None] | None = None,
) -> tuple[Floats, Floats]:
    """Evaluate a metric per draw, on the cases as they are and on every resample.

    Args:
        metric: Metric name.
        target: (n,) class index of each test case, or (n, 2) its event and days.
        draws: For each draw the (n, C) scores of these cases, in the same order.
        weights: (B, n) counts from :func:`.intervals.case_weights`.
        trains: For each draw target and scores of its training cases, for survival.

    Returns:
        (D,) plain values and (D, B) resampled values.
    """
    plain = evaluate_draws(metric, target, draws, None, trains)[:, 0]
    return plain, evaluate_draws(metric, target, draws, weights, trains)


def auroc_influences(label: NDArray[np.int64], draws: Sequence[Floats]) -> Floats | None:
    """Return how far each case moves the macro AUROC of each draw.

    Equal to :func:`.delong_draws.auroc_influence` of each draw.

    Args:
        label: (n,) class index of each case.
        draws: For each draw the (n, C) scores.

    Returns:
        (D, n) contributions; None when a class has fewer than two cases.
    """
    import numpy as np

    from spade_bench.statistics.delong_draws import auroc_influence

    scores = np.stack(draws)  # (D, n, C)
    if np.bincount(label, minlength=scores.shape[2]).min() < 2:
        return None
    if not all(_compares(label == c) for c in _columns(scores)):
        found = [auroc_influence(label, one) for one in draws]
        return np.stack([one[1] for one in found if one is not None])
    influence = np.zeros(scores.shape[:2])  # (D, n)
    for c in _columns(scores):
        up = label == c
        m, n = int(up.sum()), int((~up).sum())
        for at, wins in _wins(up, scores[:, :, c]):  # (d, m, n)
            above = wins.sum(axis=2, dtype=np.float64) / n  # (d, m) share of negatives below each
            below = 1.0 - (m - wins.sum(axis=1, dtype=np.float64)) / m  # (d, n)
            area = np.array([[one.mean()] for one in above])  # (d, 1), each as if alone
            influence[at, up] += (above - area) / m
            influence[at, ~up] += (below - area) / n
    return influence / len(_columns(scores))


def _columns(scores: NDArray[Any]) -> Sequence[int]:
    """Classes that are held against the rest: of two the second says all."""
    return [1] if scores.shape[-1] == 2 else range(scores.shape[-1])


def _compares(up: NDArray[np.bool_]) -> bool:
    """Whether all pairs are compared, rather than cases sorted."""
    pairs = int(up.sum()) * int((~up).sum())
    return pairs <= min(_EXACT, _SORTING * len(up))


def _wins(up: NDArray[np.bool_], score: Floats) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Compare positives with negatives, some draws at a time.

    Args:
        up: (n,) which cases are positive.
        score: (D, n) scores.

    Yields:
        Which draws, and (d, m, n) 1 where the positive scores higher, 0.5 where both are equal.
    """
    import numpy as np

    high, low = score[:, up], score[:, ~up]  # (D, m), (D, n)
    step = max(1, _BLOCK // max(1, low.shape[1] * high.shape[1]))
    for start in range(0, len(score), step):
        at = slice(start, start + step)
        one, other = high[at, :, None], low[at, None, :]
        wins = (one > other).astype(np.float32)
        wins += np.float32(0.5) * (one == other)
        yield at, wins


def _auroc(label: NDArray[np.int64], scores: Floats, weights: Floats | None) -> Floats | None:
    """:func:`.metrics.auroc` of (D, n, C) scores, (D, B); None where cases should be sorted."""
    import numpy as np

    if not all(_compares(label == c) for c in _columns(scores)):
        return None
    counts = np.ones((1, len(label))) if weights is None else weights
    values = []
    for c in _columns(scores):
        up = label == c
        mine = np.ascontiguousarray(counts[:, up].T, dtype=np.float32)  # (m, B)
        theirs = np.ascontiguousarray(counts[:, ~up].T, dtype=np.float32)  # (n, B)
        pairs = counts[:, up].sum(axis=1) * counts[:, ~up].sum(axis=1)  # (B,)
        beaten, ones = np.empty_like(theirs), np.ones(len(theirs), dtype=np.float32)
        won = np.empty((len(scores), len(counts)), dtype=np.float32)
        for at, wins in _wins(up, scores[:, :, c]):
            for of_draw, draw in zip(wins, won[at], strict=True):
                np.dot(of_draw.T, mine, out=beaten)  # (n, B) weight of positives above each
                np.multiply(beaten, theirs, out=beaten)
                np.dot(ones, beaten, out=draw)  # (B,)
        value = np.where(pairs > 0, won.astype(np.float64) / np.maximum(pairs, 1e-300), np.nan)
        values.append(value)
    return np.asarray(np.mean(values, axis=0))


def _c_index(target: Floats, risks: Floats, weights: Floats | None) -> Floats:
    """:func:`.riskscores.resampled_c_index` of (D, n) risks, (D, B)."""
    import numpy as np

    from spade_bench.statistics.riskscores import check_survival

    event, days, _ = check_survival(target[:, 0] > 0, target[:, 1], risks[0])
    if not np.isfinite(risks).all():
        raise DataError("a duration or a risk is NaN or infinite", where="survival metric")
    counts = np.ones((1, len(event))) if weights is None else weights
    every = np.ascontiguousarray(counts.T, dtype=np.float32)  # (n, B)
    first = np.flatnonzero(event)  # (E,) the shorter member of a pair
    tied_day = days[first, None] == days  # (E, n)
    after = ((days[first, None] < days) | (tied_day & ~event)).astype(np.float32)  # (E, n)
    mine, ones = every[first], np.ones(len(event), dtype=np.float32)  # (E, B), (n,)
    pairs = ((after.T @ mine) * every).sum(axis=0).astype(np.float64)  # (B,)
    won = np.empty((len(risks), len(counts)), dtype=np.float32)
    beaten = np.empty_like(every)  # (n, B)
    for risk, of_draw in zip(risks, won, strict=True):
        wins = (risk[first, None] > risk).astype(np.float32)  # (E, n)
        wins += np.float32(0.5) * (risk[first, None] == risk)
        np.dot((wins * after).T, mine, out=beaten)
        np.multiply(beaten, every, out=beaten)
        np.dot(ones, beaten, out=of_draw)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), np.nan)


def _pearson(truth: Floats, predicted: Floats, weights: Floats | None) -> Floats:
    """:func:`.regression_metrics.pearson` of (D, n) predictions, (D, B)."""
    import numpy as np

    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
        raise DataError("a value or a prediction is NaN or infinite", where="metric pearson")
    counts = np.ones((1, len(truth))) if weights is None else weights
    rows = max(1, _CACHED // len(truth))
    blocks = [counts[i : i + rows] for i in range(0, len(counts), rows)]
    return np.concatenate(
        [np.stack(list(pearsons(truth, predicted, block))) for block in blocks], axis=1
    )


def _confused(
    finish: Callable[[Floats, Floats, Floats], Floats],
) -> Callable[[NDArray[np.int64], Floats, Floats | None], Floats]:
    """Return a metric of the confusion of truth and calls, for (D, n, C) scores."""

    def metric(label: NDArray[np.int64], scores: Floats, weights: Floats | None) -> Floats:
        import numpy as np

        counts = np.ones((1, len(label))) if weights is None else weights
        n, d, c = scores.shape[1], len(scores), scores.shape[2]
        classes = np.arange(c)
        truth = (label[:, None] == classes).astype(float)  # (n, C)
        true = counts @ truth  # (B, C)
        step = max(1, min(d, _BLOCK // (len(counts) * c)))  # draws at once
        truths = np.tile(true, (1, step)).reshape(len(counts), step, c)  # (B, s, C)
        called = scores.argmax(axis=2)  # (D, n)
        out = np.empty((d, len(counts)))
        for at in (slice(i, i + step) for i in range(0, d, step)):
            says = (called[at].T[:, :, None] == classes).astype(float)  # (n, d, C)
            hits = counts @ (truth[:, None] * says).reshape(n, -1)  # (B, d C)
            calls = counts @ says.reshape(n, -1)  # (B, d C)
            both = (one.reshape(len(counts), -1, c) for one in (hits, calls))
            out[at] = finish(truths[:, : len(called[at])], *both).T
        return out

    return metric


_TOGETHER: Mapping[str, Callable[[NDArray[np.int64], Floats, Floats | None], Floats | None]] = {
    "auroc": _auroc,
    "balanced_accuracy": _confused(lambda truth, hit, _: mean_recall(truth, hit)),
    "f1_macro": _confused(macro_f1),
}
