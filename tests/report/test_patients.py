"""Where cases are slides, what a report resamples is their patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_bench.report import Resampler, collect, compare, leaderboard, risk_splits
from spade_bench.report.figures.calibration_plot import reliability
from spade_bench.results import Predictions

N, SLIDES = 60, 4
LABEL = np.random.default_rng(0).integers(0, 2, N)
P = 1 / (1 + np.exp(-(np.random.default_rng(1).normal(size=N) + 1.5 * (LABEL - 0.5))))


def _as_slides(told: Predictions, *, named: bool) -> Predictions:
    """Every case as so many slides with the same prediction, next to each other."""
    return replace(
        told,
        case_ids=tuple(f"{case}-s{i}" for case in told.case_ids for i in range(SLIDES)),
        target=np.repeat(told.target, SLIDES, axis=0),
        scores=np.repeat(told.scores, SLIDES, axis=0),
        patients=tuple(np.repeat(told.case_ids, SLIDES).tolist()) if named else (),
    )


def _three(store: Any, tmp_path: Path, place: dict[str, Any], told: Predictions) -> list[Path]:
    """The cases themselves, their slides, and their slides as if each were a case."""
    outs = [tmp_path / name for name in ("cases", "slides", "naive")]
    store(outs[0], place, told)
    store(outs[1], place, _as_slides(told, named=True))
    store(outs[2], place, _as_slides(told, named=False))
    return outs


def test_more_slides_of_the_same_patients_tell_nothing_new(
    store: Any, classes: Any, risks: Any, tmp_path: Path
) -> None:
    told = {"c": classes(P, LABEL), "s": risks(np.random.default_rng(2).normal(size=N))}
    for task, metric in (("c", "auroc"), ("c", "brier"), ("s", "c_index")):
        outs = _three(store, tmp_path / task / metric, {"task": task}, told[task])
        cases, slides, naive = (
            next(r for r in leaderboard(collect(out), Resampler(out)) if r.metric == metric)
            for out in outs
        )
        # The AUROC of cases has DeLong's variance, that of slides the bootstrap's.
        near = pytest.approx((cases.ci_low, cases.ci_high), abs=0.02 if metric == "auroc" else 1e-9)
        assert (slides.ci_low, slides.ci_high) == near
        width = [(r.ci_high or 0) - (r.ci_low or 0) for r in (cases, naive)]
        # With the independence that slides lack, an interval is half as wide: one over root of 4.
        assert 0.35 < width[1] / width[0] < 0.7


def test_pairs_are_compared_by_patient_and_not_by_delong(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    found = {}
    for encoder, told in (("a", classes(P, LABEL)), ("b", classes(P[::-1], LABEL))):
        outs = _three(store, tmp_path, {"encoder": encoder}, told)
    for out in outs:
        found[out.name] = next(
            d for d in compare(collect(out), Resampler(out), "a", "b") if d.metric == "auroc"
        )
    cases, slides, naive = (found[name] for name in ("cases", "slides", "naive"))
    assert (cases.test, slides.test, naive.test) == ("delong", "bootstrap", "delong")
    wide = cases.ci_high - cases.ci_low
    assert slides.ci_high - slides.ci_low == pytest.approx(wide, rel=0.15)
    assert naive.ci_high - naive.ci_low < 0.6 * wide


def test_calibration_and_log_rank_are_by_patient_too(
    store: Any, classes: Any, risks: Any, tmp_path: Path
) -> None:
    outs = _three(store, tmp_path / "c", {}, classes(P, LABEL))
    cases, slides, naive = (reliability(collect(out)[0], Resampler(out)) for out in outs)
    assert np.allclose(slides.low, cases.low)
    assert np.allclose(slides.high, cases.high)
    assert (naive.high - naive.low).mean() < 0.8 * (cases.high - cases.low).mean()
    outs = _three(store, tmp_path / "s", {}, risks(np.random.default_rng(2).normal(size=N)))
    first, second, third = (risk_splits(collect(out), Resampler(out))[0] for out in outs)
    assert second.p == pytest.approx(first.p)
    assert (second.n_high + second.n_low, third.n_high + third.n_low) == (N, SLIDES * N)
