from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import (
    TrainingData,
    TrainResult,
    job,
    train_experts,
)
from spade_bench.encoders.spade.pretraining.training.sharedarrays import open_shared, share
from spade_bench.encoders.spade.pretraining.training.state import ExpertState, checkpoint_path
from spade_bench.errors import SpadeBenchError


def _distance(a: TrainResult, b: TrainResult) -> float:
    assert set(a.weights) == set(b.weights)
    pairs = [(a.weights[e][k], b.weights[e][k]) for e in a.weights for k in a.weights[e]]
    return max(float((x - y).abs().max()) for x, y in pairs)


def _without_time(result: TrainResult) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


class StopError(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("layout", ["sequential", "grouped"])
@pytest.mark.parametrize("saves", [1, 7, 20])
def test_a_crash_after_any_checkpoint_changes_nothing(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    saves: int,
) -> None:
    config = dataclasses.replace(spade_config, layout=layout)
    whole = train_experts(spade_data, config, tmp_path / "whole", seed=1, device="cpu")
    original, count = job.Keeper.save, 0

    def save_then_crash(keeper: job.Keeper, state: ExpertState) -> None:
        nonlocal count
        original(keeper, state)
        count += 1
        if count == saves:
            raise StopError

    out = tmp_path / "broken"
    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(job.Keeper, "save", save_then_crash)
        train_experts(spade_data, config, out, seed=1, device="cpu", checkpoint_seconds=0)
    assert list((out / "checkpoints").glob("*.safetensors"))
    resumed = train_experts(spade_data, config, out, seed=1, device="cpu")
    assert _distance(whole, resumed) <= (0 if layout == "sequential" else 1e-6)
    if layout == "sequential":
        assert _without_time(whole) == _without_time(resumed)


def test_finished_experts_are_not_trained_again(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    first = train_experts(spade_data, spade_config, tmp_path, device="cpu")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").iterdir()}
    second = train_experts(spade_data, spade_config, tmp_path, device="cpu")
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert _distance(first, second) == 0
    assert first.history == second.history


def test_other_data_or_settings_start_over(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_experts(spade_data, spade_config, tmp_path / "a", device="cpu")
    capsys.readouterr()
    features = spade_data.features.copy()
    features[0, 0] += 1
    changed = dataclasses.replace(spade_data, features=features)
    again = train_experts(changed, spade_config, tmp_path / "a", device="cpu")
    assert "data or settings have changed" in capsys.readouterr().err
    fresh = train_experts(changed, spade_config, tmp_path / "b", device="cpu")
    assert _distance(again, fresh) == 0


def test_a_broken_checkpoint_is_reported_and_started_over(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = train_experts(spade_data, spade_config, tmp_path, device="cpu")
    checkpoint_path(tmp_path, 1).write_bytes(b"torn")
    again = train_experts(spade_data, spade_config, tmp_path, device="cpu")
    assert "unreadable checkpoint" in capsys.readouterr().err
    assert _distance(whole, again) == 0


def test_processes_equal_one_process_bit_for_bit(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    one = train_experts(spade_data, spade_config, tmp_path / "one", device="cpu")
    config = dataclasses.replace(spade_config, layout="processes", workers=2)
    two = train_experts(spade_data, config, tmp_path / "two", device="cpu")
    assert _distance(one, two) == 0
    assert _without_time(one) == _without_time(two)
    assert not (tmp_path / "two" / "checkpoints" / "shared").exists()


def test_a_failing_worker_is_an_error(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(spade_config, layout="processes", workers=2)
    sizes = {e: len(spade_data.rows(e, "train")) for e in range(spade_data.n_experts)}
    # The largest expert is trained in this process, the second in the worker.
    second = sorted(sizes, key=lambda e: (-sizes[e], e))[1]
    folder = checkpoint_path(tmp_path, second)
    folder.mkdir(parents=True)  # a folder where the worker must write its checkpoint
    with pytest.raises(SpadeBenchError, match="training process failed"):
        train_experts(spade_data, config, tmp_path, device="cpu")


def test_shared_arrays_come_back_as_they_were(spade_data: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    np.save(path, spade_data.features)
    mapped = np.load(path, mmap_mode="r")
    data = dataclasses.replace(spade_data, features=mapped)
    again = open_shared(share(data, tmp_path / "shared"))
    assert not (tmp_path / "shared" / "features.npy").exists()  # mapped where it lies
    np.testing.assert_array_equal(again.features, spade_data.features)
    assert (again.expression != spade_data.expression).nnz == 0
    np.testing.assert_array_equal(again.expert, spade_data.expert)
    np.testing.assert_array_equal(again.split, spade_data.split)
    part = dataclasses.replace(
        spade_data,
        features=mapped[3:],
        expression=sparse.csr_matrix(spade_data.expression[3:]),
        expert=spade_data.expert[3:],
        split=spade_data.split[3:],
    )
    np.testing.assert_array_equal(
        open_shared(share(part, tmp_path / "part")).features, spade_data.features[3:]
    )


_SCRIPT = """
import sys
import numpy as np
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, train_experts

arrays = np.load(sys.argv[1])
data = TrainingData(arrays["x"], arrays["g"], arrays["expert"], arrays["split"], 3)
config = TrainingConfig(
    epochs=12, lr=1e-4, batch_size=32, proj_dim=32, layout="processes", workers=2
)
train_experts(data, config, sys.argv[2], seed=0, device="cpu", checkpoint_seconds=0.05)
"""


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(p) for p in path.read_text().split()] if path.exists() else []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_kill_and_run_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, expert = 1200, np.repeat([0, 1, 2], 400)
    split = np.where(rng.random(n) < 0.1, "val", "train")
    x, g = rng.normal(size=(n, 200)).astype(np.float32), rng.random((n, 900)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, g=g, expert=expert, split=split)
    out = tmp_path / "out"
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "data.npz"), str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    checkpoints = out / "checkpoints"
    while not list(checkpoints.glob("expert_*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(Path(f"/proc/{w}/cmdline").exists() for w in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    data = TrainingData(x, g, expert, split, 3)
    config = TrainingConfig(epochs=12, lr=1e-4, batch_size=32, proj_dim=32, layout="sequential")
    assert process.returncode == -signal.SIGKILL
    resumed = train_experts(data, config, out, seed=0, device="cpu")
    whole = train_experts(data, config, tmp_path / "whole", seed=0, device="cpu")
    assert _distance(whole, resumed) == 0
    assert torch.isfinite(resumed.weights[0]["image.fc.weight"]).all()
