"""The time of a run is told from small fits: known paces are found again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spade_bench.calibration import timings
from spade_bench.calibration.estimate import estimate
from spade_bench.calibration.timings import FitPace, fit_pace, reading_pace
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still."""
    now = [0.0]
    monkeypatch.setattr(timings, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.mark.parametrize(("fixed", "per_case"), [(0.5, 0.1), (0.0, 2.0), (3.0, 0.0)])
def test_a_known_pace_is_found(
    fixed: float, per_case: float, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fit_predict(head: Any, bags: Any, fits: Any, n_outputs: int, *, name: str) -> None:
        for fit in fits:
            clock[0] += fixed + per_case * len(fit.train)
            seen.append(fit)

    monkeypatch.setattr(timings, "fit_predict", fit_predict)
    target = np.array([0] * 30 + [1] * 10)
    job = Fit(np.arange(40), target, np.arange(40, 90), seed=3)
    bags = CaseBags(lambda i: np.ones((2, 3), dtype=np.float32), 90, 3)
    pace = fit_pace(None, "head", bags, job, 2)
    assert (pace.fixed, pace.per_case) == pytest.approx((fixed, per_case))
    assert pace.seconds(100) == pytest.approx(fixed + 100 * per_case)
    assert all(set(fit.target) == {0, 1} for fit in seen)  # the first thirty are of one class
    assert max(len(fit.train) for fit in seen) == 16


def test_reading_is_timed_by_case(clock: list[float]) -> None:
    def load(position: int) -> np.ndarray:
        clock[0] += 0.25
        return np.ones((2, 3), dtype=np.float32)

    assert reading_pace(CaseBags(load, 50, 3)) == pytest.approx(0.25)


def test_what_was_timed_counts_once() -> None:
    planned = [("t", "e", "new", "", 10, 0), ("t", "f", "new", "", 10, 0)]
    assert estimate([], planned, {("t", "new"): 7.0}) == 7.0
    assert estimate([], planned) is None
    assert FitPace(1.0, 2.0).seconds(3) == 7.0
