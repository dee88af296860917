"""Simulations: 95% intervals cover about 95%, tests under the null reject about 5%.

Every check allows for its own Monte Carlo error, three binomial standard errors of the nominal
rate, and on top only for a stated defect of the approximation that is tested.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.stats import norm

from spade_bench.statistics.delong import delong
from spade_bench.statistics.metrics import auroc
from spade_bench.statistics.paired import corrected_t_test, paired_bootstrap
from spade_bench.statistics.ranks import mean_ranks, signed_rank
from spade_bench.statistics.riskscores import logrank_median_split, resampled_c_index


def _near(hits: list[bool] | np.ndarray, nominal: float, defect: float = 0.0) -> None:
    """Assert that a rate is nominal within Monte Carlo error and the stated defect."""
    rate = float(np.mean(hits))
    error = 3 * np.sqrt(nominal * (1 - nominal) / len(hits))
    assert abs(rate - nominal) <= error + defect, f"{rate:.4f}, not {nominal} +- {error:.4f}"


def _two_scores(
    rng: np.random.Generator, positive: np.ndarray, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated normal scores whose AUROC is ndtr(shift / sqrt(2))."""
    common = rng.normal(size=len(positive))
    own = rng.normal(size=(2, len(positive)))
    first, second = np.sqrt(0.5) * common + np.sqrt(0.5) * own
    return first + shift[0] * positive, second + shift[1] * positive


def test_delong_covers_and_rejects_as_it_says() -> None:
    rng = np.random.default_rng(10)
    positive = np.arange(160) < 60
    shift = (1.2, 0.6)
    truth = float(norm.cdf(shift[0] / np.sqrt(2)) - norm.cdf(shift[1] / np.sqrt(2)))
    found = [delong(positive, *_two_scores(rng, positive, shift)) for _ in range(2000)]
    _near([f.low <= truth <= f.high for f in found], 0.95, defect=0.005)
    null = [delong(positive, *_two_scores(rng, positive, (0.8, 0.8))) for _ in range(2000)]
    _near([f.p < 0.05 for f in null], 0.05, defect=0.005)


def test_paired_bootstrap_of_auroc_covers_and_rejects() -> None:
    rng = np.random.default_rng(11)
    label = (np.arange(120) < 60).astype(int)
    shift = (1.2, 0.6)
    truth = float(norm.cdf(shift[0] / np.sqrt(2)) - norm.cdf(shift[1] / np.sqrt(2)))

    def run(shifts: tuple[float, float], seed: int) -> tuple[float, float, float]:
        one, two = (
            np.stack([-score, score], axis=1) for score in _two_scores(rng, label == 1, shifts)
        )
        got = paired_bootstrap(
            lambda w: auroc(label, one, w),
            lambda w: auroc(label, two, w),
            label,
            n_boot=300,
            seed=seed,
        )
        assert got.p is not None
        return got.low, got.high, got.p

    found = [run(shift, seed) for seed in range(400)]
    # Percentile intervals of 120 cases from 300 resamples are about a point too short.
    _near([low <= truth <= high for low, high, _ in found], 0.95, defect=0.012)
    null = [run((0.8, 0.8), seed) for seed in range(400)]
    _near([p < 0.05 for _, _, p in null], 0.05, defect=0.012)


def test_paired_bootstrap_of_the_c_index_rejects_five_percent_under_the_null() -> None:
    rng = np.random.default_rng(12)
    rejected = []
    for seed in range(300):
        hazard = rng.normal(size=100)
        death, leaving = rng.exponential(np.exp(-hazard)), rng.exponential(1.5, 100)
        event, duration = death <= leaving, np.minimum(death, leaving)
        first, second = hazard + rng.normal(size=(2, 100))
        got = paired_bootstrap(
            partial(resampled_c_index, event, duration, first),
            partial(resampled_c_index, event, duration, second),
            event.astype(int),
            n_boot=300,
            seed=seed,
        )
        rejected.append(got.p < 0.05)
    _near(rejected, 0.05, defect=0.012)


def test_corrected_t_test_rejects_five_percent_where_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(13)
    # The correction is exact for folds whose differences correlate by n_test / (n_train + n_test).
    n_train, n_test, folds = 80, 20, 25
    rho = n_test / (n_train + n_test)
    common = rng.normal(size=(4000, 1))
    values = np.sqrt(rho) * common + np.sqrt(1 - rho) * rng.normal(size=(4000, folds))
    found = [corrected_t_test(row, n_train, n_test) for row in values]
    _near([f.p < 0.05 for f in found], 0.05)
    _near([f.low <= 0 <= f.high for f in found], 0.95)
    plain = [corrected_t_test(row, 1e12, 1).p < 0.05 for row in values]
    assert np.mean(plain) > 0.3


def test_signed_rank_rejects_at_most_five_percent_under_the_null() -> None:
    rng = np.random.default_rng(14)
    p = np.array([signed_rank(row).p for row in rng.normal(size=(4000, 20))])
    # The exact test is discrete: with 20 differences its size is 4.84%.
    _near(p < 0.05, 0.0484)
    tied = np.array([signed_rank(row).p for row in rng.integers(-3, 4, size=(3000, 15))])
    assert (tied < 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3000)


def test_log_rank_of_a_useless_risk_rejects_five_percent() -> None:
    rng = np.random.default_rng(15)
    p = []
    for _ in range(250):
        death, leaving = rng.exponential(1, 120), rng.exponential(1.5, 120)
        got = logrank_median_split(
            death <= leaving, np.minimum(death, leaving), rng.normal(size=120)
        )
        p.append(got.p)
    _near(np.array(p) < 0.05, 0.05, defect=0.005)


def test_mean_rank_intervals_cover_the_expected_rank() -> None:
    rng = np.random.default_rng(16)
    hits = []
    for seed in range(500):
        # Exchangeable encoders: every expected rank is (1 + 3) / 2.
        got = mean_ranks(rng.normal(size=(3, 25)), n_boot=300, seed=seed)
        hits.append(got.low[0] <= 2.0 <= got.high[0])
    # A percentile bootstrap over 25 tasks is a little short; ranks are discrete.
    _near(hits, 0.95, defect=0.02)
