"""Calibration error: by hand, in resamples, and what chance alone makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from spade_bench.statistics.calibration import ECE_BINS, ece, ece_of_calibrated
from spade_bench.statistics.evaluate import bounds, chance, direction, evaluate
from spade_bench.statistics.intervals import case_weights


def _binary(n: int, seed: int = 0, tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, n)
    label = (rng.uniform(size=n) < np.clip(p + tilt, 0, 1)).astype(np.int64)
    return label, np.stack([1 - p, p], axis=1)


def test_bins_hold_equally_many_cases() -> None:
    label, scores = _binary(200)
    order = np.argsort(scores[:, 1])
    gaps = [
        abs(label[part].mean() - scores[part, 1].mean()) * len(part) / 200
        for part in np.array_split(order, ECE_BINS)
    ]
    assert ece(label, scores)[0] == pytest.approx(sum(gaps))


def test_of_several_classes_the_likeliest_counts() -> None:
    rng = np.random.default_rng(1)
    scores = rng.dirichlet(np.ones(4), 300)
    label = rng.integers(0, 4, 300)
    right = (scores.argmax(axis=1) == label).astype(np.int64)
    best = scores.max(axis=1)
    assert ece(label, scores) == pytest.approx(ece(right, np.stack([1 - best, best], axis=1)))


def test_known_answers() -> None:
    label = np.array([0, 1] * 50)
    assert ece(label, np.full((100, 2), 0.5)) == pytest.approx([0.0])
    assert ece(label, np.tile([0.2, 0.8], (100, 1))) == pytest.approx([0.3])
    assert ece(label, np.eye(2)[label]) == pytest.approx([0.0])
    assert ece(label, np.eye(2)[1 - label]) == pytest.approx([1.0])


def test_a_weighting_is_the_cases_written_out_in_the_same_bins() -> None:
    label, scores = _binary(60)
    ties = scores.round(1)  # so that bins do not depend on how often a case is drawn
    weights = case_weights(label, 10)
    got = evaluate("ece", label, ties, weights)
    edges = np.unique(np.quantile(ties[:, 1], np.arange(1, 10) / 10))
    place = np.searchsorted(edges, ties[:, 1])
    for counts, value in zip(weights, got, strict=True):
        gap = [abs((counts * (label - ties[:, 1]))[place == b].sum()) for b in np.unique(place)]
        assert value == pytest.approx(sum(gap) / counts.sum())


@pytest.mark.parametrize("n", [60, 400])
def test_chance_alone_makes_the_error_that_is_stated(n: int) -> None:
    found, stated = [], []
    for seed in range(200):
        label, scores = _binary(n, seed)
        found.append(ece(label, scores)[0])
        stated.append(ece_of_calibrated(label, scores))
    assert np.mean(found) == pytest.approx(np.mean(stated), rel=0.08)
    assert np.mean(found) > 0.02  # far from the truth, which is zero


def test_a_tilt_is_seen_beyond_chance() -> None:
    label, scores = _binary(2000, tilt=0.15)
    assert ece(label, scores)[0] == pytest.approx(0.15, abs=0.04)
    assert ece(label, scores)[0] > 3 * ece_of_calibrated(label, scores)


def test_less_is_better_and_there_is_no_level_of_chance() -> None:
    assert direction("ece") == -1
    assert bounds("ece", 2) == (0.0, 1.0)
    assert chance("ece", 2) is None
