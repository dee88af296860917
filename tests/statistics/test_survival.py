"""Survival metrics against lifelines and scikit-survival, on random and tied inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index
from sksurv.linear_model.coxph import BreslowEstimator
from sksurv.metrics import brier_score as sk_brier
from sksurv.metrics import (
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
)
from sksurv.metrics import integrated_brier_score as sk_ibs
from sksurv.util import Surv

from spade_bench.errors import DataError
from spade_bench.statistics.kaplan_meier import survival_curve
from spade_bench.statistics.riskscores import (
    c_index,
    c_index_uno,
    logrank_median_split,
    resampled_c_index,
)
from spade_bench.statistics.survival_curves import (
    auroc_over_time,
    breslow_survival,
    brier_score,
    evaluation_times,
    integrated_brier_score,
)

SEEDS = st.integers(0, 100_000)


def _cohort(seed: int, tied: bool, n: int | None = None) -> tuple[np.ndarray, ...]:
    """Event, duration and risk; with ``tied``, few distinct days and risks."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 70)) if n is None else n
    risk = rng.normal(size=n)
    death = rng.exponential(np.exp(-risk) * 400) + 1
    censoring = rng.exponential(500, n) + 1
    event, duration = death <= censoring, np.minimum(death, censoring)
    if tied:
        duration, risk = np.ceil(duration / 150), np.round(risk)
    return event, duration, risk


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.booleans())
def test_c_index_is_lifelines_and_scikit_survival(seed: int, tied: bool) -> None:
    event, duration, risk = _cohort(seed, tied)
    assume(event.any())
    got = c_index(event, duration, risk)
    assume(np.isfinite(got))
    assert got == pytest.approx(concordance_index(duration, -risk, event), abs=1e-12)
    assert got == pytest.approx(concordance_index_censored(event, duration, risk)[0], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_c_index_turns_with_the_sign_and_ignores_order_and_scale(seed: int, tied: bool) -> None:
    event, duration, risk = _cohort(seed, tied)
    got = c_index(event, duration, risk)
    assume(np.isfinite(got))
    order = np.random.default_rng(seed).permutation(len(risk))
    assert c_index(event, duration, -risk) == pytest.approx(1 - got)
    assert c_index(event[order], duration[order], risk[order]) == pytest.approx(got)
    assert c_index(event, duration * 7, 3 * risk + 2) == pytest.approx(got)


def test_c_index_on_a_cohort_small_enough_to_count() -> None:
    event = np.array([True, False, True, True])
    duration = np.array([5.0, 5.0, 8.0, 8.0])
    # Comparable: case 0 with all others, cases 2 and 3 with nobody. Won: 1; tied: 1; lost: 1.
    assert c_index(event, duration, np.array([2.0, 1.0, 2.0, 3.0])) == pytest.approx(0.5)
    assert np.isnan(c_index(np.zeros(4, bool), duration, duration))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_resampled_c_index_is_the_c_index_of_the_repeated_cases(seed: int, tied: bool) -> None:
    event, duration, risk = _cohort(seed, tied)
    weights = np.random.default_rng(seed).multinomial(
        len(risk), np.full(len(risk), 1 / len(risk)), size=4
    )
    got = resampled_c_index(event, duration, risk, weights)
    for value, count in zip(got, weights, strict=True):
        again = np.repeat(np.arange(len(risk)), count)
        want = c_index(event[again], duration[again], risk[again])
        assert value == pytest.approx(want, abs=1e-12, nan_ok=True)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.booleans(), st.booleans())
def test_uno_is_scikit_survival(seed: int, tied: bool, truncated: bool) -> None:
    train_event, train_duration, _ = _cohort(seed + 1, tied, 80)
    event, duration, risk = _cohort(seed, tied)
    tau = float(np.quantile(duration, 0.8)) if truncated else None
    train, test = Surv.from_arrays(train_event, train_duration), Surv.from_arrays(event, duration)
    try:
        want = concordance_index_ipcw(train, test, risk, tau=tau)[0]
    except (ValueError, ZeroDivisionError):  # undefined there: follow-up of training too short
        assume(False)
    assume(np.isfinite(want))
    got = c_index_uno(
        event, duration, risk, train_event=train_event, train_duration=train_duration, tau=tau
    )
    assert got[0] == pytest.approx(want, abs=1e-10)


