"""Tables as people have them, through the commands: columns, ids, spellings, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import run_main

from spade_bench.results import ResultStore

QUICK = ("--no-controls", "--device", "cpu", "--shots", "4", "--draws", "1", "--out", "out")


def _run(study: Any, table: Path, *options: str, task: str = "tumour") -> int:
    return run_main(
        *("run", "--encoder", "mine", "--task", task, "--table", str(table)),
        *("--features", str(study.features), *QUICK, *options),
    )


def _flags() -> set[str]:
    rows = ResultStore(Path("out")).rows()
    assert rows
    assert {row.status for row in rows} == {"ok"}
    return {flag for row in rows for flag in row.flags}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


OTHER = {"case_id": "patient", "slide_id": "wsi", "label": "class"}
FLAGS = ("--case-column", "patient", "--slide-column", "wsi", "--label-column", "class")


@pytest.mark.parametrize("how", ["flags", "yaml", "workspace", "card"])
def test_columns_are_named_by_flag_sweep_workspace_or_card(study: Any, how: str) -> None:
    table = Path("other.csv")
    pd.read_csv(study.table).rename(columns=OTHER).to_csv(table, sep=";", index=False)
    named = "case_column: patient\nslide_column: wsi\nlabel_column: class\n"
    if how == "flags":
        assert _run(study, table, *FLAGS) == 0
        assert run_main("validate", "--table", str(table), *FLAGS) == 0
    elif how == "yaml":
        Path("sweep.yaml").write_text(
            f"encoders: [mine]\ntasks: [tumour]\ntables: other.csv\nfeatures: {study.features}\n"
            f"shots: [4]\ndraws: 1\ncontrols: false\ndevice: cpu\nout: out\n{named}"
        )
        assert run_main("run", "--config", "sweep.yaml") == 0
    else:
        card = "name: tumour\nkind: classification\ntitle: x\ncohort: here\n"
        Path("card.yaml").write_text(card + (named if how == "card" else ""))
        if how == "workspace":
            own = "".join(f"    {line}\n" for line in named.splitlines())
            Path("spade-bench.yaml").write_text(
                f"cohorts:\n  here:\n    tables: {{tumour: other.csv}}\n"
                f"    features: {{mine: {study.features}}}\n{own}"
            )
            assert run_main("run", "--encoder", "mine", "--task", "card.yaml", *QUICK) == 0
        else:
            assert _run(study, table, task="card.yaml") == 0
    _flags()


def test_missing_columns_name_the_flags(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pd.read_csv(study.table).rename(columns=OTHER).to_csv("other.csv", index=False)
    assert _run(study, Path("other.csv")) == 2
    told = capsys.readouterr().err
    assert run_main("validate", "--table", "other.csv", "--json") == 2
    for text in (told, capsys.readouterr().out):
        assert "--case-column patient --slide-column wsi --label-column class" in text


def test_survival_columns_and_the_value_of_an_event(survival: Any) -> None:
    frame = pd.read_csv(survival.table)
    frame["status"] = frame.pop("event").map({1: "dead", 0: "alive"})
    frame.rename(columns={"duration_days": "OS.time"}).to_csv("other.csv", index=False)
    columns = ("--event-column", "status", "--days-column", "OS.time", "--event-value", "dead")
    assert _run(survival, Path("other.csv"), *columns, task="death") == 0
    assert run_main("validate", "--table", "other.csv", *columns) == 0
    assert {row.head for row in ResultStore(Path("out")).rows()} == {"cox"}


SPOILT = {
    "suffix": lambda slide: slide + ".svs",
    "case": str.upper,
    "zeros": lambda slide: slide.replace("case0", "case"),
}


@pytest.mark.parametrize("how", sorted(SPOILT))
def test_ids_spelt_otherwise_are_told_and_taken_on_request(
    study: Any, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    frame = pd.read_csv(study.table)
    frame["slide_id"] = frame["slide_id"].map(SPOILT[how])
    frame.to_csv("spoilt.csv", index=False)
    assert _run(study, Path("spoilt.csv")) == 2
    assert "--match-ids loose" in capsys.readouterr().err
    checked = ("validate", "--table", "spoilt.csv", "--features", str(study.features))
    assert run_main(*checked) == 2
    assert "--match-ids loose" in capsys.readouterr().out
    assert run_main(*checked, "--match-ids", "loose") == 0
    assert _run(study, Path("spoilt.csv"), "--match-ids", "loose") == 0
    assert "matched loosely" in capsys.readouterr().err
    assert "loose-ids" in _flags()
    assert _run(study, Path("spoilt.csv"), "--match-ids", "lose") == 2


def test_ids_that_could_be_several_files_are_refused(study: Any) -> None:
    frame = pd.read_csv(study.table)
    first = frame["slide_id"][0]
    (study.features / f"{first}.h5").rename(study.features / f"{first}x.h5")
    frame.loc[0, "slide_id"] = frame["slide_id"][1].upper()
    frame.to_csv("spoilt.csv", index=False)
    assert _run(study, Path("spoilt.csv"), "--match-ids", "loose") == 2


def test_published_splits_follow_the_options(study: Any) -> None:
    frame = pd.read_csv(study.table)
    folder = Path("splits")
    folder.mkdir()
    cases = frame["case_id"].unique()
    for fold in range(2):
        tested = set(cases[fold::4])
        side = {
            name: list(frame["slide_id"][frame["case_id"].isin(tested) == (name == "test")])
            for name in ("train", "test")
        }
        table = pd.DataFrame({name: pd.Series(ids) + ".SVS" for name, ids in side.items()})
        table.to_csv(folder / f"splits_{fold}.csv", sep="\t", encoding="utf-16")
    frame.rename(columns=OTHER).to_csv("other.csv", index=False, sep=";")
    common = (*FLAGS, "--splits", str(folder))
    assert run_main("validate", "--table", "other.csv", *common) == 2
    assert run_main("validate", "--table", "other.csv", *common, "--match-ids", "loose") == 0
    run = (
        *("run", "--encoder", "mine", "--task", "tumour", "--table", "other.csv", "--no-controls"),
        *("--features", str(study.features), "--device", "cpu", "--out", "out", *common),
    )
    assert run_main(*run) == 2
    assert run_main(*run, "--match-ids", "loose") == 0
    assert "loose-ids" in _flags()


def test_ids_that_are_alike_are_not_flagged_though_others_would_be_taken(study: Any) -> None:
    assert _run(study, study.table, "--match-ids", "loose") == 0
    assert "loose-ids" not in _flags()


def test_ids_of_another_cohort_that_match_loosely_are_flagged(study: Any, other_study: Any) -> None:
    frame = pd.read_csv(other_study.table)
    frame["slide_id"] += ".svs"
    frame.to_csv("other.csv", index=False)
    run = (
        *("run", "--encoder", "mine", "--task", "tumour", "--table", str(study.table)),
        *("--features", str(study.features), "--test-table", "other.csv"),
        *("--test-features", str(other_study.features), "--device", "cpu", "--out", "out"),
    )
    assert run_main(*run) == 2
    assert run_main(*run, "--match-ids", "loose") == 0
    assert "loose-ids" in _flags()


def test_an_external_cohort_without_a_class_runs_and_is_flagged(
    study: Any, other_study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(other_study.table)
    frame[frame["label"] == "normal"].to_csv("one.csv", index=False)
    run = (
        *("run", "--encoder", "mine", "--task", "tumour", "--table", str(study.table)),
        *("--features", str(study.features), "--test-table", "one.csv", "--no-controls"),
        *("--test-features", str(other_study.features), "--device", "cpu", "--out", "out"),
    )
    assert run_main(*run) == 0
    assert "no case is labelled tumor" in capsys.readouterr().err
    assert "missing-class:tumor" in _flags()
    assert run_main("report", "out", "--no-plots") == 0


def test_a_run_refuses_what_validate_refuses(
    survival: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(survival.table)
    frame["event"] = 1 - (frame["duration_days"].rank() <= len(frame) * 0.3).astype(int)
    frame.to_csv("turned.csv", index=False)
    assert run_main("validate", "--table", "turned.csv", "--json") == 2
    assert "looks inverted" in capsys.readouterr().out
    assert _run(survival, Path("turned.csv"), task="death") == 2
    told = capsys.readouterr().err
    assert "looks inverted" in told
    assert "--event-value" in told
    assert not Path("out", "results.jsonl").exists()
    assert _run(survival, Path("turned.csv"), "--event-value", "1", task="death") == 0
    assert _run(survival, Path("turned.csv"), "--event-value", "0", task="death") == 0


@pytest.mark.parametrize("fault", ["NS", "barcode"])
def test_labels_and_barcodes_are_refused_by_both(
    study: Any, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    frame = pd.read_csv(study.table)
    if fault == "NS":
        frame.loc[frame["case_id"] == "case003", "label"] = "NS"
    else:
        frame.loc[3, "slide_id"] = "TCGA-AA-0001-01Z-00-DX1"
        frame.loc[3, "case_id"] = "TCGA-AA-0002"
    frame.to_csv("wrong.csv", index=False)
    assert run_main("validate", "--table", "wrong.csv") == 2
    capsys.readouterr()
    assert _run(study, Path("wrong.csv")) == 2
    assert ("not a class" if fault == "NS" else "another patient") in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("as_json", [False, True])
def test_validate_works_where_the_locale_knows_ascii_only(
    tmp_path: Path, encoding: str, as_json: bool
) -> None:
    table = tmp_path / "t.csv"
    text = "case_id,slide_id,label\nä,s1,Grün\nö,s2,Grün\nü,s3,Größe\nß,s4,\n"
    table.write_bytes(text.encode(encoding))
    done = subprocess.run(
        [sys.executable, "-m", "spade_bench.cli.main", "validate", "--table", str(table)]
        + ["--json"] * as_json,
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
    )
    assert done.returncode == 2, done.stderr
    assert b"without label" in b" ".join(done.stdout.split())
    assert b"Error" not in done.stderr
    if as_json:
        found = json.loads(done.stdout.decode("ascii"))["findings"]
        assert any("Größe" in finding["text"] for finding in found)


@pytest.mark.parametrize("how", ["", "--json", "--csv", "--markdown"])
def test_report_works_where_the_locale_knows_ascii_only(study: Any, how: str) -> None:
    frame = pd.read_csv(study.table)
    frame["label"] = frame["label"].map({"tumor": "Größe", "normal": "Grün"})
    frame.to_csv("umlauts.csv", index=False, encoding="utf-16")
    assert _run(study, Path("umlauts.csv"), task="tumour") == 0
    done = subprocess.run(
        [sys.executable, "-m", "spade_bench.cli.main", "report", "out", *([how] if how else [])],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
    )
    assert done.returncode == 0, done.stderr
    assert b"mine" in done.stdout
