"""`spade-bench explain WEIGHTS`: experts and genes from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from command_line import run_main

from spade_bench.explain.experts.fromweights import encoder_of


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_weights_say_whose_they_are(planted):
    assert encoder_of(planted.model).name == "spade"
    assert encoder_of(planted.features) is None
    assert encoder_of(Path("nothing")) is None


def test_weights_give_the_maps_of_their_experts(planted, tmp_path, capsys):
    table = tmp_path / "table.csv"
    pd.DataFrame({"slide_id": ["S12", "S13"], "case_id": ["A", "B"], "site": ["X", "Y"]}).to_csv(
        table, index=False
    )
    gene = (planted.model / "genes.csv").read_text().splitlines()[1].split(",")[-1]
    code = run_main(
        "explain", planted.model, "--features", planted.features, "--out", "out", "--case", "B",
        "--table", table, "--genes", gene, "--top", 5, "--json", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["slides"] == ["S13"]
    assert f"genes/S13-{gene}.png" in said["files"]
    assert all((tmp_path / "out" / name).is_file() for name in said["files"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no features are given"),
        (["--features", "FEATURES", "--genes", "NOPE"], "is not in the panel"),
        (["--features", "FEATURES", "--genes", "G", "--training-spots", "."], "training spots"),
        (["--features", "FEATURES", "--case", "NOPE"], "no features of slide 'NOPE'"),
    ],
)
def test_what_cannot_be_done_is_one_line(planted, capsys, options, words):
    options = [str(planted.features) if one == "FEATURES" else one for one in options]
    assert run_main("explain", planted.model, "--out", "out", *options) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()


def test_genes_belong_to_weights(tmp_path, capsys):
    assert run_main("explain", tmp_path, "--out", "out", "--genes", "A") == 2
    assert "spade-bench explain WEIGHTS --genes" in " ".join(capsys.readouterr().err.split())
