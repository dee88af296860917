"""Numbers of a folder beside published ones."""

from __future__ import annotations

import pytest

from spade_bench.errors import UserError
from spade_bench.registry import encoders, tasks
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.published import COLUMNS, beside_published, published_numbers
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
