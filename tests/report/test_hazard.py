"""Hazard ratios of the halves by risk, against lifelines and known hazards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter

from spade_bench.report import Resampler, collect
from spade_bench.report.figures.survival_plot import hazard_ratio, survival_pictures
from spade_bench.report.pictures import Look
from spade_bench.report.risk_split import CaseRisks


def _cases(n: int, ratio: float, seed: int = 0) -> CaseRisks:
    """Exponential times; the half with the higher risk has a hazard ``ratio`` times as high."""
    rng = np.random.default_rng(seed)
    risk = rng.permutation(n).astype(float)
    high = risk > np.median(risk)
    death = rng.exponential(1000 / np.where(high, ratio, 1.0))
    leaving = rng.exponential(2500, n)
    return CaseRisks(death <= leaving, np.minimum(death, leaving) + 1, risk)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_a_known_hazard_ratio_is_found(ratio: float) -> None:
    found = hazard_ratio(_cases(6000, ratio))
    assert found is not None
    assert found.ratio == pytest.approx(ratio, rel=0.1)
    assert found.low < ratio < found.high


@pytest.mark.parametrize("seed", range(4))
def test_it_is_that_of_lifelines(seed: int) -> None:
    cases = _cases(80, 2.0, seed)
    table = pd.DataFrame({"high": cases.high.astype(int), "t": cases.days, "e": cases.event})
    want = CoxPHFitter().fit(table, "t", "e").summary.loc["high"]
    found = hazard_ratio(cases)
    assert found is not None
    assert found == pytest.approx(
        (want["exp(coef)"], want["exp(coef) lower 95%"], want["exp(coef) upper 95%"])
    )


def test_a_half_without_events_has_no_ratio() -> None:
    cases = _cases(60, 2.0)
    assert hazard_ratio(CaseRisks(cases.event & cases.high, cases.days, cases.risk)) is None
    assert hazard_ratio(CaseRisks(cases.event, cases.days, np.zeros(60))) is None


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.filterwarnings("error")
def test_perfectly_separated_halves_have_no_ratio(first: bool) -> None:
    risk = np.arange(40.0)
    days = 1 + (risk[::-1] if first else risk)
    assert hazard_ratio(CaseRisks(np.ones(40, dtype=bool), days, risk)) is None


def test_the_picture_holds_the_curve_and_says_the_ratio(
    store: Any, risks: Any, tmp_path: Path
) -> None:
    told = risks(np.random.default_rng(1).normal(size=80), 3)
    store(tmp_path, {"encoder": "uni", "task": "tcga_luad_survival"}, told)
    series = collect(tmp_path)
    (picture,) = survival_pictures(series, Resampler(tmp_path), Look.of(series))
    drawn = picture.drawn()
    high = told.scores[:, 0] > np.median(told.scores[:, 0])
    event, days = told.target.T
    for name, half in (("low risk", ~high), ("high risk", high)):
        rows = [row for row in drawn.numbers if row["half"] == name]
        want = KaplanMeierFitter().fit(days[half], event[half]).survival_function_
        assert [row["no_event"] for row in rows] == pytest.approx(want.iloc[:, 0].tolist())
        assert [row["years"] for row in rows] == pytest.approx(want.index.to_numpy() / 365.25)
        assert [row["at_risk"] for row in rows] == [
            int((days[half] >= day).sum()) for day in want.index
        ]
        (line,) = [one for one in drawn.figure.axes[0].lines
                   if str(one.get_label()).startswith(name)]  # fmt: skip
        assert line.get_ydata() == pytest.approx(want.iloc[:, 0].tolist())
    found = hazard_ratio(CaseRisks(event > 0, days, told.scores[:, 0]))
    assert found is not None
    assert drawn.numbers[0]["hazard_ratio"] == pytest.approx(found.ratio)
    assert f"HR {found.ratio:.2f} [{found.low:.2f}, {found.high:.2f}]" in (
        drawn.figure.axes[0].get_title()
    )
