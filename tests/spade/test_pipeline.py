"""The whole pretraining on toy samples: files, resuming, partial runs, small cohorts, workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file
from toy_pretraining import DIM, SETTINGS, config
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.config import build, named_config, to_dict
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.pretraining import pipeline
from spade_bench.encoders.spade.pretraining import settingrules as rules
from spade_bench.encoders.spade.pretraining.pipeline import run_pretrain
from spade_bench.encoders.spade.pretraining.prepare import spatialblocks
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig


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
    assert set(report["splits"]) == {"test"}  # it chose nothing, unlike the validation


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


def test_experts_start_from_the_single_expert_and_continue_after_a_kill(
    hest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Started at once or in pieces, the weights are the same; a start that is best is kept."""
    asked = config(hest, training={**SETTINGS["training"], "init": "k1", "lr": 50.0})
    whole = run_pretrain(asked, tmp_path / "whole", device="cpu")
    single = weights(whole / "controls" / "k1")
    table = pd.read_csv(whole / "training.csv")
    assert set(table.loc[table["epoch"] == 0, "expert"]) == {0, 1, 2}
    best = {row["expert"]: row["best_epoch"] for row in
            json.loads((whole / "validation.json").read_text())["experts"]}  # fmt: skip
    kept = [expert for expert, epoch in best.items() if epoch == 0]
    assert kept
    for expert in kept:
        for name, values in weights(whole).items():
            if name.startswith(f"{expert}."):
                np.testing.assert_array_equal(values, single[name.replace(f"{expert}.", "0.", 1)])
    info = json.loads((whole / "spade.json").read_text())
    assert "rises from the start" in " ".join(info["notes"])
    run_pretrain(asked, tmp_path / "parts", device="cpu", experts=[2])
    assert (tmp_path / "parts" / "controls" / "k1" / "spade.json").is_file()
    run_pretrain(asked, tmp_path / "parts", device="cpu")
    for name, values in weights(whole).items():
        np.testing.assert_array_equal(values, weights(tmp_path / "parts")[name])
    capsys.readouterr()
    run_pretrain(asked, whole, device="cpu")
    done = {
        line.split(":")[0] for line in capsys.readouterr().err.splitlines() if "done bef" in line
    }
    assert {"control-k1", "model", "validation"} <= done


