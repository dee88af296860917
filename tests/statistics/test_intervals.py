"""Intervals: what they cover, what pairs them, what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from spade_bench.errors import DataError
from spade_bench.statistics.draws import resampled
from spade_bench.statistics.intervals import (
    case_weights,
    interval,
    means,
    paired_interval,
    with_draws,
)

LABEL = np.repeat([0, 1], 40)


def _draws(
    rng: np.random.Generator, n_draws: int, shift: float, case: np.ndarray | None = None
) -> list[np.ndarray]:
    case = rng.normal(size=len(LABEL)) if case is None else case
    draws = []
    for _ in range(n_draws):
        wobble = shift + 0.3 * rng.normal()
        logit = case + wobble * (LABEL - 0.5) * 2 + 0.5 * rng.normal(size=len(LABEL))
        draws.append(np.stack([-logit, logit], axis=1))
    return draws


def test_weights_keep_class_sizes_and_follow_the_seed() -> None:
    label = np.array([0, 0, 0, 1, 1, 2])
    weights = case_weights(label, 50, seed=3)
    for value, size in ((0, 3), (1, 2), (2, 1)):
        assert (weights[:, label == value].sum(axis=1) == size).all()
    assert np.array_equal(weights, case_weights(label, 50, seed=3))
    assert not np.array_equal(weights, case_weights(label, 50, seed=4))


@pytest.mark.parametrize("seed", range(5))
def test_patients_are_drawn_with_all_their_slides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, 12, 40)
    label = patient % 3
    label[patient == 5] = rng.integers(0, 3, (patient == 5).sum())  # slides that disagree
    names = [f"p{i}" for i in patient]
    weights = case_weights(label, 60, seed, names)
    assert weights.shape == (60, 40)
    firsts = [names.index(name) for name in dict.fromkeys(names)]
    for first in firsts:
        own = weights[:, patient == patient[first]]
        assert (own == own[:, :1]).all()
    for value in range(3):
        one_each = [i for i in firsts if label[i] == value and patient[i] != 5]
        assert (weights[:, one_each].sum(axis=1) == len(one_each)).all()
    assert (weights.std(axis=0) > 0).any()


def test_patients_with_a_slide_each_are_drawn_as_cases_are() -> None:
    label = np.array([2, 0, 1, 1, 0, 2, 0, 1])
    names = list("hgfedcba")
    assert np.array_equal(case_weights(label, 30, 1, names), case_weights(label, 30, 1))


def test_interval_contains_its_mean_and_shrinks_with_cases() -> None:
    rng = np.random.default_rng(0)
    draws = _draws(rng, 8, 0.5)
    weights = case_weights(LABEL, 400)
    result = interval(*resampled("auroc", LABEL, draws, weights))
    assert result.low < result.mean < result.high
    many = np.tile(LABEL, 10)
    big = [np.concatenate([scores] * 10) for scores in draws]
    narrow = interval(*resampled("auroc", many, big, case_weights(many, 400)))
    assert narrow.mean == pytest.approx(result.mean)
    assert narrow.high - narrow.low < result.high - result.low


def test_coverage_of_the_interval_is_about_95_percent() -> None:
    # True mean AUROC of the process by simulation, then how often the interval holds it.
    rng = np.random.default_rng(1)
    truth = np.mean(
        [
            resampled("auroc", LABEL, _draws(rng, 5, 0.5), np.ones((1, len(LABEL))))[0].mean()
            for _ in range(1500)
        ]
    )
    weights = case_weights(LABEL, 300)
    hits = 0
    repeats = 200
    for _ in range(repeats):
        result = interval(*resampled("auroc", LABEL, _draws(rng, 10, 0.5), weights))
        hits += result.low <= truth <= result.high
    # Binomial standard error at 0.95 and 200 repeats: 0.015; percentile intervals lose a little.
    assert 0.90 <= hits / repeats <= 1.0


def test_paired_difference_sees_what_unpaired_intervals_cannot() -> None:
    rng = np.random.default_rng(2)
    case = 2 * rng.normal(size=len(LABEL))
    weights = case_weights(LABEL, 400)
    worse = _draws(rng, 10, 0.3, case)
    better = [scores + 0.6 * np.stack([1 - LABEL, LABEL], axis=1) for scores in worse]
    first = resampled("auroc", LABEL, better, weights)
    second = resampled("auroc", LABEL, worse, weights)
    difference = paired_interval(first, second)
    assert difference.low > 0
    assert difference.p is not None
    assert difference.p < 0.05
    assert interval(*first).low < interval(*second).high
    swapped = paired_interval(second, first)
    assert swapped.mean == pytest.approx(-difference.mean)


def test_equal_encoders_differ_by_zero() -> None:
    rng = np.random.default_rng(4)
    values = resampled("auroc", LABEL, _draws(rng, 4, 0.5), case_weights(LABEL, 100))
    result = paired_interval(values, values)
    assert (result.mean, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_unequal_draws_cannot_be_paired() -> None:
    rng = np.random.default_rng(5)
    weights = case_weights(LABEL, 20)
    four = resampled("auroc", LABEL, _draws(rng, 4, 0.5), weights)
    three = resampled("auroc", LABEL, _draws(rng, 3, 0.5), weights)
    with pytest.raises(DataError, match="same episodes"):
        paired_interval(four, three)


def test_one_draw_still_has_an_interval_over_cases() -> None:
    rng = np.random.default_rng(6)
    result = interval(*resampled("auroc", LABEL, _draws(rng, 1, 0.5), case_weights(LABEL, 200)))
    assert result.low < result.mean < result.high


@pytest.mark.parametrize("lacking", [0, 3])
def test_the_chance_of_the_draws_is_added_to_many_values_as_to_each(lacking: int) -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(5, 4))  # (D, G)
    boot = plain[:, None] + rng.normal(size=(1, 200, 1)) + 0.3 * rng.normal(size=(5, 200, 4))
    plain[:, 3], boot[:, :, 3] = 1.0, 1.0  # draws that do not differ
    boot[:, :lacking] = np.nan
    centre, within = boot.mean(axis=0), np.nanvar(boot, axis=1).mean(axis=0)  # (B, G), (G,)
    together = with_draws(plain, centre, within, seed=1)  # (B, G)
    for at in range(4):
        alone = means(plain[:, at], boot[:, :, at], seed=1)
        np.testing.assert_allclose(together[:, at], alone, rtol=1e-12)
    assert np.isfinite(together).sum(axis=0).tolist() == [200 - lacking] * 4
    known = boot[:, lacking:, 0]
    # What cases do to one draw and not to all is in the spread of the draws too.
    apart = (known - known.mean(axis=0)).var(axis=1).mean() / 4
    draws, cases = plain[:, 0].var(ddof=1) / 5 - apart, known.mean(axis=0)
    freedom = (draws + cases.var()) ** 2 / ((plain[:, 0].var(ddof=1) / 5) ** 2 / 4)
    widen = scipy.stats.t.ppf(0.975, freedom) / scipy.stats.norm.ppf(0.975)
    deviates = np.random.default_rng([1, 1]).standard_normal(200)[lacking:]
    want = cases.mean() + (cases - cases.mean() + np.sqrt(draws) * deviates) * widen
    np.testing.assert_allclose(together[lacking:, 0], want, rtol=1e-9)
