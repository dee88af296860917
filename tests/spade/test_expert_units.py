"""Experts that workers train are those that one process trains, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from toy_pretraining import config, write_hest

from spade_bench.encoders.spade.pretraining.expertunits import parts_of
from spade_bench.encoders.spade.pretraining.pipeline import run_pretrain
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, train_experts
from spade_bench.executors import ExecutorSettings
from spade_bench.executors.localprocesses import LocalProcesses


@given(st.dictionaries(st.integers(0, 40), st.integers(0, 10_000), min_size=1), st.integers(1, 9))
def test_every_expert_is_in_one_part_and_no_part_is_much_larger(
    sizes: dict[int, int], n: int
) -> None:
    parts = parts_of(sizes, n)
    assert sorted(expert for part in parts for expert in part) == sorted(sizes)
    assert len(parts) == min(n, len(sizes))
    assert all(parts)
    loads = [sum(sizes[expert] for expert in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes.values())


def test_workers_train_the_same_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the heads of the single expert, which every worker reads."""
    (tmp_path / "hest").mkdir()
    write_hest(tmp_path / "hest")
    training = {"epochs": 2, "lr": 1e-4, "init": "k1", "batch_size": 16, "proj_dim": 8}
    settings = config(tmp_path / "hest", training=training)
    run_pretrain(settings, tmp_path / "plain", device="cpu")
    started = []
    submit = LocalProcesses.submit

    def note(self: Any, units: Any) -> None:
        started.extend(units)
        submit(self, units)

    monkeypatch.setattr(LocalProcesses, "submit", note)
    two = ExecutorSettings("local", workers=2)
    run_pretrain(settings, tmp_path / "spread", device="cpu", executor=two)
    assert len(started) == 2
    assert not (tmp_path / "spread" / "jobs").exists()
    for name in ("experts.safetensors", "centroids.safetensors"):
        plain, spread = (load_file(tmp_path / out / name) for out in ("plain", "spread"))
        assert plain.keys() == spread.keys()
        for key, values in plain.items():
            np.testing.assert_array_equal(values, spread[key])


def test_what_workers_with_a_card_trained_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that collects may have none: the arithmetic is that of the workers."""
    rng = np.random.default_rng(0)
    data = TrainingData(
        features=rng.normal(size=(64, 8)).astype(np.float32),
        expression=rng.normal(size=(64, 6)).astype(np.float32),
        expert=np.arange(64) % 2,
        split=np.array(["train"] * 48 + ["val"] * 16),
        n_experts=2,
    )
    settings = TrainingConfig(epochs=1, batch_size=8, lr=1e-3, proj_dim=4)

    def times() -> list[int]:
        files = sorted((tmp_path / "checkpoints").glob("*.safetensors"))
        return [path.stat().st_mtime_ns for path in files]

    train_experts(data, settings, tmp_path, device="cpu", arithmetic="cuda/True")
    before = times()
    train_experts(data, settings, tmp_path, device="cpu", arithmetic="cuda/True")
    assert times() == before
    train_experts(data, settings, tmp_path, device="cpu")
    assert times() != before
