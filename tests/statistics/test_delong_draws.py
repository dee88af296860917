"""DeLong over draws and classes: the plain test where both are one, the bootstrap elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.statistics.delong import delong
from spade_bench.statistics.delong_draws import auroc_influence, delong_over_draws
from spade_bench.statistics.intervals import case_weights
from spade_bench.statistics.metrics import auroc


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_one_draw_of_two_classes_is_delongs_test(seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.r_[np.repeat([0, 1], 10), rng.integers(0, 2, 30)])
    first, second = rng.normal(size=(2, len(label))) + label
    if tied:
        first, second = np.round(first), np.round(second)
    expected = delong(label == 1, first, second)
    one = auroc_influence(label, np.stack([-first, first], axis=1))
    two = auroc_influence(label, np.stack([-second, second], axis=1))
    assert one is not None
    assert two is not None
    assert one[0] == pytest.approx(expected.first)
    got = delong_over_draws(label, np.array([one[0] - two[0]]), (one[1] - two[1])[None])
    if np.isnan(expected.p):
        assert got is None
        return
    assert got is not None
    assert got.mean == pytest.approx(expected.difference)
    assert got.p == pytest.approx(expected.p)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


def test_variance_of_a_macro_auroc_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [60, 90, 40])
    scores = rng.normal(size=(190, 3)) + 1.2 * (label[:, None] == np.arange(3))
    found = auroc_influence(label, scores)
    assert found is not None
    assert found[0] == pytest.approx(auroc(label, scores)[0])
    none = delong_over_draws(label, np.array([found[0]]), found[1][None])
    assert none is not None
    boot = auroc(label, scores, case_weights(label, 4000, 1))
    assert (none.high - none.low) / (2 * 1.96) == pytest.approx(boot.std(), rel=0.06)


def test_a_class_of_one_case_cannot_be_judged() -> None:
    assert auroc_influence(np.array([0, 0, 1]), np.random.default_rng(0).random((3, 2))) is None


def test_draws_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1], 30)
    influence = np.tile(rng.normal(size=60) / 300, (5, 1))
    calm = delong_over_draws(label, np.full(5, 0.1), influence)
    wild = delong_over_draws(label, 0.1 + 0.1 * np.array([-2, -1, 0, 1, 2.0]), influence)
    assert calm is not None
    assert wild is not None
    assert wild.high - wild.low > 2 * (calm.high - calm.low)
    assert calm.p is not None
    assert wild.p is not None
    assert calm.p < 0.05 < wild.p


def test_equal_scores_do_not_differ_and_a_sure_difference_is_not_judged() -> None:
    label, nothing = np.repeat([0, 1], 5), np.zeros((3, 10))
    same = delong_over_draws(label, np.zeros(3), nothing)
    assert same is not None
    assert (same.mean, same.p) == (0.0, 1.0)
    assert delong_over_draws(label, np.ones(3), nothing) is None
