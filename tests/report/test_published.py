"""Numbers of a folder beside published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_main

from spade_bench.errors import UserError
from spade_bench.registry import encoders, tasks
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.literature.published import COLUMNS, beside_published, published_numbers
from spade_bench.statistics.evaluate import ALL_METRICS, bounds

HEST_BENCH = {"IDC", "PRAD", "PAAD", "SKCM", "COAD", "READ", "CCRCC", "LUNG", "LYMPH_IDC"}


def row(**changes: object) -> ReportRow:
    values = {
        "encoder": "uni", "task": "crc_msi", "head": "abmil", "protocol": "cv", "k_shot": None,
        "metric": "auroc", "mean": 0.87, "ci_low": 0.81, "ci_high": 0.92, "n_cases": 400,
        "n_draws": 5, "flags": ("simulated",),
    }  # fmt: skip
    return ReportRow(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", published_numbers(), ids=lambda n: f"{n.task}-{n.encoder}")
def test_a_published_number_is_of_things_that_exist_and_has_a_source(number: object) -> None:
    assert number.task in {*tasks.names(), *HEST_BENCH}  # type: ignore[attr-defined]
    assert number.encoder in encoders.names()  # type: ignore[attr-defined]
    assert number.metric in ALL_METRICS  # type: ignore[attr-defined]
    low, high = bounds(number.metric)  # type: ignore[attr-defined]
    assert low <= number.value <= high  # type: ignore[attr-defined]
    assert number.source  # type: ignore[attr-defined]


def test_none_is_given_of_spade_whose_tables_were_not_at_hand() -> None:
    assert "spade" not in {number.encoder for number in published_numbers()}


def test_yours_stands_beside_the_published_one_of_the_same_encoder() -> None:
    found = beside_published([row(), row(control="permuted-labels", mean=0.5)])
    ours = [one for one in found if one.mean is not None]
    assert [one.published.value for one in ours] == [0.901]
    assert ours[0].cells()[3] == "0.870 [0.810, 0.920]"
    assert ours[0].how == "abmil, cv"
    assert ours[0].as_dict()["flags"] == ["simulated"]
    others = [one for one in found if one.mean is None]
    assert {one.published.encoder for one in others} == {"virchow2"}
    assert others[0].cells()[3] == "-"
    assert all(len(one.cells()) == len(COLUMNS) for one in found)


def test_what_nobody_published_is_said() -> None:
    with pytest.raises(UserError, match="no published number is known of mine") as told:
        beside_published([row(task="mine")])
    assert "crc_msi" in str(told.value)


def test_the_report_prints_it_and_refuses_what_it_cannot_be(
    tmp_path: Path, store: Any, classes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    made = classes(np.clip(0.2 * label + rng.uniform(0, 0.8, 60), 0.01, 0.99), label)
    store(tmp_path, {"task": "crc_msi", "encoder": "uni"}, made)
    assert run_main("report", tmp_path, "--published", "--json", "--no-plots") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "spade-bench/report/1"
    uni = next(one for one in content["published"] if one["encoder"] == "uni")
    assert uni["value"] == 0.901
    assert uni["ci_low"] < uni["mean"] < uni["ci_high"]
    assert run_main("report", tmp_path, "--published", "--no-plots") == 0
    assert "STAMP-Benchmark" in capsys.readouterr().out
    for beside in (("--by", "site"), ("--latex",), ("--html", tmp_path / "page.html")):
        assert run_main("report", tmp_path, "--published", *beside) == 2
