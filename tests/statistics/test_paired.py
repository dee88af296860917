"""Paired bootstrap of any metric and the corrected test for repeated cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from spade_bench.errors import DataError
from spade_bench.statistics.intervals import case_weights
from spade_bench.statistics.paired import corrected_t_test, paired_bootstrap
from spade_bench.statistics.riskscores import c_index, resampled_c_index


def test_paired_bootstrap_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    event, duration = rng.random(40) < 0.5, rng.exponential(size=40)
    good, bad = -duration + rng.normal(size=40) * 0.3, rng.normal(size=40)
    strata = event.astype(int)
    got = paired_bootstrap(
        lambda w: resampled_c_index(event, duration, good, w),
        lambda w: resampled_c_index(event, duration, bad, w),
        strata,
        n_boot=200,
        seed=4,
    )
    assert got.mean == pytest.approx(c_index(event, duration, good) - c_index(event, duration, bad))
    samples = []
    for count in case_weights(strata, 200, 4).astype(int):
        again = np.repeat(np.arange(40), count)
        samples.append(
            c_index(event[again], duration[again], good[again])
            - c_index(event[again], duration[again], bad[again])
        )
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(samples, [0.025, 0.975])))
    assert got.low > 0
    assert got.p is not None
    assert got.p < 0.1


def test_a_prediction_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(1)
    event, duration = rng.random(30) < 0.5, rng.exponential(size=30)

    def metric(weights: np.ndarray) -> np.ndarray:
        return resampled_c_index(event, duration, -duration, weights)

    got = paired_bootstrap(metric, metric, event.astype(int), n_boot=50)
    assert (got.mean, got.low, got.high, got.p) == (0.0, 0.0, 0.0, 1.0)


def test_corrected_t_test_is_the_formula() -> None:
    values = np.array([0.02, 0.05, -0.01, 0.04, 0.03])
    got = corrected_t_test(values, n_train=80, n_test=20)
    spread = np.sqrt(values.var(ddof=1) * (1 / 5 + 20 / 80))
    assert got.mean == pytest.approx(0.026)
    assert got.p == pytest.approx(2 * student.sf(0.026 / spread, 4))
    assert got.high - got.low == pytest.approx(2 * student.ppf(0.975, 4) * spread)


def test_corrected_t_test_tends_to_the_plain_one_for_tiny_test_sets() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, 12)
    got = corrected_t_test(values, n_train=1e12, n_test=1)
    assert got.p == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert corrected_t_test(values, n_train=4, n_test=1).p > got.p


def test_constant_differences() -> None:
    assert corrected_t_test(np.zeros(5), 8, 2).p == 1.0
    assert corrected_t_test(np.full(5, 0.25), 8, 2).p == 0.0


def test_corrected_t_test_refuses_too_little() -> None:
    with pytest.raises(DataError, match="two or more"):
        corrected_t_test(np.array([0.1]), 8, 2)
    with pytest.raises(DataError, match="cases"):
        corrected_t_test(np.array([0.1, 0.2]), 0, 2)
