"""The batched logistic head against scikit-learn, one fit at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from spade_bench.errors import ConfigError
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions
from spade_bench.registry import heads


def _bags(features: list[np.ndarray]) -> CaseBags:
    return CaseBags(lambda index: features[index], len(features), features[0].shape[1])


def _problem(seed: int, k: int, dim: int, n_classes: int, n_fits: int = 3):
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(n_classes), 12)
    centre = rng.normal(size=(n_classes, dim))
    features = [
        (centre[y] + rng.normal(size=(rng.integers(1, 9), dim))).astype(np.float32) for y in label
    ]
    fits = []
    for draw in range(n_fits):
        train = np.concatenate(
            [rng.choice(np.flatnonzero(label == c), k, replace=False) for c in range(n_classes)]
        )
        test = np.setdiff1d(np.arange(len(label)), train)
        fits.append(Fit(train, label[train], test, seed=draw))
    return _bags(features), fits


def _scikit(bags: CaseBags, fit: Fit, c: float) -> np.ndarray:
    pooled = bags.pooled()
    mean = pooled[fit.train].mean(axis=0)
    spread = pooled[fit.train].std(axis=0)
    size = np.sqrt((spread**2).mean())  # one number for all features
    model = LogisticRegression(C=c, tol=1e-12, max_iter=100_000)
    model.fit((pooled[fit.train] - mean) / size, fit.target)
    return model.predict_proba((pooled[fit.test] - mean) / size)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([1, 2, 5, 10]),
    st.sampled_from([3, 20, 200]),
    st.sampled_from([2, 3, 5]),
    st.sampled_from([0.01, 1.0, 50.0]),
)
def test_equals_scikit_learn(seed: int, k: int, dim: int, n_classes: int, c: float) -> None:
    bags, fits = _problem(seed, k, dim, n_classes)
    head = heads.get("logistic").load(HeadOptions(params={"C": c}))
    for fit, got in zip(fits, head.fit_predict(bags, fits, n_classes), strict=True):
        assert got == pytest.approx(_scikit(bags, fit, c), abs=1e-5)


def test_together_equals_alone() -> None:
    bags, fits = _problem(0, 4, 50, 3, n_fits=4)
    head = heads.get("logistic").load(HeadOptions())
    mixed = [*fits, *_problem(0, 2, 50, 3, n_fits=2)[1]]
    together = head.fit_predict(bags, mixed, 3)
    for fit, got in zip(mixed, together, strict=True):
        assert got == pytest.approx(head.fit_predict(bags, [fit], 3)[0], abs=1e-12)


def test_close_cases_and_distant_ones_are_solved_as_if_alone() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 40)) + 1000.0
    x[:20] = x[0] + 1e-4 * rng.normal(size=(20, 40))  # spread lost beside that of the others
    x[20:24] = x[20]  # no spread at all
    label = np.arange(600) % 2
    trains = [np.arange(start, start + 4) for start in range(0, 600, 4)]  # no case in common
    fits = [Fit(train, label[train], np.arange(600)) for train in trains]
    bags = _bags([row[None] for row in x])
    head = heads.get("logistic").load(HeadOptions())
    for fit, got in zip(fits, head.fit_predict(bags, fits, 2), strict=True):
        assert got == pytest.approx(head.fit_predict(bags, [fit], 2)[0], abs=1e-7)
        if fit.train[0] != 20:
            assert got == pytest.approx(_scikit(bags, fit, 1.0), abs=1e-5)


def test_constant_and_duplicated_features_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(20, 4)).astype(np.float32)
    wide = np.concatenate([base, base, np.full((20, 3), 0.1, np.float32)], axis=1)
    label = np.arange(20) % 2
    fit = Fit(np.arange(10), label[:10], np.arange(10, 20))
    head = heads.get("logistic").load(HeadOptions())
    bags = _bags([row[None] for row in wide])
    got = head.fit_predict(bags, [fit], 2)[0]
    assert got == pytest.approx(_scikit(bags, fit, 1.0), abs=1e-5)


def test_order_of_patches_changes_nothing() -> None:
    bags, fits = _problem(3, 4, 30, 2)
    turned = CaseBags(lambda index: bags[index][::-1], len(bags), bags.dim)
    head = heads.get("logistic").load(HeadOptions())
    for a, b in zip(
        head.fit_predict(bags, fits, 2), head.fit_predict(turned, fits, 2), strict=True
    ):
        assert a == pytest.approx(b, abs=1e-9)


def test_unknown_hyperparameter_is_refused() -> None:
    with pytest.raises(ConfigError, match="penalty"):
        heads.get("logistic").load(HeadOptions(params={"penalty": 3}))
