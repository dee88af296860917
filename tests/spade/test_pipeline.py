"""The whole pretraining on toy samples: files, resuming, partial runs, small cohorts, workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from toy_pretraining import DIM, config
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.config import build, named_config
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.pretraining import pipeline
from spade_bench.encoders.spade.pretraining.pipeline import cap_clusters, run_pretrain
from spade_bench.encoders.spade.pretraining.pretrainconfig import ClusteringConfig, PretrainConfig


@pytest.fixture(scope="module")
def whole(hest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_pretrain(config(hest), tmp_path_factory.mktemp("whole"), device="cpu")


def test_everything_is_written(whole: Path) -> None:
    for name in (
        "spade.json", "genes.csv", "centroids.safetensors", "experts.safetensors", "training.csv",
        "validation.json", "spots.h5ad", "samples.csv", "config.yaml", "controls/k1/spade.json",
    ):  # fmt: skip
        assert (whole / name).is_file(), name
    model = SpadeModel.load(whole, device="cpu")
    assert (model.n_experts, model.in_dim, model.dim) == (3, DIM, 8)
    info = json.loads((whole / "spade.json").read_text())
    text = json.dumps(info)
    assert str(whole.parent) not in text
    split = pd.read_csv(whole / "samples.csv").set_index("sample")["split"].to_dict()
    assert split["S3"] == "test"
    assert sorted(split.values()) == ["test", "train", "train", "val"]
    assert set(model.info.samples) == {s for s, where in split.items() if where == "train"}
    assert set(model.info.patients) == {f"P{s[1:]}" for s in model.info.samples}
    obs = anndata.read_h5ad(whole / "spots.h5ad").obs
    assert set(obs["expert"]) == {0, 1, 2}
    assert obs["cluster"].between(0, len(model.experts.centroids) - 1).all()
    report = json.loads((whole / "validation.json").read_text())
    assert set(report["splits"]) == {"val", "test"}


def weights(folder: Path) -> dict[str, np.ndarray]:
    return dict(load_file(folder / "experts.safetensors"))


def test_killed_in_training_it_continues_to_the_same_weights(
    hest: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.train_experts

    def killed(*args: Any, **kwargs: Any) -> Any:
        real(*args, **{**kwargs, "experts": [1]})
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train_experts", killed)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(config(hest), tmp_path, device="cpu")
    monkeypatch.setattr(pipeline, "train_experts", real)
    run_pretrain(config(hest), tmp_path, device="cpu")
    for folder in ("", "controls/k1"):
        one, other = weights(whole / folder), weights(tmp_path / folder)
        assert one.keys() == other.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


def test_some_experts_first_then_the_rest(
    hest: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pretrain(config(hest), tmp_path, device="cpu", experts=[2])
    assert "experts 0, 1 are not trained yet" in capsys.readouterr().err
    assert not (tmp_path / "validation.json").exists()
    assert all(name.startswith("2.") for name in weights(tmp_path))
    run_pretrain(config(hest), tmp_path, device="cpu")
    for name, values in weights(whole).items():
        np.testing.assert_array_equal(values, weights(tmp_path)[name])
    assert (tmp_path / "validation.json").is_file()


def test_a_run_done_before_is_left_as_it_is(
    hest: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights(whole)
    capsys.readouterr()
    run_pretrain(config(hest), whole, device="cpu")
    lines = capsys.readouterr().err.splitlines()
    done = {line.split(":")[0] for line in lines if "done before" in line}
    stages = {"samples", "panel", "features", "align", "split", "clustering", "validation"}
    stages |= {"model", "control-k1"}
    assert done == stages
    for name, values in weights(whole).items():
        np.testing.assert_array_equal(values, before[name])


def test_small_cohorts_get_fewer_clusters_and_are_told() -> None:
    organ = pd.Series(["Brain"] * 49)
    capped, notes = cap_clusters(ClusteringConfig(), organ)
    assert (capped.k_organ, capped.k_experts) == (12, 3)
    assert "k_organ lowered from 16 to 12: 49 training spots" in notes[0]
    assert "k_experts lowered from 16 to 3: 49 training spots" in notes[1]
    assert cap_clusters(ClusteringConfig(), pd.Series(["Brain"] * 400))[1] == ()


def test_the_papers_settings_are_the_named_config() -> None:
    paper = build(PretrainConfig, named_config("pretrain", "hest1k"))
    assert paper.samples.include == {"st_technology": "Visium", "species": "Homo sapiens"}
    assert paper.samples.exclude == {"organ": ["Brain", "Embryo", "Lung/Brain", "Kidney/Brain"]}
    assert set(paper.samples.exclude_ids) == {"INT17", "NCBI854", "NCBI855", "TENX28"}
    assert (paper.samples.min_genes, paper.genes.min_shared, paper.genes.n_top) == (
        10_000, 10_000, 50,
    )  # fmt: skip
    defaults = PretrainConfig()
    assert paper.training == defaults.training
    assert paper.clustering == defaults.clustering
    assert paper.routing == defaults.routing


def test_command_takes_what_flags_leave_out_from_the_workspace(
    hest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = CliRunner().invoke(app, ["pretrain", "--out", "x"])
    assert "--hest DIR" in str(missing.exception)
    assert "make demo" in str(missing.exception)
    seen: dict[str, Any] = {}

    def caught(config: PretrainConfig, out: Path, **rest: Any) -> Path:
        seen.update(config=config, out=out, **rest)
        return out

    monkeypatch.setattr(pipeline, "run_pretrain", caught)
    (tmp_path / "spade-bench.yaml").write_text(
        f"device: cpu\nhest: {hest}\nencoders:\n  toy: {{weights: w.pt}}\npretrain:\n"
        "  encoder: toy\n  out: model\n  set: {training.epochs: 7, genes: {n_top: 3}}\n"
    )
    result = CliRunner().invoke(app, ["pretrain", "--set", "training.lr=1e-3", "--experts", "2,0"])
    assert result.exception is None
    assert seen["config"].samples.hest == hest
    assert (seen["config"].encoder, seen["config"].training.epochs) == ("toy", 7)
    assert (seen["config"].training.lr, seen["config"].genes.n_top) == (1e-3, 3)
    assert seen["out"] == Path("model")
    assert (seen["device"], seen["weights"], seen["experts"]) == ("cpu", Path("w.pt"), [0, 2])
    flags = ["pretrain", "--encoder", "uni", "--out", "o", "--set", "training.epochs=2"]
    assert CliRunner().invoke(app, flags).exception is None
    assert (seen["config"].encoder, seen["config"].training.epochs) == ("uni", 2)
    assert seen["out"] == Path("o")