def test_uno_resamples_like_repeated_cases_and_is_harrell_without_censoring() -> None:
    event, duration, risk = _cohort(5, True, 50)
    kwargs = {"train_event": event, "train_duration": duration}
    count = np.random.default_rng(0).integers(0, 3, 50)
    again = np.repeat(np.arange(50), count)
    got = c_index_uno(event, duration, risk, weights=count[None], **kwargs)
    want = c_index_uno(event[again], duration[again], risk[again], **kwargs)
    assert got[0] == pytest.approx(want[0])
    everyone = np.ones(50, dtype=bool)
    plain = c_index_uno(everyone, duration, risk, train_event=everyone, train_duration=duration)
    assert plain[0] == pytest.approx(c_index(everyone, duration, risk))


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.booleans())
def test_brier_and_auroc_over_time_are_scikit_survival(seed: int, tied: bool) -> None:
    train_event, train_duration, train_risk = _cohort(seed + 1, tied, 90)
    event, duration, risk = _cohort(seed, tied, 60)
    # scikit-survival wants the follow-up of the test cases inside that of the training cases.
    train_event[0], train_duration[0] = False, duration.max() + train_duration.max()
    times = evaluation_times(train_event, train_duration, duration, 8)
    train, test = Surv.from_arrays(train_event, train_duration), Surv.from_arrays(event, duration)
    curves = breslow_survival(train_event, train_duration, train_risk, risk, times)
    given_train = {"train_event": train_event, "train_duration": train_duration}
    want = sk_brier(train, test, curves, times)[1]
    want_ibs = sk_ibs(train, test, curves, times)
    with np.errstate(invalid="ignore"):  # no test event before the first day: NaN there
        want_auroc, want_mean = cumulative_dynamic_auc(train, test, risk, times)
    np.testing.assert_allclose(
        brier_score(event, duration, curves, times, **given_train), want, atol=1e-10
    )
    assert integrated_brier_score(event, duration, curves, times, **given_train) == pytest.approx(
        want_ibs, abs=1e-10
    )
    got = auroc_over_time(event, duration, risk, times, **given_train)
    np.testing.assert_allclose(got.auroc, want_auroc, atol=1e-10)
    if np.isfinite(want_auroc).all():
        assert got.mean == pytest.approx(want_mean, abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.booleans())
def test_breslow_curves_are_scikit_survivals(seed: int, tied: bool) -> None:
    event, duration, risk = _cohort(seed, tied, 40)
    assume(event.any() and len(np.unique(duration)) > 5)
    other = np.random.default_rng(seed).normal(size=6)
    times = np.unique(duration)[2:-2]
    got = breslow_survival(event, duration, risk, other, times)
    want = BreslowEstimator().fit(risk, event, duration).get_survival_function(other)
    np.testing.assert_allclose(got, [curve(times) for curve in want], atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.booleans())
def test_survival_curve_is_kaplan_meier(seed: int, tied: bool) -> None:
    from lifelines import KaplanMeierFitter

    event, duration, _ = _cohort(seed, tied)
    fitted = KaplanMeierFitter().fit(duration, event)
    days = np.unique(duration)
    want = fitted.survival_function_at_times(days).to_numpy()
    np.testing.assert_allclose(survival_curve(event, duration).at(days), want, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.booleans())
def test_logrank_is_lifelines(seed: int, tied: bool) -> None:
    event, duration, risk = _cohort(seed, tied, 40)
    high = risk > np.median(risk)
    assume(high.any() and event.any())
    want = logrank_test(duration[high], duration[~high], event[high], event[~high])
    got = logrank_median_split(event, duration, risk)
    told = (want.test_statistic, want.p_value)
    assert (got.statistic, got.p) == pytest.approx(told, rel=1e-11, abs=1e-13)
    assert (got.n_high, got.n_low) == (high.sum(), (~high).sum())


def test_what_cannot_be_scored_is_refused() -> None:
    event, duration, risk = _cohort(1, False, 20)
    with pytest.raises(DataError, match="shapes"):
        c_index(event, duration[:-1], risk)
    with pytest.raises(DataError, match="NaN"):
        c_index(event, duration, np.where(risk == risk.max(), np.nan, risk))
    with pytest.raises(DataError, match="neither 0 nor 1"):
        c_index(event.astype(int) * 2, duration, risk)
    train = {"train_event": event, "train_duration": duration}
    with pytest.raises(DataError, match="ascending"):
        auroc_over_time(event, duration, risk, np.array([3.0, 2.0]), **train)
    with pytest.raises(DataError, match="shape"):
        brier_score(event, duration, np.ones((20, 2)), np.array([1.0]), **train)
    with pytest.raises(DataError, match="beyond"):
        late = np.array([2 * duration.max()])
        happened = np.ones(20, dtype=bool)
        happened[:15] = False
        happened[duration.argmax()] = True
        brier_score(
            event, duration, np.ones((20, 1)), late, train_event=happened, train_duration=duration
        )
    with pytest.raises(DataError, match="fewer than two"):
        evaluation_times(np.zeros(20, bool), duration, duration)
