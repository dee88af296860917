"""Mean ranks and the signed-rank test."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from spade_bench.errors import DataError
from spade_bench.statistics.ranks import mean_ranks, middle_ranks, signed_rank


def test_mean_ranks_share_ties_and_leave_incomplete_tasks_out() -> None:
    scores = np.array([[0.9, 0.5, 0.7, 0.1], [0.8, 0.5, np.nan, 0.2], [0.1, 0.4, 0.9, 0.3]])
    got = mean_ranks(scores)
    assert got.tasks == (0, 1, 3)
    np.testing.assert_allclose(got.rank, [(1 + 1.5 + 3) / 3, (2 + 1.5 + 2) / 3, (3 + 3 + 1) / 3])
    assert (got.low <= got.rank).all()
    assert (got.rank <= got.high).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_bootstrap_is_the_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 4))
    resampled = scores[..., None] + rng.normal(scale=0.5, size=(3, 4, 40))
    got = mean_ranks(scores, resampled, resample_tasks=False)
    means = [
        np.mean([rankdata(-resampled[:, task, b]) for task in range(4)], axis=0) for b in range(40)
    ]
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(got.low, low)
    np.testing.assert_allclose(got.high, high)
    assert got.rank.sum() == pytest.approx(6)  # ranks of three encoders sum to 1 + 2 + 3
    wider = mean_ranks(scores, resampled)
    assert (wider.high - wider.low).sum() >= (got.high - got.low).sum() - 0.5


def test_certain_scores_have_no_spread_unless_tasks_are_drawn() -> None:
    scores = np.array([[2.0, 2.0, 1.0], [1.0, 1.0, 2.0]])
    fixed = mean_ranks(scores, resample_tasks=False)
    np.testing.assert_array_equal(fixed.low, fixed.high)
    drawn = mean_ranks(scores)
    assert (drawn.low < drawn.high).all()
    same = mean_ranks(scores, seed=0)
    np.testing.assert_array_equal(drawn.low, same.low)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 9), st.sampled_from([0, 1, -1]), st.booleans())
def test_middle_ranks_are_scipys(seed: int, n: int, axis: int, unknown: bool) -> None:
    values = np.random.default_rng(seed).integers(0, 5, (n, 4)) / 3
    if unknown and n:
        values[n // 2, 1] = np.nan
    want = rankdata(values, axis=axis)
    assert np.array_equal(middle_ranks(values, axis=axis), want, equal_nan=True)
    assert np.array_equal(middle_ranks(values[:, 0]), rankdata(values[:, 0]), equal_nan=True)


def test_mean_ranks_refuse_nothing_to_rank() -> None:
    with pytest.raises(DataError, match="no task"):
        mean_ranks(np.array([[0.5, np.nan], [np.nan, 0.5]]))
    with pytest.raises(DataError, match="encoders"):
        mean_ranks(np.ones((2, 3)), np.ones((2, 2, 5)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_signed_rank_without_ties_is_scipys_exact_test(seed: int, n: int) -> None:
    values = np.random.default_rng(seed).normal(0.3, 1, n)
    assert signed_rank(values).p == pytest.approx(wilcoxon(values, mode="exact").pvalue)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_signed_rank_with_ties_is_the_list_of_all_signs(values: list[int]) -> None:
    left = np.array([value for value in values if value], dtype=float)
    got = signed_rank(np.array(values, dtype=float))
    assert got.n == len(left)
    if not len(left):
        assert got.p == 1.0
        return
    ranks = rankdata(np.abs(left))
    sums = np.array(
        [
            ranks[np.array(signs)].sum()
            for signs in itertools.product([False, True], repeat=len(left))
        ]
    )
    middle = ranks.sum() / 2
    want = np.mean(np.abs(sums - middle) >= abs(got.positive - middle) - 1e-9)
    assert got.p == pytest.approx(want)


def test_signed_rank_of_many_differences_is_scipys_normal_one() -> None:
    values = np.round(np.random.default_rng(3).normal(0.2, 1, 80), 1)
    values = values[values != 0]
    want = wilcoxon(values, mode="approx", correction=False).pvalue
    assert signed_rank(values).p == pytest.approx(want)


def test_five_tasks_cannot_reach_five_percent() -> None:
    assert signed_rank(np.arange(1.0, 6.0)).p == pytest.approx(2 / 32)
    assert signed_rank(np.r_[np.arange(1.0, 7.0), np.nan]).p == pytest.approx(2 / 64)
