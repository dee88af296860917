"""Beside the results stands who was split, and who of the table was not, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from command_line import request_of

from spade_bench.evaluation import run
from spade_bench.results import ResultStore
from spade_bench.results.cohortfiles import read_cohorts


def _run(study: Any, out: Path, **changes: Any) -> None:
    run(request_of(study, out, shots=(1,), draws=1, controls=False, **changes))


def test_every_case_of_the_table_is_split_or_left_out_with_a_reason(
    study: Any, tmp_path: Path
) -> None:
    lines = study.table.read_text().splitlines()
    lines[0] += ",site"
    lines[1:] = [f"{line},{'north' if i % 2 else 'south'}" for i, line in enumerate(lines[1:])]
    lines += ["unlabelled,unlabelled-s0,,north"]
    study.table.write_text("\n".join(lines) + "\n")
    (study.features / "case001-s0.h5").unlink()  # its only slide
    (study.features / "case005-s1.h5").unlink()  # one of two
    _run(study, tmp_path / "out", allow_missing=True)
    (cohort,) = read_cohorts(tmp_path / "out", problems := [])
    assert not problems
    assert cohort.task == "my_task"
    assert cohort.source == ("table.csv",)
    kept = {case.case_id: case for case in cohort.cases}
    assert len(kept) == 39
    assert kept["case005"].slide_ids == ("case005-s0",)
    assert set(cohort.sites) == set(kept)
    assert set(cohort.sites.values()) == {"north", "south"}
    reasons = {(one.case_id, one.slide_id): one.why for one in cohort.left_out}
    assert reasons == {
        ("unlabelled", ""): "no label",
        ("case001", ""): "no features of mine",
        ("case005", "case005-s1"): "no features of mine",
    }
    (row, *_) = ResultStore(tmp_path / "out").rows()
    assert row.inputs["cohort"] == cohort.cohort


def test_a_complete_table_leaves_nobody_out_and_a_second_run_writes_nothing_new(
    study: Any, tmp_path: Path
) -> None:
    for _ in range(2):
        _run(study, tmp_path / "out")
    (cohort,) = read_cohorts(tmp_path / "out", [])
    assert len(cohort.cases) == 40
    assert cohort.left_out == ()
    assert cohort.sites == {}


def test_a_damaged_cohort_is_named(study: Any, tmp_path: Path) -> None:
    _run(study, tmp_path / "out")
    (path,) = (tmp_path / "out" / "cohorts").glob("*.json")
    path.write_text(path.read_text().replace("case000", "case999"))
    assert read_cohorts(tmp_path / "out", problems := []) == []
    assert len(problems) == 1
    assert "checksum" in problems[0]
