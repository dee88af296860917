"""A metric of many draws at once is that of each draw alone, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.statistics import draws as fast
from spade_bench.statistics.delong_draws import auroc_influence
from spade_bench.statistics.draws import auroc_influences, evaluate_draws
from spade_bench.statistics.evaluate import evaluate
from spade_bench.statistics.intervals import case_weights
from spade_bench.statistics.metrics import METRICS
from spade_bench.statistics.riskscores import c_index

OF_CLASSES = tuple(METRICS)


def _cases(seed: int, n: int, classes: int, ties: bool, d: int = 5) -> tuple[np.ndarray, list]:
    rng = np.random.default_rng(seed)
    label = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    scores = rng.dirichlet(np.ones(classes), (d, n))  # (D, n, C)
    return label, list(np.round(scores, 1) if ties else scores)


@pytest.mark.parametrize("metric", OF_CLASSES)
@pytest.mark.parametrize(("n", "classes"), [(7, 2), (60, 2), (60, 4), (600, 2)])
@pytest.mark.parametrize("ties", [False, True])
def test_classes(metric: str, n: int, classes: int, ties: bool) -> None:
    label, scores = _cases(n, n, classes, ties)
    weights = case_weights(label, 30, seed=1)
    for counts in (weights, None):
        alone = np.stack([evaluate(metric, label, one, counts) for one in scores])
        together = evaluate_draws(metric, label, scores, counts)
        assert np.array_equal(together, alone, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 4), st.booleans())
def test_any_cases(seed: int, n: int, classes: int, ties: bool) -> None:
    """Resamples that lose a class included."""
    label, scores = _cases(seed, max(n, classes), classes, ties, d=3)
    counts = np.random.default_rng(seed).integers(0, 3, (20, len(label))).astype(float)
    for metric in ("auroc", "balanced_accuracy", "f1_macro"):
        alone = np.stack([evaluate(metric, label, one, counts) for one in scores])
        together = evaluate_draws(metric, label, scores, counts)
        assert np.array_equal(together, alone, equal_nan=True)
    moved = [auroc_influence(label, one) for one in scores]
    found = auroc_influences(label, scores)
    assert (found is None) == any(one is None for one in moved)
    for mine, one in zip(() if found is None else found, moved, strict=False):
        assert one is not None
        assert np.array_equal(mine, one[1])


def test_influences_beyond_what_is_compared_pair_by_pair() -> None:
    label, scores = _cases(0, 900, 2, ties=True)
    found = auroc_influences(label, scores)
    assert found is not None
    for mine, one in zip(found, scores, strict=True):
        alone = auroc_influence(label, one)
        assert alone is not None
        assert np.array_equal(mine, alone[1])


def test_more_pairs_than_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    label, scores = _cases(3, 40, 2, ties=False, d=9)
    weights = case_weights(label, 20)
    whole = evaluate_draws("auroc", label, scores, weights)
    monkeypatch.setattr(fast, "_BLOCK", 900)  # two draws at a time
    assert np.array_equal(evaluate_draws("auroc", label, scores, weights), whole)


@pytest.mark.parametrize("ties", [False, True])
def test_survival(ties: bool) -> None:
    rng = np.random.default_rng(1)
    n = 50
    days = np.round(rng.exponential(9, n)) + 1 if ties else rng.exponential(900, n)
    target = np.stack([rng.random(n) < 0.6, days], axis=1).astype(float)
    risks = rng.normal(size=(4, n, 1))
    scores = list(np.round(risks) if ties else risks)
    train = (target[:30], scores[0][:30])
    weights = case_weights((target[:, 0] > 0).astype(np.int64), 40)
    for metric in ("c_index", "c_index_uno", "ibs"):
        for counts in (weights, None):
            alone = np.stack([evaluate(metric, target, one, counts, train) for one in scores])
            together = evaluate_draws(metric, target, scores, counts, [train] * 4)
            assert np.array_equal(together, alone, equal_nan=True)
    plain = evaluate_draws("c_index", target, scores)[:, 0]
    assert plain.tolist() == [c_index(target[:, 0], target[:, 1], s[:, 0]) for s in scores]


def test_values() -> None:
    rng = np.random.default_rng(2)
    value, scores = rng.normal(size=30), list(rng.normal(size=(3, 30, 1)))
    weights = case_weights(np.zeros(30, dtype=np.int64), 20)
    for metric in ("pearson", "spearman", "r2", "mae"):
        alone = np.stack([evaluate(metric, value, one, weights) for one in scores])
        assert np.array_equal(evaluate_draws(metric, value, scores, weights), alone)