def test_few_patients_are_validated_on_blocks_of_their_sections(
    hest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (spatialblocks, rules):
        monkeypatch.setattr(module, "MIN_SECTION_SPOTS", 40)
    split = {"val_fraction": 0.15}
    out = run_pretrain(config(hest, split=split), tmp_path / "out", device="cpu")
    said = " ".join("".join(capsys.readouterr()).split())
    assert "split.validation = blocks by rule: 4 patients" in said
    assert "in blocks of sections that train: nothing is said of other patients" in said
    data = anndata.read_h5ad(out / "spots.h5ad")
    obs = data.obs
    assert set(obs["split"].dropna()) == {"train", "val", "test"}
    assert obs["split"].isna().any()  # the guard
    for _, rows in obs.reset_index().groupby("sample", observed=True):
        at = data.obsm["spatial"][rows.index]
        train = at[rows["split"] == "train"]
        held = at[rows["split"].isin(["val", "test"])]
        assert np.abs(train[:, None] - held[None]).max(axis=2).min() >= 399
    report = json.loads((out / "validation.json").read_text())
    assert set(report["splits"]) == {"test"}
    assert report["splits"]["test"]["blocks"]
    assert not report["splits"]["test"]["chose_epochs"]
    info = json.loads((out / "spade.json").read_text())
    assert info["extra"]["validation"] == "blocks"
    assert set(info["samples"]) == {"S0", "S1", "S2", "S3"}
    capsys.readouterr()
    run_pretrain(config(hest, split=split), out, device="cpu")
    assert "split: done before" in capsys.readouterr().err


def test_defaults_are_settled_and_recorded(hest: Path, tmp_path: Path) -> None:
    """Nothing is `auto` in what a model says of itself, and every choice has a reason."""
    small = {"batch_size": 16, "proj_dim": 8, "min_steps": 20}
    asked = config(hest, training=small, clustering={}, routing={}, split={})
    out = run_pretrain(asked, tmp_path / "out", device="cpu")
    model = SpadeModel.load(out, device="cpu")
    found = model.info.config
    for name in ("k_organ", "k_experts"):
        assert isinstance(found["clustering"][name], int)
    assert (found["training"]["epochs"], found["training"]["lr"]) == (20, 1e-3)
    assert found["training"]["init"] == "none"
    assert set(model.info.extra["by_rule"]) == {
        "split.validation", "split.test_fraction", "clustering.k_organ", "clustering.k_experts",
        "training.epochs", "training.lr", "training.init", "routing.tau",
    }  # fmt: skip
    assert model.n_experts == 1  # fewer than 300 spots
    assert model.tau == model.info.config["routing"]["tau"]


def test_a_folder_of_before_the_rules_is_left_alone(
    hest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its settings file does not know the newer settings, and they mean what it did."""
    asked = config(hest, split={"validation": "samples", "test_fraction": 0.0})
    out = run_pretrain(asked, tmp_path / "out", device="cpu")
    path = out / "config.yaml"
    before = yaml.safe_load(path.read_text())
    for part, names in {
        "split": ("validation", "test_fraction"),
        "training": ("min_steps", "init"),
        "routing": ("entropy",),
    }.items():
        for name in names:
            del before[part][name]
    path.write_text(yaml.safe_dump(before))
    capsys.readouterr()
    run_pretrain(asked, out, device="cpu")
    assert "model: done before" in capsys.readouterr().err


def test_the_papers_settings_are_the_named_config() -> None:
    paper = build(PretrainConfig, named_config("pretrain", "hest1k"))
    assert paper.samples.include == {"st_technology": "Visium", "species": "Homo sapiens"}
    assert paper.samples.exclude == {"organ": ["Brain", "Embryo", "Lung/Brain", "Kidney/Brain"]}
    assert set(paper.samples.exclude_ids) == {"INT17", "NCBI854", "NCBI855", "TENX28"}
    assert (paper.samples.min_genes, paper.genes.min_shared, paper.genes.n_top) == (
        10_000, 10_000, 50,
    )  # fmt: skip
    training, clustering = paper.training, paper.clustering
    assert (training.epochs, training.lr, training.init) == (100, 1e-4, "none")
    assert (training.batch_size, training.weight_decay, training.proj_dim) == (128, 1e-2, 256)
    assert (training.temperature, training.dropout, training.detach_targets) == (1.0, 0.1, False)
    assert (clustering.k_organ, clustering.k_experts, clustering.space) == (16, 16, "image")
    assert (clustering.n_init, clustering.max_iter) == (5, 50)
    assert clustering.max_points_per_centroid == 50_000
    assert (paper.routing.mode, paper.routing.tau) == ("soft", 0.1)
    assert (paper.split.validation, paper.split.val_fraction, paper.split.test_fraction) == (
        "samples", 0.1, 0,
    )  # fmt: skip


def test_no_rule_touches_the_papers_settings() -> None:
    """Whatever the size of the cohort: nothing is `auto` in what the named config gives."""
    paper = build(PretrainConfig, named_config("pretrain", "hest1k"))
    for part, changed in (
        (paper.split, rules.choose_split(paper.split, 2, 1000)),
        (paper.clustering, rules.choose_clusters(paper.clustering, ["Breast"] * 90)),
        (paper.training, rules.choose_training(paper.training, [5, 6])),
    ):
        assert changed == (part, ())
    assert "auto" not in to_dict(paper)["routing"].values()
    single = rules.single_training(paper.training, paper.training, [45, 45])
    assert single == paper.training


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
