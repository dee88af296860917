"""The log-rank test of the median-risk split is in every report of a survival task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifelines.statistics import logrank_test

from spade_bench.cli.main import main
from spade_bench.report import Resampler, collect, risk_splits
from spade_bench.report.leaderboard import COLUMNS
from spade_bench.report.risk_split import case_risks

RISK = np.random.default_rng(3).normal(size=80)


def _print(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--no-plots"])
    assert done.value.code == 0
    return capsys.readouterr().out


def test_one_draw_is_the_plain_test_of_lifelines(store: Any, risks: Any, tmp_path: Path) -> None:
    told = risks(RISK)
    store(tmp_path, {}, told)
    (split,) = risk_splits(collect(tmp_path), Resampler(tmp_path))
    high = np.median(RISK) < RISK
    event, days = told.target.T
    want = logrank_test(days[high], days[~high], event[high], event[~high])
    assert split.statistic == pytest.approx(want.test_statistic)
    assert split.p == pytest.approx(want.p_value)
    assert (split.n_high, split.n_low) == (40, 40)
    assert (split.events_high, split.events_low) == (event[high].sum(), event[~high].sum())


def test_the_scale_of_a_draw_counts_for_nothing(store: Any, risks: Any, tmp_path: Path) -> None:
    other = np.random.default_rng(4).normal(size=80)
    for out, scale in ((tmp_path / "a", 1.0), (tmp_path / "b", 1000.0)):
        store(out, {"draw": 0}, risks(RISK))
        store(out, {"draw": 1}, risks(scale * other))
    first, second = (
        risk_splits(collect(out), Resampler(out))[0] for out in (tmp_path / "a", tmp_path / "b")
    )
    assert (first.p, first.statistic) == (second.p, second.statistic)


def test_every_case_of_all_folds_counts_once(store: Any, risks: Any, tmp_path: Path) -> None:
    whole = risks(RISK)
    for draw in range(2):
        order = np.random.default_rng(draw).permutation(80)
        for fold in range(4):
            at = np.sort(order[fold::4])
            part = replace(
                whole,
                case_ids=tuple(whole.case_ids[i] for i in at),
                target=whole.target[at],
                scores=whole.scores[at] + 100 * fold,  # folds differ in scale, which must not show
            )
            store(tmp_path, {"protocol": "cv", "draw": draw, "fold": fold}, part)
    (series,) = collect(tmp_path)
    resampler = Resampler(tmp_path)
    found = case_risks(series, resampler)
    assert found.risk.shape == (80,)
    assert (
        np.corrcoef(found.risk, np.argsort(np.argsort(RISK[_order(series, resampler)])))[0, 1]
        > 0.95
    )
    (split,) = risk_splits([series], resampler)
    assert split.n_high + split.n_low == 80


def _order(series: Any, resampler: Resampler) -> list[int]:
    """Positions of the cases in the order in which rows name them first."""
    ids = dict.fromkeys(c for row in series.rows for c in resampler.predictions(row).case_ids)
    return [int(case[1:]) for case in ids]


def test_it_is_in_every_output(
    store: Any, risks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = risks(RISK)
    truth = risks(-told.target[:, 1])  # who died first has the highest risk
    store(tmp_path, {"encoder": "oracle"}, truth)
    store(tmp_path, {"encoder": "oracle", "k_shot": 2}, told)
    store(tmp_path, {"encoder": "flat"}, risks(np.zeros(80)))
    store(tmp_path, {"encoder": "oracle"}, told, flags=("control:permuted-labels",))
    rows = json.loads(_print(capsys, "report", str(tmp_path), "--json"))["rows"]
    own = [row for row in rows if row["metric"] == "logrank_p"]
    assert all(set(row) == set(COLUMNS) for row in own)
    found = {(r["encoder"], r["k_shot"], tuple(r["flags"])): r for r in own}
    assert found["oracle", 4, ()]["mean"] < 1e-6
    assert found["oracle", 4, ()]["ci_low"] is None
    assert found["oracle", 4, ()]["n_cases"] == 80
    assert found["flat", 4, ("undefined",)]["mean"] is None
    assert len(own) == 4
    table = _print(capsys, "report", str(tmp_path))
    assert "t: log-rank test between cases above and below the median risk" in table
    assert "<0.001" in table
    assert "control:permuted-labels" in table
    arguments = ("report", str(tmp_path), "--markdown", "--metric", "logrank_p")
    assert "| oracle | <0.001 |" in _print(capsys, *arguments)
    text = _print(capsys, *arguments, "--long")
    assert "| oracle | t | cox | few-shot | 4 | logrank_p | <0.001 |  |  | 80 | 1 |  |" in text


def test_a_task_of_classes_has_none(
    store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, {}, classes(np.linspace(0.1, 0.9, 20), np.arange(20) % 2))
    assert risk_splits(collect(tmp_path), Resampler(tmp_path)) == []
    assert "logrank_p" not in _print(capsys, "report", str(tmp_path), "--json")
    with pytest.raises(SystemExit) as done:
        main(["report", str(tmp_path), "--metric", "logrank_p"])
    assert done.value.code == 2


def test_permuted_controls_name_their_encoder(
    store: Any, risks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for encoder in ("uni", "conch"):
        store(tmp_path, {"encoder": encoder}, risks(RISK))
        store(tmp_path, {"encoder": encoder}, risks(-RISK), control="permuted-labels",
              control_of=encoder)  # fmt: skip
    table = _print(capsys, "report", str(tmp_path)).split("log-rank test")[1]
    for encoder in ("uni", "conch"):
        assert f"{encoder}: permuted labels" in table
