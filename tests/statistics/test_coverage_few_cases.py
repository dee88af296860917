"""Simulations with few cases of a class: intervals cover 93% or more from five cases on.

Rates have a Monte Carlo error: one standard error is about 0.011 for 400 repeats at 95%. A rate
must not lie more than two of them below 93%, a test not reject more than two above the nominal 5%.
``benchmarks/coverage.py`` does the same with more repeats, shapes and sizes.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from spade_bench.report.values import Values, at_hand, single
from spade_bench.statistics.delong_draws import auroc_influence, delong_over_draws
from spade_bench.statistics.draws import resampled
from spade_bench.statistics.evaluate import evaluate
from spade_bench.statistics.intervals import case_weights, interval
from spade_bench.statistics.riskscores import c_index, resampled_c_index

REPEATS, RESAMPLES, CLAIM = 400, 200, 0.93
ERROR = float(np.sqrt(0.95 * 0.05 / REPEATS))


def _cases(
    rng: np.random.Generator, sizes: tuple[int, ...], shift: float, spread: float = 1.0
) -> tuple:
    """Labels and probabilities whose logits are normal around the true class."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    if len(sizes) == 2:
        x = rng.normal(size=len(label)) * np.where(label == 1, spread, 1.0) + shift * label
        p = 1 / (1 + np.exp(shift / 2 - x))
        return label, np.stack([1 - p, p], axis=1)
    logits = rng.normal(size=(len(label), len(sizes)))
    logits += shift * (label[:, None] == np.arange(len(sizes)))
    e = np.exp(logits)
    return label, e / e.sum(axis=1, keepdims=True)


def _values(metric: str, label: np.ndarray, draws: list[np.ndarray], seed: int) -> Values:
    if metric == "auroc":  # the bootstrap has no part in it, but that it is finite
        plain = np.array([evaluate(metric, label, scores)[0] for scores in draws])
        boot = np.zeros((len(draws), 2))
    else:
        plain, boot = resampled(metric, label, draws, case_weights(label, RESAMPLES, seed))
    found = [auroc_influence(label, scores) for scores in draws] if metric == "auroc" else []
    moved = [one[1] for one in found if one is not None]
    size = int(np.bincount(label).min())
    return Values(
        tuple((i, -1) for i in range(len(draws))), plain, at_hand(boot), True, 8.0, len(label),
        label, np.stack(moved) if moved else None, size, len(label),
    )  # fmt: skip


def _covers(
    metric: str, sizes: tuple[int, ...], shift: float, truth: float, spread: float = 1.0
) -> float:
    rng = np.random.default_rng([*sizes, int(10 * shift)])
    hits = []
    for seed in range(REPEATS):
        label, scores = _cases(rng, sizes, shift, spread)
        got = single(_values(metric, label, [scores], seed), metric, seed)
        assert got is not None
        assert got.high > got.low
        hits.append(got.low <= truth <= got.high)
    return float(np.mean(hits))


@pytest.mark.parametrize("positives", [2, 3, 5, 10])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_auroc_covers_with_few_positives(positives: int, shift: float) -> None:
    truth = float(norm.cdf(shift / np.sqrt(2)))
    assert _covers("auroc", (50, positives), shift, truth) >= CLAIM - 2 * ERROR


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "auprc", "f1_macro",
                                    "kappa_quadratic", "brier"])  # fmt: skip
@pytest.mark.parametrize("sizes", [(50, 5), (5, 5), (20, 10, 5)])
def test_class_metrics_cover_from_five_cases_on(metric: str, sizes: tuple[int, ...]) -> None:
    big = _cases(np.random.default_rng(0), tuple(2000 * n for n in sizes), 1.5)
    truth = float(evaluate(metric, *big)[0])
    assert _covers(metric, sizes, 1.5, truth) >= CLAIM - 2 * ERROR


@pytest.mark.parametrize(
    ("metric", "sizes"),
    [("auprc", (20, 20)), ("auprc", (50, 20)), ("auprc", (50, 50)), ("auprc", (50, 5)),
     ("sensitivity_at_90_specificity", (50, 50)), ("sensitivity_at_90_specificity", (100, 50))],
)  # fmt: skip
@pytest.mark.parametrize(("shift", "spread"), [(1.5, 0.5), (0.5, 1.0)])
def test_metrics_of_the_top_of_the_list_cover_where_few_negatives_reach_it(
    metric: str, sizes: tuple[int, ...], shift: float, spread: float
) -> None:
    big = _cases(np.random.default_rng(0), tuple(2000 * n for n in sizes), shift, spread)
    truth = float(evaluate(metric, *big)[0])
    assert _covers(metric, sizes, shift, truth, spread) >= CLAIM - 2 * ERROR


