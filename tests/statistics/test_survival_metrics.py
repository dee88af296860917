"""Survival metrics by name: resamples are repeated cases, single values are the plain functions."""

from __future__ import annotations

import numpy as np
import pytest
from sksurv.metrics import concordance_index_ipcw, integrated_brier_score
from sksurv.util import Surv

from spade_bench.errors import ConfigError
from spade_bench.statistics import survival_curves as curves
from spade_bench.statistics.evaluate import ALL_METRICS, bounds, direction, evaluate, strata
from spade_bench.statistics.regression_metrics import REGRESSION_METRICS
from spade_bench.statistics.survival_metrics import SURVIVAL_METRICS, survival_score_many


def _study(seed: int, n: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hazard = rng.normal(size=n)
    death, leaving = rng.exponential(np.exp(-hazard) * 300), rng.exponential(500, n)
    days = np.minimum(death, leaving) + 1
    risk = hazard + rng.normal(size=n)
    if tied:
        days, risk = np.ceil(days / 50) * 50, np.round(risk)
    return np.stack([(death <= leaving).astype(float), days], axis=1), risk[:, None]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scikit_survival(seed: int, tied: bool) -> None:
    train, train_risk = _study(100 + seed, 200, tied)
    target, risk = _study(seed, 60, tied)
    # scikit-survival asks that test follow-up ends within the training cases' .
    target[:, 1] = np.minimum(target[:, 1], np.sort(train[:, 1])[-3])
    got = {n: survival_score_many(n, target, risk, None, (train, train_risk))[0]
           for n in SURVIVAL_METRICS}  # fmt: skip
    then = Surv.from_arrays(train[:, 0] > 0, train[:, 1])
    now = Surv.from_arrays(target[:, 0] > 0, target[:, 1])
    uno = concordance_index_ipcw(then, now, risk[:, 0], tied_tol=0)[0]
    assert got["c_index_uno"] == pytest.approx(uno)
    about = (train[:, 0] > 0, train[:, 1])
    times = curves.evaluation_times(*about, target[:, 1])
    survival = curves.breslow_survival(*about, train_risk[:, 0], risk[:, 0], times)
    assert got["ibs"] == pytest.approx(integrated_brier_score(then, now, survival, times))
    few = curves.evaluation_times(*about, target[:, 1], 20)
    # The plain function is held against scikit-survival in its own tests.
    plain = curves.auroc_over_time(
        target[:, 0] > 0, target[:, 1], risk[:, 0], few,
        train_event=about[0], train_duration=about[1],
    )  # fmt: skip
    assert got["auroc_over_time"] == pytest.approx(plain.mean)


@pytest.mark.parametrize("name", ["c_index", "c_index_uno", "ibs"])
def test_weights_are_repeated_cases(name: str) -> None:
    train = _study(8, 150, tied=True)
    target, risk = _study(9, 40, tied=True)
    counts = np.random.default_rng(3).integers(0, 4, (4, 40))
    # Follow-up decides at which times curves are judged, so its ends stay in every resample.
    counts[:, [target[:, 1].argmin(), target[:, 1].argmax()]] += 1
    together = survival_score_many(name, target, risk, counts.astype(float), train)
    for row, value in zip(counts, together, strict=True):
        again = np.repeat(np.arange(40), row)
        alone = survival_score_many(name, target[again], risk[again], None, train)[0]
        assert value == pytest.approx(alone)


def test_time_dependent_auroc_of_weights_of_one_is_the_plain_value() -> None:
    train, (target, risk) = _study(8, 150, tied=True), _study(9, 40, tied=True)
    plain = survival_score_many("auroc_over_time", target, risk, None, train)
    ones = survival_score_many("auroc_over_time", target, risk, np.ones((3, 40)), train)
    assert ones == pytest.approx(np.repeat(plain, 3))


def test_without_training_cases_only_harrells_index_is_defined() -> None:
    target, risk = _study(1, 30, tied=False)
    assert np.isfinite(survival_score_many("c_index", target, risk)[0])
    for name in SURVIVAL_METRICS[1:]:
        assert np.isnan(survival_score_many(name, target, risk, np.ones((2, 30)))).all()


def test_every_metric_can_be_asked_for_by_name() -> None:
    train, (target, risk) = _study(8, 150, tied=False), _study(9, 40, tied=False)
    label = np.arange(60) % 3
    scores = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    for name in ALL_METRICS:
        low, high = bounds(name)
        assert direction(name) in {-1, 0, 1}
        if name in SURVIVAL_METRICS:
            value = evaluate(name, target, risk, None, train)
        elif name in REGRESSION_METRICS:
            value = evaluate(name, scores[:, 0], scores[:, 1:2])
        else:
            value = evaluate(name, label, scores)
        assert value.shape == (1,)
        assert low <= value[0] <= high
    assert direction("ibs") == direction("brier") == -1
    with pytest.raises(ConfigError, match="c_index"):
        evaluate("auroc", target, risk)
    assert strata(target).tolist() == target[:, 0].astype(int).tolist()
    assert strata(label) is label
