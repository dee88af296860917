"""ROC and precision-recall curves against scikit-learn, and what their bands cover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from spade_bench.report import Resampler, collect
from spade_bench.report.figures.rocpr import mean_curve
from spade_bench.statistics.resampledcurves import on_grid

FINE = np.linspace(0, 1, 20001)


def _case(seed: int, n: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes, and scores, tied where there are few levels."""
    rng = np.random.default_rng(seed)
    positive = rng.uniform(size=n) < rng.uniform(0.2, 0.8)
    positive[:2] = True, False
    scores = rng.normal(size=n) + positive
    return positive, np.round(scores * levels) / levels


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 60), levels=st.sampled_from([1, 3, 10_000]))
def test_a_curve_is_that_of_sklearn(seed: int, n: int, levels: int) -> None:
    positive, scores = _case(seed, n, levels)
    once = np.ones((1, n))
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    x = np.unique(fpr)
    want = [tpr[fpr == value].max() for value in x]
    assert on_grid("roc", positive, scores, once, x)[0] == pytest.approx(want)
    area = np.trapezoid(on_grid("roc", positive, scores, once, FINE)[0], FINE)
    assert area == pytest.approx(roc_auc_score(positive, scores), abs=1e-3)
    precision, recall, _ = precision_recall_curve(positive, scores)
    for place in np.unique(recall[recall > 0]):
        # Of the thresholds with this recall the highest: the last point that sklearn lists.
        found = on_grid("pr", positive, scores, once, np.array([place]))[0, 0]
        assert found == pytest.approx(precision[:-1][recall[:-1] == place][-1])
    mean = on_grid("pr", positive, scores, once, (FINE[1:] + FINE[:-1]) / 2)[0].mean()
    assert mean == pytest.approx(average_precision_score(positive, scores), abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["roc", "pr"]))
def test_many_resamples_at_once_equal_one_by_one(seed: int, kind: str) -> None:
    positive, scores = _case(seed, 25, 3)
    weights = np.random.default_rng(seed).multinomial(25, [1 / 25] * 25, size=30).astype(float)
    x = np.linspace(0, 1, 21)
    together = on_grid(kind, positive, scores, weights, x)
    for counts, curve in zip(weights.astype(int), together, strict=True):
        cases = np.repeat(np.arange(25), counts)
        if len(set(positive[cases])) < 2:
            assert np.isnan(curve).all()
            continue
        alone = on_grid(kind, positive[cases], scores[cases], np.ones((1, 25)), x)[0]
        assert curve == pytest.approx(alone)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["roc", "pr"]))
def test_places_in_even_steps_are_read_as_any_others(seed: int, kind: str) -> None:
    positive, scores = _case(seed, 40, 3)
    weights = np.random.default_rng(seed).multinomial(40, [1 / 40] * 40, size=30).astype(float)
    even = np.linspace(0, 1, 41)  # many places are rates of cases, where curves step
    uneven = np.append(even, 0.513)
    found = on_grid(kind, positive, scores, weights, uneven)[:, :-1]
    np.testing.assert_array_equal(on_grid(kind, positive, scores, weights, even), found)


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_the_mean_is_that_of_the_draws_within_its_band(
    store: Any, classes: Any, tmp_path: Path, kind: str
) -> None:
    positive, _ = _case(3, 80, 1)
    label = positive.astype(int)
    drawn = []
    for draw in range(3):
        z = np.random.default_rng(draw).normal(size=80) + label
        drawn.append(1 / (1 + np.exp(-z)))
        store(tmp_path, {"draw": draw}, classes(drawn[-1], label))
    band = mean_curve(kind, collect(tmp_path)[0], Resampler(tmp_path, n_boot=200))
    each = [on_grid(kind, positive, p, np.ones((1, 80)), band.x)[0] for p in drawn]
    assert band.mean == pytest.approx(np.mean(each, axis=0))
    assert (band.low <= band.mean).all()
    assert (band.mean <= band.high).all()
    assert (band.high - band.low)[20:-20].max() > 0.02
    assert band.prevalence == pytest.approx(label.mean())


def test_a_band_is_wider_with_fewer_cases(store: Any, classes: Any, tmp_path: Path) -> None:
    widths = []
    for n in (30, 120):
        label = (np.arange(n) % 2).astype(int)
        p = np.clip(0.25 + 0.3 * label + np.random.default_rng(0).uniform(-0.25, 0.25, n), 0, 1)
        store(tmp_path / str(n), {}, classes(p, label))
        out = tmp_path / str(n)
        band = mean_curve("roc", collect(out)[0], Resampler(out, n_boot=300))
        widths.append((band.high - band.low).mean())
    assert widths[0] > 1.3 * widths[1]
