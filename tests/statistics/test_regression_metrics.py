"""Metrics of predicted numbers: known answers, scipy and scikit-learn, many weightings at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

from spade_bench.errors import ConfigError, DataError
from spade_bench.report.values import Values, at_hand, single
from spade_bench.statistics.draws import resampled
from spade_bench.statistics.evaluate import bounds, chance, direction, evaluate, strata
from spade_bench.statistics.intervals import case_weights
from spade_bench.statistics.regression_metrics import REGRESSION_METRICS, regression_score_many

REFERENCE = {
    "pearson": lambda truth, said: pearsonr(truth, said).statistic,
    "spearman": lambda truth, said: spearmanr(truth, said).statistic,
    "r2": r2_score,
    "mae": mean_absolute_error,
}


def _values(n: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = 60 + 10 * rng.normal(size=n)
    said = 0.5 * truth + 5 * rng.normal(size=n)
    return (truth.round(-1), said.round(-1)) if ties else (truth, said)


def test_every_metric_has_a_reference() -> None:
    assert set(REFERENCE) == set(REGRESSION_METRICS)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", REFERENCE)
def test_agrees_with_scipy_and_scikit_learn(name: str, ties: bool) -> None:
    truth, said = _values(40, 1, ties)
    got = regression_score_many(name, truth, said[:, None])
    assert got == pytest.approx([REFERENCE[name](truth, said)], abs=1e-10)


@pytest.mark.parametrize("name", REFERENCE)
def test_a_weighting_is_the_cases_written_out(name: str) -> None:
    truth, said = _values(25, 2, ties=True)
    weights = case_weights(strata(truth), n_boot=20, seed=3)
    got = evaluate(name, truth, said[:, None], weights)
    for counts, value in zip(weights.astype(int), got, strict=True):
        rows = np.repeat(np.arange(25), counts)
        assert value == pytest.approx(REFERENCE[name](truth[rows], said[rows]), abs=1e-10)


def test_resamples_keep_the_number_of_cases_and_no_strata() -> None:
    truth, _ = _values(30, 0)
    assert (case_weights(strata(truth), 50).sum(axis=1) == 30).all()


@pytest.mark.parametrize("name", ["pearson", "spearman", "r2"])
def test_undefined_where_the_truth_does_not_vary(name: str) -> None:
    same = np.full(6, 1e6 / 3)  # rounding leaves a tiny spread
    assert np.isnan(regression_score_many(name, same, np.arange(6.0)[:, None])).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123456.789])
@pytest.mark.parametrize("name", ["pearson", "r2"])
def test_many_equal_values_do_not_vary(name: str, value: float) -> None:
    """What rounding leaves of a sum of 20,000 equal values is no spread."""
    truth, equal = _values(20_000, 4)[0], np.full(20_000, value)
    weights = np.vstack([np.ones(20_000), case_weights(np.zeros(20_000, int), 2, seed=1)])
    assert np.isnan(regression_score_many(name, equal, truth[:, None], weights)).all()
    if name == "pearson":
        assert np.isnan(regression_score_many(name, truth, equal[:, None], weights)).all()


def test_a_small_spread_far_from_zero_is_no_rounding() -> None:
    truth = 1e6 + np.arange(8.0)
    assert regression_score_many("pearson", truth, truth[:, None] + 3) == pytest.approx(1.0)


def test_properties() -> None:
    truth, said = _values(30, 4)
    for name in ("pearson", "spearman"):
        straight = regression_score_many(name, truth, said[:, None])
        turned = regression_score_many(name, truth, 7 - 2 * said[:, None])
        assert turned == pytest.approx(-straight)
    assert regression_score_many("r2", truth, np.full((30, 1), truth.mean())) == pytest.approx(0.0)
    assert direction("mae") == -1
    assert bounds("r2") == (-np.inf, 1.0)
    assert chance("pearson") == 0.0
    assert chance("r2") is None


def test_unknown_names_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="pearson, spearman"):
        regression_score_many("auroc", np.arange(3.0), np.zeros((3, 1)))
    with pytest.raises(DataError, match="NaN"):
        regression_score_many("mae", np.arange(3.0), np.full((3, 1), np.nan))


@pytest.mark.parametrize(("name", "truth"), [("pearson", 0.5), ("r2", 0.25), ("mae", 0.691)])
def test_intervals_cover_with_thirty_cases(name: str, truth: float) -> None:
    """The best linear prediction at a correlation of one half; nominal 95%, 80 cohorts."""
    rng, covered = np.random.default_rng(0), 0
    weights = case_weights(np.zeros(30, dtype=np.int64), n_boot=300)
    for _ in range(80):
        value = rng.normal(size=30)
        said = 0.5 * (0.5 * value + np.sqrt(0.75) * rng.normal(size=30))
        plain, boot = resampled(name, value, [said[:, None]], weights)
        found = single(
            Values(((0, -1),), plain, at_hand(boot), True, 10, 30, value, None, 30, 30),
            name,
        )
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered >= 70


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["pearson", "spearman", "r2", "mae"])
def test_huge_values_have_the_metric_of_the_same_values_in_another_unit(name: str) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=30)
    scores = (truth + rng.normal(size=30))[:, None]
    unit = 2.0**700  # whose square is no float64
    plain = regression_score_many(name, truth, scores)
    huge = regression_score_many(name, unit * truth, unit * scores)
    assert huge == pytest.approx(plain * (unit if name == "mae" else 1.0))
