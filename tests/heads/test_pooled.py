"""Nearest neighbours, prototypes and Cox on pooled features against other implementations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize

from spade_bench.errors import DataError
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions
from spade_bench.registry import heads
from spade_bench.statistics.riskscores import c_index


def _bags(x: np.ndarray) -> CaseBags:
    return CaseBags(lambda i: x[i : i + 1], len(x), x.shape[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 7), st.sampled_from(["euclidean", "cosine"]))
def test_knn_equals_scikit_learn(seed: int, k: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    x, label = rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40)
    label[:3] = 0, 1, 2
    fit = Fit(np.arange(12), label[:12], np.arange(12, 40))
    head = heads.get("knn").load(HeadOptions(params={"k": k, "metric": metric}))
    got = head.fit_predict(_bags(x), [fit], 3)[0]
    theirs = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(
        x[:12].astype(float), label[:12]
    )
    assert got == pytest.approx(theirs.predict_proba(x[12:].astype(float)))


def test_knn_with_fewer_cases_than_neighbours_asks_all() -> None:
    x = np.array([[0.0], [1], [9]], dtype=np.float32)
    got = (
        heads.get("knn")
        .load(HeadOptions())
        .fit_predict(_bags(x), [Fit(np.arange(2), np.array([0, 1]), np.array([2]))], 2)[0]
    )
    assert got.tolist() == [[0.5, 0.5]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.booleans())
def test_prototype_chooses_as_nearest_centroid(seed: int, centre: bool) -> None:
    rng = np.random.default_rng(seed)
    label = np.arange(40) % 3
    x = (rng.normal(size=(40, 6)) + 3 * np.eye(6)[label] + 5).astype(np.float32)
    fit = Fit(np.arange(15), label[:15], np.arange(15, 40))
    head = heads.get("prototype").load(HeadOptions(params={"centre": centre}))
    got = head.fit_predict(_bags(x), [fit], 3)[0]
    y = x.astype(float) - (x[:15].astype(float).mean(axis=0) if centre else 0)
    theirs = NearestCentroid().fit(normalize(y[:15]), label[:15])
    assert (got.argmax(axis=1) == theirs.predict(normalize(y[15:]))).all()


def test_prototype_without_cases_of_a_class_never_chooses_it() -> None:
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    fit = Fit(np.arange(4), np.array([0, 2, 0, 2]), np.arange(4, 9))
    got = heads.get("prototype").load(HeadOptions()).fit_predict(_bags(x), [fit], 3)[0]
    assert (got[:, 1] == 0).all()
    assert got.sum(axis=1) == pytest.approx(1.0)


def _survival(n: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    days = rng.exponential(np.exp(-1.2 * x[:, 0])) * 100 + 1
    return x, np.stack([(rng.random(n) < 0.7).astype(float), days], axis=1)


def test_cox_with_all_components_equals_lifelines() -> None:
    x, target = _survival(120, 3)
    fit = Fit(np.arange(80), target[:80], np.arange(80, 120))
    head = heads.get("cox").load(HeadOptions(params={"components": 3, "penalizer": 1e-6}))
    risk = head.fit_predict(_bags(x), [fit], 1)[0][:, 0]
    table = pd.DataFrame(x.astype(float))
    table["e"], table["t"] = target[:, 0], target[:, 1]
    model = CoxPHFitter(penalizer=1e-6).fit(table[:80], "t", "e")
    theirs = model.predict_log_partial_hazard(table[80:]).to_numpy()
    assert risk - risk.mean() == pytest.approx(theirs - theirs.mean(), abs=1e-4)
    assert c_index(target[80:, 0] > 0, target[80:, 1], risk) > 0.65  # higher is worse


@pytest.mark.parametrize("n", [2, 3, 8])
def test_cox_on_very_few_cases_with_many_features(n: int) -> None:
    x, target = _survival(40, 200)
    target[0, 0] = 1
    fit = Fit(np.arange(n), target[:n], np.arange(n, 40))
    risk = heads.get("cox").load(HeadOptions()).fit_predict(_bags(x), [fit], 1)[0]
    assert np.isfinite(risk).all()
    assert risk.std() > 0


def test_cox_without_events_is_refused() -> None:
    x, target = _survival(10, 3)
    target[:, 0] = 0
    with pytest.raises(DataError, match="no event"):
        heads.get("cox").load(HeadOptions()).fit_predict(
            _bags(x), [Fit(np.arange(6), target[:6], np.arange(6, 10))], 1
        )
