"""Runs that keep sites whole: leave-site-out and site-preserved folds, stored and reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run_main

import spade_bench as sb
from spade_bench.features.bags import write_features


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> tuple[Path, Path]:
    """Eighty cases at four large sites and two small ones."""
    folder = tmp_path_factory.mktemp("sites")
    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,label,site"]
    for i in range(80):
        x = rng.normal(size=(3, 5))
        x[:, 0] += 2.0 * (i % 2)
        write_features(folder / "features_mine" / f"s{i:02d}.h5", x, slide_id=f"s{i:02d}",
                       encoder="mine")  # fmt: skip
        site = f"big{i // 2 % 4}" if i < 68 else f"small{i // 2 % 2}"
        lines.append(f"c{i:02d},s{i:02d},{('no', 'yes')[i % 2]},{site}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv", folder / "features_mine"


def _run(sites, out: Path, *more: object) -> int:
    table, features = sites
    return run_main("run", "--encoder", "mine", "--task", "t", "--table", table, "--features",
                    features, "--device", "cpu", "--no-controls", "--out", out, *more)  # fmt: skip


def _sites_of(table: Path) -> dict[str, str]:
    rows = (line.split(",") for line in table.read_text().splitlines()[1:])
    return {case: site for case, _, _, site in rows}


def test_leave_site_out_tests_every_case_at_a_site_that_did_not_train(sites, tmp_path, capsys):
    assert _run(sites, tmp_path, "--protocol", "leave-site-out", "--select") == 0
    said = capsys.readouterr().err
    assert "5 parts held out in turn: big0, big1, big2, big3 alone" in said
    assert "2 sites with fewer than 5 cases of some class in 1 joint part(s)" in said
    results = sb.load_results(tmp_path)
    told, site = results.predictions(), _sites_of(sites[0])
    assert sorted(told["case_id"]) == sorted(site)
    assert set(told["protocol"]) == {"leave-site-out"}
    for _, part in told.groupby("fold"):
        here = {site[case] for case in part["case_id"]}
        assert len(here) == 1 or here == {"small0", "small1"}
    (row,) = results.leaderboard().to_dict("records")
    assert row["n_draws"] == 5
    assert row["n_cases"] == 80
    assert row["ci_low"] < row["mean"] <= row["ci_high"]
    assert row["covers"] == "over sites, corrected for shared training cases"
    (episodes,) = [json.loads(p.read_text()) for p in (tmp_path / "episodes").glob("*.json")]
    for one in episodes["episodes"]:
        test = set(episodes["test_sets"][one["test_set"]])
        assert not {site[c] for c in one["train"]} & {site[c] for c in test}


def test_where_every_site_has_one_class_that_is_said(sites, tmp_path, capsys):
    """As in TCGA lung, whose codes of sites are given per project."""
    table, features = sites
    frame = pd.read_csv(table)
    frame["site"] = [f"{label}{i % 3}" for i, label in enumerate(frame["label"])]
    frame.to_csv(tmp_path / "table.csv", index=False)
    of_one_class = (tmp_path / "table.csv", features)
    assert _run(of_one_class, tmp_path / "runs", "--protocol", "leave-site-out") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "parts held out in turn: no site alone; 6 sites with fewer than 5 cases" in said


def test_preserved_sites_are_another_condition_than_other_folds(sites, tmp_path, capsys):
    assert _run(sites, tmp_path, "--protocol", "cv", "--folds", 3, "--preserve-sites") == 0
    assert "imbalance of classes" in capsys.readouterr().err
    assert _run(sites, tmp_path, "--protocol", "cv", "--folds", 3) == 0
    board = sb.load_results(tmp_path).leaderboard()
    assert len(board) == 2
    words = {word for row in board["condition"] for word in row}
    assert "sites kept whole, classes balanced" in " ".join(words)


@pytest.mark.parametrize(
    "more",
    [
        ("--protocol", "leave-site-out", "--folds", 3),
        ("--protocol", "leave-site-out", "--repeats", 2),
        ("--protocol", "few-shot", "--preserve-sites"),
    ],
)
def test_options_of_other_protocols_are_refused(sites, tmp_path, capsys, more):
    assert _run(sites, tmp_path, *more) == 2
    assert "is an option of cv" in capsys.readouterr().err


def test_a_table_without_sites_cannot_leave_one_out(sites, tmp_path, capsys):
    table = tmp_path / "t.csv"
    lines = sites[0].read_text().splitlines()
    table.write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    assert _run((table, sites[1]), tmp_path / "runs", "--protocol", "leave-site-out") == 2
    assert "without a site" in capsys.readouterr().err


def test_the_calibration_error_stands_beside_its_bias(sites, tmp_path, capsys):
    card = tmp_path / "card.yaml"
    lines = (
        "name: honest",
        "kind: classification",
        "title: T",
        "cohort: c",
        "metrics: [auroc, ece]",
    )
    card.write_text("\n".join(lines) + "\n")
    table, features = sites
    command = ["run", "--encoder", "mine", "--task", card, "--table", table, "--features", features]
    assert run_main(*command, "--protocol", "cv", "--no-controls", "--out", tmp_path / "r") == 0
    capsys.readouterr()
    assert run_main("report", tmp_path / "r", "--metric", "ece", "--no-plots") == 0
    shown = capsys.readouterr().out
    assert "ece (lower is better)" in shown
    assert "calibrated probabilities would show an ece of" in " ".join(shown.split())
