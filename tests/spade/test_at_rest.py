"""A damaged file never becomes a number, and a finished model is not replaced unasked."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from toy_pretraining import config

from spade_bench.encoders.common.checkpoint import load_checkpoint, save_checkpoint
from spade_bench.encoders.common.outfolder import hold
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.pretraining import pipeline
from spade_bench.encoders.spade.pretraining.pipeline import run_pretrain
from spade_bench.errors import ConfigError, WeightsError
from spade_bench.files import hash_file

MODEL = ("spade.json", "experts.safetensors", "centroids.safetensors", "genes.csv")


@pytest.fixture(scope="module")
def out(hest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_pretrain(config(hest), tmp_path_factory.mktemp("rest"), device="cpu")


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 4
    path.write_bytes(bytes(content))


def flip_dataset(path: Path, name: str) -> None:
    with h5py.File(path) as handle:
        offset = handle[name].id.get_offset()
    flip(path, offset + 2)


def no_training(*args: object, **kwargs: object) -> None:
    raise AssertionError("trained again")


def test_a_finished_model_is_left_alone(
    hest: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (out / name).stat().st_mtime_ns for name in MODEL}
    monkeypatch.setattr(pipeline, "train_experts", no_training)
    run_pretrain(config(hest), out, device="cpu")
    assert {name: (out / name).stat().st_mtime_ns for name in MODEL} == before


@pytest.mark.parametrize(
    "damage",
    ["spade.json", "experts.safetensors", "genes.csv", "controls/k1/experts.safetensors",
     "prepare/experts.npz", "validation.json", "spots.h5ad:obsm/features", "spots.h5ad:X/data",
     "spots.h5ad:obs/expert", "spots.h5ad:obs/split/codes", "prepare/stages/align.json",
     "prepare/stages/model.json"],
)  # fmt: skip
def test_a_flipped_bit_is_named_and_made_again(
    damage: str, hest: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [*MODEL, "prepare/experts.npz", "controls/k1/spade.json"]
    before = {name: hash_file(out / name) for name in files}
    with h5py.File(out / "spots.h5ad") as handle:
        features = handle["obsm/features"][:]
    name, _, dataset = damage.partition(":")
    if dataset:
        flip_dataset(out / name, dataset)
    else:
        flip(out / name)
    capsys.readouterr()
    run_pretrain(config(hest), out, device="cpu")
    said = capsys.readouterr().err
    assert Path(name).name in said
    assert "damaged" in said or "not valid JSON" in said
    with h5py.File(out / "spots.h5ad") as handle:
        np.testing.assert_array_equal(handle["obsm/features"][:], features)
    assert {name: hash_file(out / name) for name in files} == before


@pytest.mark.parametrize("group", ["params", "best", "values"])
def test_a_damaged_checkpoint_is_started_over(
    group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    path = tmp_path / "c.safetensors"
    groups = {"params": {"w": torch.arange(64.0)}, "best": {"w": torch.ones(3, 2)}, "empty": {}}
    save_checkpoint(path, groups, {"step": 3, "loss": 0.25}, "key")
    read = load_checkpoint(path, "key")
    assert read is not None
    assert read[1] == {"step": 3, "loss": 0.25}
    assert torch.equal(read[0]["params"]["w"], groups["params"]["w"])
    assert load_checkpoint(path, "other") is None
    content = path.read_bytes()
    if group == "values":
        path.write_bytes(content.replace(b"0.25", b"0.26"))
    else:
        flip(path, len(content) - (1 if group == "params" else 4 * 64 + 2))
    assert load_checkpoint(path, "key") is None
    assert "checksum does not fit" in capsys.readouterr().err


def test_other_settings_need_overwrite(hest: Path, out: Path) -> None:
    before = {name: hash_file(out / name) for name in MODEL}
    settings = config(hest)
    other = dataclasses.replace(
        settings,
        training=dataclasses.replace(settings.training, epochs=settings.training.epochs + 1),
    )
    stored = (out / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"training\.epochs was .* --overwrite"):
        run_pretrain(other, out, device="cpu")
    assert (out / "config.yaml").read_text(encoding="utf-8") == stored
    assert {name: hash_file(out / name) for name in MODEL} == before


def test_a_model_whose_description_was_edited_is_refused(out: Path, tmp_path: Path) -> None:
    for name in MODEL:
        (tmp_path / name).write_bytes((out / name).read_bytes())
    path = tmp_path / "spade.json"
    path.write_text(path.read_text().replace('"T": 1.0', '"T": 2.0'))
    with pytest.raises(WeightsError, match="checksum does not fit"):
        SpadeModel.load(tmp_path)


def test_a_second_pretrain_waits_and_says_for_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import time, sys\nfrom pathlib import Path\n"
        "from spade_bench.encoders.common.outfolder import hold\n"
        f"with hold(Path({str(tmp_path)!r})):\n    print('held', flush=True); time.sleep(2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        start = time.monotonic()
        with hold(tmp_path):
            assert time.monotonic() - start > 0.5
            assert other.wait() == 0
    assert f"in use by process {other.pid} on" in capsys.readouterr().err


def test_the_lock_of_a_killed_process_does_not_hold(tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\n"
        "from spade_bench.encoders.common.outfolder import hold\n"
        f"with hold(Path({str(tmp_path)!r})):\n    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with hold(tmp_path):
        pass
