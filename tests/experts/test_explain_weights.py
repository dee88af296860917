"""`spade-bench explain WEIGHTS`: experts and genes from the command line."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run_main

import spade_bench as sb
from spade_bench.encoders.spade.spadecard import PARTS
from spade_bench.explain.experts.fromweights import encoder_of
from spade_bench.features.bags import read_bag


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_weights_say_whose_they_are(planted):
    assert encoder_of(planted.model).name == "spade"
    assert encoder_of(planted.features) is None
    assert encoder_of(Path("nothing")) is None


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_is_missing_is_named(planted, tmp_path, capsys, part):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in PARTS:
        if name != part:
            shutil.copy(planted.model / name, broken / name)
    assert run_main("explain", broken, "--features", planted.features, "--out", "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"holds weights of 'spade', but no {part}. Run the command that wrote it again" in said
    (tmp_path / "else").mkdir()
    shutil.copy(planted.model / "genes.csv", tmp_path / "else")  # which other folders have too
    assert encoder_of(tmp_path / "else") is None


@pytest.mark.slow
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


def first_gene(model):
    """A gene that the model knows."""
    return Path(model, "genes.csv").read_text().splitlines()[1].split(",")[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no features are given"),
        (["--features", "FEATURES", "--genes", "NOPE"], "is not in the panel"),
        (["--features", "FEATURES", "--genes", "GENE", "--training-spots", "."], "training spots"),
        (["--features", "FEATURES", "--case", "NOPE"], "no features of slide 'NOPE'"),
        (["--features", "FEATURES", "--case", "NOPE"], "what a case has, --table says"),
        (["--features", "FEATURES", "--genes", " , "], "--genes: no gene is named"),
        (["--features", "FEATURES", "--genes", ""], "--genes: no gene is named"),
        (["--features", "FEATURES", "--training-spots", "."], "--training-spots: says from which"),
        (["--features", "FEATURES", "--gzip"], "--gzip: compresses files for QuPath"),
        (["--features", "FEATURES", "--viewer"], "the viewer needs the slides"),
        (["--features", "FEATURES", "--blind"], "--blind: the maps of an encoder's experts"),
    ],
)
def test_what_cannot_be_done_is_one_line(planted, capsys, options, words):
    known = {"FEATURES": str(planted.features), "GENE": first_gene(planted.model)}
    options = [known.get(one, one) for one in options]
    assert run_main("explain", planted.model, "--out", "out", *options) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()


@pytest.mark.parametrize("genes", ["A", ""])
def test_genes_belong_to_weights(tmp_path, capsys, genes):
    assert run_main("explain", tmp_path, "--out", "out", "--genes", genes) == 2
    assert "spade-bench explain WEIGHTS --genes" in " ".join(capsys.readouterr().err.split())


def test_a_viewer_and_files_for_qupath_come_with_the_maps(planted, slides, tmp_path):
    gene = (planted.model / "genes.csv").read_text().splitlines()[1].split(",")[-1]
    how = ("--features", planted.features, "--out", "out", "--slides", slides, "--top", 3,
           "--genes", gene, "--device", "cpu", "--no-pictures")  # fmt: skip
    assert run_main("explain", planted.model, *how, "--viewer", "--geojson", "--gzip") == 0
    out = tmp_path / "out"
    assert not (out / "maps").exists()  # no pictures were asked for
    assert (out / "viewer" / "index.html").is_file()
    page = (out / "viewer" / "slides" / "S12" / "slide.js").read_text()
    for words in ("nearest expert", "largest weight", f"{gene}, predicted", "top"):
        assert words in page
    collection = json.loads(gzip.decompress((out / "geojson" / "S12.geojson.gz").read_bytes()))
    routing = expert_of(planted, "S12")
    assert len(collection["features"]) == len(routing.expert)
    for at, patch in enumerate(collection["features"]):
        told = patch["properties"]
        assert told["classification"]["name"] == f"expert {routing.expert[at]}"
        measured = told["measurements"]
        assert measured["weight_0"] + measured["weight_1"] == pytest.approx(1, abs=2e-3)
        assert measured["weight_1"] == pytest.approx(float(routing.weights[at, 1]))
        assert {"distance", "entropy", f"predicted_{gene}"} <= set(measured)
    listed = json.loads((out / "experts.json").read_text())
    assert listed["complete"] is True
    assert listed["viewer"] == "viewer/index.html"
    assert all((out / name).is_file() for name in listed["files"])
    # Written again without them, they do not pass for files of the second call.
    assert run_main("explain", planted.model, *how) == 0
    assert not list(out.rglob("*.geojson*"))
    assert not (out / "viewer").exists()


def test_a_foreign_folder_is_refused_and_left_as_it_is(planted, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "top_patches.csv"
    mine.write_text("mine")
    assert run_main("explain", planted.model, "--features", planted.features, "--out", "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "out: exists and was not written by `spade-bench explain WEIGHTS`" in said
    assert mine.read_text() == "mine"


def test_no_top_patches_where_none_are_asked_for(planted, tmp_path):
    how = ("--features", planted.features, "--case", "S12", "--no-pictures", "--device", "cpu")
    assert run_main("explain", planted.model, "--out", "out", "--top", 0, *how) == 0
    assert not list((tmp_path / "out").glob("top_patches*"))


def expert_of(planted, name: str):
    encoder = sb.load_encoder("spade", weights=planted.model, device="cpu")
    return encoder.route(read_bag(planted.features / f"{name}.h5").features)


@pytest.fixture
def slides(tmp_path: Path, write_slide) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (1700, 1700, 3)).astype(np.uint8)
    write_slide(tmp_path / "slides" / "S12.tif", pixels)
    return tmp_path / "slides"
