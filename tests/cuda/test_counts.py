"""What a step asks of the GPU: launches, copies and waits, counted on torch's own CUDA code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData
from spade_bench.encoders.spade.pretraining.training.grouped import ExpertStack, Member
from spade_bench.encoders.spade.pretraining.training.job import Job, Keeper
from spade_bench.encoders.spade.pretraining.training.resident import ResidentData

pytestmark = pytest.mark.cuda

N_EXPERTS = 4


@pytest.fixture(autouse=True)
def _counted(pretended: bool) -> None:
    if not pretended:
        pytest.skip("launches are counted where CUDA is pretended (docs/GPU.md)")


def make_stack(tmp_path: Path, steps: int = 12, experts: int = N_EXPERTS) -> ExpertStack:
    rng = np.random.default_rng(0)
    batch, n_val = 8, 16
    sizes = [steps * batch - 3 * (e % 2) for e in range(experts)]
    n = sum(sizes) + n_val * experts
    expert = np.concatenate([np.repeat(e, s + n_val) for e, s in enumerate(sizes)])
    split = np.concatenate([["train"] * s + ["val"] * n_val for s in sizes])
    matrix = sparse.random(n, 30, 0.3, "csr", np.float32, random_state=0)
    data = TrainingData(
        rng.normal(size=(n, 16)).astype(np.float32), matrix, expert, split, experts
    )
    config = TrainingConfig(epochs=2, lr=1e-3, batch_size=batch, proj_dim=8, layout="grouped")
    keeper = Keeper(tmp_path, {str(e): "" for e in range(experts)})
    job = Job(data, config, 0, torch.device("cuda:0"), keeper, lambda row: None)
    members = [Member(job.state(e), job.schedule(e)) for e in range(experts)]
    rows = {e: np.flatnonzero(expert == e) for e in range(experts)}
    return ExpertStack(members, ResidentData(data, rows, job.device), job)


def test_a_step_of_all_experts_is_one_graph(tmp_path: Path) -> None:
    import pretend_cuda
    from recorded_graphs import RecordedGraph

    stack = make_stack(tmp_path)
    stack.load()
    for step in range(3):  # twice step by step, then captured
        stack.step(step, N_EXPERTS)
    (graph,) = RecordedGraph.made
    before = {k: w.clone() for k, w in stack.groups[0].items()}
    with pretend_cuda.census() as replayed:
        stack.step(3, N_EXPERTS)
    assert graph.replays == 2
    waits = {k: replayed.counts[k] for k in ("h2d", "d2h", "stream_syncs", "device_syncs")}
    assert not any(waits.values()), waits
    assert all(not torch.equal(w, before[k]) for k, w in stack.groups[0].items())
    with pretend_cuda.census() as alone:
        stack._update(N_EXPERTS)
    print({k: alone.counts[k] for k in ("launches", "products")}, graph.kernels)
    assert alone.counts["products"] <= 10
    assert alone.counts["launches"] <= 110
    assert alone.counts["h2d"] == alone.counts["stream_syncs"] == 0


def test_an_epoch_waits_once_and_copies_through_pinned_memory(tmp_path: Path) -> None:
    import pretend_cuda

    stack = make_stack(tmp_path)
    stack.epoch()
    with pretend_cuda.census() as counted:
        stack.epoch()
    counts = counted.counts
    assert counts["h2d"] == 4  # places, sizes, rates, keys
    assert counts["d2h"] == counts["pageable"] == 1, counts  # the losses
    assert counts["stream_syncs"] == 1