def test_a_mean_over_draws_covers_with_five_positives() -> None:
    label, hits = np.repeat([0, 1], [50, 5]), []
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    # Two cases differ by a variance of 2 of their own and 2 of chance.
    values = norm.cdf((1.2 + 0.6 * at) / 2)
    truth = float((values * weight).sum() / weight.sum())
    for seed in range(REPEATS):
        rng = np.random.default_rng([7, seed])
        case, draws = rng.normal(size=55), []
        for _ in range(5):
            signal = 1.2 + 0.6 * rng.normal()
            x = case + rng.normal(size=55) + signal * label
            draws.append(np.stack([-x, x], axis=1))
        got = single(_values("auroc", label, draws, seed), "auroc", seed)
        assert got is not None
        hits.append(got.low <= truth <= got.high)
    assert np.mean(hits) >= CLAIM - 2 * ERROR


@pytest.mark.parametrize("events", [5, 10])
def test_the_c_index_covers_with_few_events(events: int) -> None:
    def cohort(rng: np.random.Generator, n: int, share: float) -> tuple:
        hazard = rng.normal(size=n)
        days = rng.exponential(np.exp(-hazard))
        event = days <= np.quantile(days, share)  # the study ends for all on one day
        return event, np.minimum(days, np.quantile(days, share)), hazard + rng.normal(size=n)

    event, days, risk = cohort(np.random.default_rng(1), 6000, events / 60)
    truth, hits = float(c_index(event, days, risk)), []
    for seed in range(REPEATS // 2):
        event, days, risk = cohort(np.random.default_rng([events, seed]), 60, events / 60)
        weights = case_weights(event.astype(int), RESAMPLES, seed)
        plain = np.array([c_index(event, days, risk)])
        boot = resampled_c_index(event, days, risk, weights)[None]
        got = single(
            Values(((0, -1),), plain, at_hand(boot), True, 8.0, 60.0, size=int(event.sum())),
            "c_index",
        )
        assert got is not None
        hits.append(got.low <= truth <= got.high)
    assert np.mean(hits) >= CLAIM - 2 * np.sqrt(2) * ERROR


def test_a_perfect_auroc_has_an_interval_and_the_percentiles_have_none() -> None:
    label = np.repeat([0, 1], [50, 5])
    scores = np.stack([-label, label], axis=1) + 0.0
    got = single(_values("auroc", label, [scores], 0), "auroc")
    assert got is not None
    assert got.low < 0.75
    assert got.high == 1.0
    old = interval(*resampled("auroc", label, [scores], case_weights(label, 100)))
    assert old.low == old.high == 1.0


def test_with_many_cases_it_is_the_interval_of_the_variance() -> None:
    rng = np.random.default_rng(3)
    label, scores = _cases(rng, (1500, 1500), 1.0)
    values = _values("auroc", label, [scores], 0)
    got = single(values, "auroc")
    assert got is not None
    boot = evaluate("auroc", label, scores, case_weights(label, 2000))
    assert (got.low, got.high) == pytest.approx(np.quantile(boot, [0.025, 0.975]), abs=0.002)


@pytest.mark.parametrize(
    ("metric", "size"),
    [("auroc", 1), ("balanced_accuracy", 4), ("auprc", 4), ("kappa_quadratic", 4), ("c_index", 4),
     ("sensitivity_at_90_specificity", 49), ("sensitivity_at_95_specificity", 99),
     ("calibration_slope", 19)],
)  # fmt: skip
def test_an_interval_that_would_not_hold_is_refused(metric: str, size: int) -> None:
    boot = np.random.default_rng(0).uniform(0.4, 0.6, size=(1, 50))
    for n, given in ((size, False), (size + 1, True)):
        got = single(
            Values(((0, -1),), np.array([0.5]), at_hand(boot), True, 8.0, 60.0, size=n), metric
        )
        assert got is not None
        assert (got.mean, bool(np.isfinite(got.low))) == (0.5, given)


@pytest.mark.parametrize("positives", [3, 5])
def test_delong_rejects_no_more_than_it_says_with_few_positives(positives: int) -> None:
    label, rejected = np.repeat([0, 1], [50, positives]), []
    for seed in range(2 * REPEATS):
        rng = np.random.default_rng([positives, seed])
        case = rng.normal(size=len(label))
        found = []
        for _ in range(2):
            x = (case + rng.normal(size=len(label))) / np.sqrt(2) + 0.5 * label
            one = auroc_influence(label, np.stack([-x, x], axis=1))
            assert one is not None
            found.append(one)
        (a, moved), (b, other) = found
        got = delong_over_draws(label, np.array([a - b]), (moved - other)[None])
        rejected.append(got is not None and got.p is not None and got.p < 0.05)
    assert np.mean(rejected) <= 0.05 + 2 * ERROR / np.sqrt(2)
