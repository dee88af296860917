"""Rows stand in one table only if they speak of the same cases, splits, seed and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import run_main

from spade_bench.features.bags import read_bag, write_features
from spade_bench.results import ResultStore, Row

FEW = ("--shots", "2,4", "--draws", "2")
FOLDS = ("--protocol", "cv", "--folds", "3")

# What differs between two runs of one task: arguments of each, and the words that tell them apart.
UNLIKE = {
    "seed": ((*FEW, "--seed", "0"), (*FEW, "--seed", "1"), ("seed 0", "seed 1")),
    "settings": (
        FEW,
        (*FEW, "--set", "logistic.C=0.001"),
        ("logistic defaults", "logistic.C=0.001"),
    ),
    "choice": (FEW, (*FEW, "--select"), ("logistic as set", "logistic chosen on inner folds")),
    "folds": (FOLDS, (*FOLDS[:3], "4"), ("3 folds", "4 folds")),
    "cases": (FEW, (*FEW, "--table", "fewer.csv"), ("40 cases of table", "30 cases of fewer")),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def given(study: Any, tmp_path: Path) -> list[str]:
    """Two encoders on one cohort, and a table with fewer of its cases."""
    for path in sorted(study.features.glob("*.h5")):
        bag = read_bag(path)
        other = tmp_path / "features_other" / path.name
        write_features(other, bag.features[:, ::-1] + 1, slide_id=path.stem, encoder="other")
    lines = study.table.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("case00")]
    Path("fewer.csv").write_text("\n".join(kept) + "\n")
    return [
        *("--encoder", "mine", "--encoder", "other", "--task", "t", "--device", "cpu"),
        *("--features", f"mine={study.features}", "--features", "other=features_other"),
        *("--table", str(study.table), "--no-controls", "--head", "logistic", "--out", "o"),
    ]


@pytest.mark.parametrize("kind", UNLIKE)
def test_unlike_rows_are_told_apart_in_words_everywhere(
    kind: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    *both, words = UNLIKE[kind]
    for arguments in both:
        assert run_main("run", *_once(given, arguments)) == 0
    capsys.readouterr()
    assert run_main("report", "o", "--no-plots") == 0
    printed = capsys.readouterr().out
    titles = [line for line in printed.splitlines() if line.startswith("t: auroc")]
    for word in words:
        assert sum(word in title for title in titles) >= 1
    assert "inputs:" not in printed
    assert "missing" not in printed
    assert run_main("report", "o", "--json", "--no-plots") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = {tuple(row["condition"]) for row in rows}
    assert len(found) == 2
    assert all(any(word in " ".join(one) for one in found) for word in words)
    assert {row["task"] for row in rows} == {"t"}
    for row in ResultStore(Path("o")).rows():
        assert "/" not in row.env["cohort"]  # no paths


def test_unlike_rows_have_pictures_of_their_own(given: list[str]) -> None:
    for arguments in UNLIKE["settings"][:2]:
        assert run_main("run", *_once(given, arguments)) == 0
    assert run_main("report", "o") == 0
    assert len(list(Path("o/plots").glob("t-logistic-*.png"))) >= 2


@pytest.mark.parametrize("kind", UNLIKE)
def test_unlike_rows_are_never_paired(
    kind: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, words = UNLIKE[kind]
    # Each encoder in one of the two ways only.
    assert run_main("run", *_once(given, one, only="mine")) == 0
    assert run_main("run", *_once(given, two, only="other")) == 0
    capsys.readouterr()
    assert run_main("compare", "o", "--a", "mine", "--b", "other", "--no-plots") == 2
    message = capsys.readouterr().err
    assert "share no episode" in message
    assert all(word in message for word in words)


def test_like_rows_of_several_runs_stay_together(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("run", *_once(given, FEW, only="mine")) == 0
    more = ("--shots", "2,4,8", "--draws", "3")
    assert run_main("run", *_once(given, more, only="other")) == 0
    capsys.readouterr()
    assert run_main("report", "o", "--json", "--no-plots") == 0
    assert {tuple(row["condition"]) for row in json.loads(capsys.readouterr().out)["rows"]} == {()}
    assert run_main("compare", "o", "--a", "mine", "--b", "other", "--no-plots") == 0


def test_comparisons_speak_of_one_condition_each(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        assert run_main("run", *given, *FEW, "--seed", seed) == 0
    capsys.readouterr()
    assert run_main("compare", "o", "--a", "mine", "--b", "other", "--no-plots") == 0
    printed = capsys.readouterr().out
    assert "With seed 0: " in printed
    assert "With seed 1: " in printed
    assert run_main("compare", "o", "--a", "mine", "--b", "other", "--json", "--no-plots") == 0
    found = json.loads(capsys.readouterr().out)["differences"]
    assert {tuple(row["condition"]) for row in found} == {("seed 0",), ("seed 1",)}


def test_cells_that_failed_without_inputs_make_no_one_else_missing(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        assert run_main("run", *given, *FEW, "--seed", seed) == 0
    unknown = Row(
        run_id="f" * 16, status="failed", encoder="third", task="t", head="logistic",
        protocol="few-shot", seed=0, error="weights are missing",
    )  # fmt: skip
    ResultStore(Path("o")).append([unknown])
    capsys.readouterr()
    assert run_main("report", "o", "--json", "--no-plots") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    lacking = {row["encoder"] for row in rows if {"missing", "failed"} & set(row["flags"])}
    assert lacking == {"third"}
    assert {tuple(row["condition"]) for row in rows if row["encoder"] != "third"} == {
        ("seed 0",),
        ("seed 1",),
    }


def test_rows_of_older_versions_are_told_apart_by_hash(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in UNLIKE["settings"][:2]:
        assert run_main("run", *_once(given, arguments)) == 0
    path = Path("o/results.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["env"] = {k: v for k, v in line["env"].items() if k not in {"head", "cohort"}}
        line.pop("row_sha256", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert run_main("report", "o", "--json", "--no-plots") == 0
    found = {" ".join(row["condition"]) for row in json.loads(capsys.readouterr().out)["rows"]}
    assert len(found) == 2
    assert all(words.startswith("logistic settings ") for words in found)


def test_the_external_report_names_the_cohort_tested_on(
    study: Any, other_study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table = other_study.table.rename(other_study.table.with_name("munich.csv"))
    given = ["--table", str(study.table), "--features", f"mine={study.features}", "--out", "o"]
    given += ["--test-table", str(table), "--test-features", f"mine={other_study.features}"]
    given += ["--encoder", "mine", "--task", "t", "--protocol", "external", "--device", "cpu"]
    assert run_main("run", *given, "--no-controls") == 0
    capsys.readouterr()
    assert run_main("report", "o", "--no-plots") == 0
    assert "24 test cases of munich" in capsys.readouterr().out
    assert run_main("report", "o", "--json", "--no-plots") == 0
    assert {row["tested_on"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"munich"}


def test_a_report_on_one_shard_says_what_is_absent(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("run", *given, *FEW, "--shard", "1/2") == 0
    for command in (["report", "o"], ["report", "o", "--json"], ["report", "o", "--csv"]):
        capsys.readouterr()
        assert run_main(*command, "--no-plots") == 0
        message = capsys.readouterr().err
        assert "4 of 8 planned cells are absent (other, logistic)" in message
    assert run_main("run", *given, *FEW, "--shard", "2/2") == 0
    capsys.readouterr()
    assert run_main("report", "o", "--no-plots") == 0
    assert "absent" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "[]", '{"task": "t"}', '{"task": "t", "cells": [1]}'])
def test_a_damaged_plan_is_named(
    given: list[str], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("run", *given, *FEW) == 0
    (path,) = Path("o/plans").glob("*.json")
    path.write_text(damage)
    capsys.readouterr()
    assert run_main("report", "o", "--no-plots") == 2
    message = capsys.readouterr().err
    assert path.name in message
    assert "Traceback" not in message


def _once(given: list[str], arguments: tuple[str, ...], only: str = "") -> list[str]:
    """The arguments, where later ones replace earlier ones of the same name."""
    out = list(given)
    if "--table" in arguments:
        at = out.index("--table")
        del out[at : at + 2]
    if only:
        out = ["--encoder", only, *out[4:]]
        at = next(i for i, text in enumerate(out) if "=" in text and not text.startswith(only))
        del out[at - 1 : at + 1]  # features of an encoder that is not run are refused
    return [*out, *arguments]
