"""Ridge regression, and heads of values in the unit of their targets."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions
from spade_bench.registry import heads

OF_VALUES = [plugin.name for plugin in heads if "regression" in plugin.card.kinds]


def _cohort(n: int, dim: int) -> tuple[CaseBags, np.ndarray]:
    rng = np.random.default_rng(0)
    bags = [(rng.normal(size=(4, dim)) + rng.normal(size=dim)).astype(np.float32) for _ in range(n)]
    value = 60 + 5 * np.stack([bag.mean(axis=0) for bag in bags])[:, 0] + rng.normal(size=n)
    return CaseBags(bags.__getitem__, n, dim), value


@pytest.mark.parametrize(("n", "dim"), [(30, 6), (12, 40)])
@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_is_ridge_of_scikit_learn(n: int, dim: int, alpha: float) -> None:
    bags, value = _cohort(2 * n, dim)
    head = heads.get("ridge").load(HeadOptions(params={"alpha": alpha}))
    train, test = np.arange(n), np.arange(n, 2 * n)
    (got,) = head.fit_predict(bags, [Fit(train, value[train], test)], 1)
    x = bags.pooled()
    centred = x[train] - x[train].mean(axis=0)
    scale = np.sqrt((centred**2).mean())
    model = Ridge(alpha=alpha * dim).fit(x[train] / scale, value[train])
    assert got[:, 0] == pytest.approx(model.predict(x[test] / scale), abs=1e-8)


def test_fits_that_share_training_cases_are_solved_together() -> None:
    bags, value = _cohort(40, 8)
    head = heads.get("ridge").load(HeadOptions())
    rng = np.random.default_rng(1)
    train = np.arange(20)
    fits = [Fit(train, rng.permutation(value[train]), np.arange(20, 40)) for _ in range(3)]
    fits.append(Fit(np.arange(5, 25), value[5:25], np.arange(25, 40)))
    together = head.fit_predict(bags, fits, 1)
    for fit, got in zip(fits, together, strict=True):
        assert got == pytest.approx(head.fit_predict(bags, [fit], 1)[0], abs=1e-10)


@pytest.mark.parametrize("name", OF_VALUES)
def test_predictions_follow_the_unit_of_the_target(name: str) -> None:
    """Days are years times 365.25, whatever a head scales inside; and 20 cases have a level."""
    bags, value = _cohort(40, 5)
    known = heads.get(name).card.defaults
    quick = {"epochs": 2, "min_steps": 60, "hidden": 16, "precision": "fp64"}
    head = heads.get(name).load(HeadOptions(params={k: v for k, v in quick.items() if k in known}))
    train, test = np.arange(20), np.arange(20, 40)
    years, days = head.fit_predict(
        bags, [Fit(train, value[train] * times, test) for times in (1.0, 365.25)], 1
    )
    assert days == pytest.approx(365.25 * years, rel=1e-6)
    assert abs(years.mean() - value[train].mean()) < 3 * value.std()


@pytest.mark.parametrize("name", OF_VALUES)
def test_fitted_predicts_what_the_run_predicts_and_is_taken_apart(name: str, tmp_path) -> None:
    bags, value = _cohort(30, 5)
    known = heads.get(name).card.defaults
    quick = {"epochs": 2, "min_steps": 40, "hidden": 16}
    head = heads.get(name).load(HeadOptions(params={k: v for k, v in quick.items() if k in known}))
    train, test = np.arange(20), np.arange(20, 30)
    fit = Fit(train, value[train], test, seed=3)
    (scored,) = head.fit_predict(bags, [fit, Fit(test, value[test], train)], 1)[:1]
    (fitted,) = head.fit(bags, [fit], 1)
    assert fitted.predict(bags, test.tolist()) == pytest.approx(scored, rel=1e-5)
    assert fitted.columns == ("value",)
    again = type(fitted).load(fitted.save(tmp_path / "head"))
    assert np.array_equal(again.predict(bags), fitted.predict(bags))
    parts = again.contributions(bags[25])
    assert parts.link == "value"
    assert parts.prediction() == pytest.approx(again.predict(bags, [25])[0], rel=1e-5)
