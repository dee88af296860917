"""`pretrain` from Python: the command without a command line; what it leaves out is said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy_pretraining import SETTINGS, config
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.config import nested
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.pretraining.pipeline import pretrain
from spade_bench.encoders.spade.pretraining.pretrainrequest import resolve_request
from spade_bench.errors import ConfigError, WorkspaceError
from spade_bench.files import hash_file


@pytest.fixture(scope="module")
def model(hest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(
        hest=str(hest),
        features=hest / "features",
        encoder="toy",
        config={name: value for name, value in SETTINGS.items() if name != "training"},
        settings={"training": SETTINGS["training"] | {"epochs": 7}, "training.epochs": 2},
        out=tmp_path_factory.mktemp("python") / "spade",
        device="cpu",
    )


def test_python_and_the_command_write_the_same_model(
    model: Path, hest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert SpadeModel.load(model, device="cpu").n_experts == 3
    flags = ["pretrain", "--hest", hest, "--features", hest / "features", "--encoder", "toy",
             "--out", "spade", "--device", "cpu"]  # fmt: skip
    for name, value in SETTINGS.items():
        for key, inner in value.items() if isinstance(value, dict) else ():
            text = "[" + ", ".join(inner) + "]" if isinstance(inner, list) else inner
            flags += ["--set", f"{name}.{key}={text}"]
    done = CliRunner().invoke(app, [str(word) for word in flags])
    assert done.exit_code == 0, done.exception
    for name in ("genes.csv", "centroids.safetensors", "experts.safetensors", "config.yaml"):
        assert hash_file(tmp_path / "spade" / name) == hash_file(model / name)


def test_what_is_said_last_wins_and_what_is_missing_is_named(hest: Path, tmp_path: Path) -> None:
    asked = resolve_request(hest=hest, out=tmp_path, config="hest1k", settings={"genes.n_top": 3})
    assert (asked.config.genes.n_top, asked.config.genes.min_shared) == (3, 10_000)
    assert (asked.config.samples.hest, asked.out, asked.device) == (hest, tmp_path, "auto")
    ready = replace(config(hest), seed=4)
    again = resolve_request(config=ready, out=tmp_path)
    assert again.config == ready
    assert resolve_request(config=ready, out=tmp_path, seed=5).config == replace(ready, seed=5)
    folders = resolve_request(spaceranger=["a", tmp_path], out="x").config.samples.spaceranger
    assert folders == (Path("a"), tmp_path)
    assert resolve_request(spaceranger="a", out="x").config.samples.spaceranger == (Path("a"),)
    with pytest.raises(WorkspaceError, match="The paired data is not given"):
        resolve_request(out=tmp_path)
    with pytest.raises(WorkspaceError, match="The output folder is not given"):
        resolve_request(hest=hest)
    with pytest.raises(ConfigError, match="epoch"):
        resolve_request(hest=hest, out=tmp_path, settings={"training.epoch": 3})
    assert nested({"a.b": {"c.d": 1}}) == {"a": {"b": {"c.d": 1}}}
    assert nested({"a.b": {"c.d": 1}}, deep=True) == {"a": {"b": {"c": {"d": 1}}}}


def test_samples_without_a_file_and_refused_ones_are_said(
    hest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "hest"
    shutil.copytree(hest, part)
    (part / "st" / "S1.h5ad").unlink()
    (part / "st" / "S0.h5ad").write_bytes(b"no section")
    plain = config(part, split={"test_samples": []})
    pretrain(config=plain, out=tmp_path / "out", device="cpu")
    text = capsys.readouterr().err
    assert text.count("1 of 4 listed samples have no st/ file and are left out: S1\n") == 1
    last = [line for line in text.splitlines() if line.strip()][-1]
    assert "1 section(s) were refused and are not in the model: S0;" in last
    assert "samples.csv says why" in last
    pretrain(config=plain, out=tmp_path / "out", device="cpu")  # nothing is done, and it is said
    assert "1 section(s) were refused" in capsys.readouterr().err
