"""What a step asks of the GPU: launches, copies and waits, counted on torch's own CUDA code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from spade_bench.encoders.spade import model as modelmodule
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData
from spade_bench.encoders.spade.pretraining.training.grouped import ExpertStack, Member
from spade_bench.encoders.spade.pretraining.training.job import Job, Keeper
from spade_bench.encoders.spade.pretraining.training.resident import ResidentData
from spade_bench.errors import DataError
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions
from spade_bench.heads.training.trainer import Trainer
from spade_bench.registry import heads

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
    data = TrainingData(rng.normal(size=(n, 16)).astype(np.float32), matrix, expert, split, experts)
    config = TrainingConfig(epochs=2, lr=1e-3, batch_size=batch, proj_dim=8, layout="grouped")
    keeper = Keeper(tmp_path, {str(e): "" for e in range(experts)}, every=1e9)
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
    assert alone.counts["launches"] <= 58 + N_EXPERTS  # a fused AdamW kernel each
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


@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("name", ["abmil", "patch-transformer"])
def test_a_step_of_100_stacked_models_sends_one_packet_and_waits_for_nothing(
    neighbours: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pretend_cuda

    rng = np.random.default_rng(0)
    bags = [rng.normal(size=(9, 6)).astype(np.float16).astype(np.float32) for _ in range(4)]
    label, members = np.array([0, 1, 0, 1]), 100 if name == "abmil" else 4
    folds = [np.array([0, 1, 2, 3]), np.array([0, 1, 2])]  # case 3 is not seen by every other one
    fits = []
    for seed in range(members):
        train = folds[0 if neighbours else seed % 2]
        fits.append(Fit(train, label[train], np.array([3]), seed))
    counted = []

    def step(trainer: Trainer, cases: list[int], active: object, batches: object) -> None:
        with pretend_cuda.census() as seen:
            whole(trainer, cases, active, batches)  # type: ignore[arg-type]
        if cases == [3]:
            counted.append(seen.counts)

    whole = Trainer._step
    monkeypatch.setattr(Trainer, "_step", step)
    params = {"hidden": 32, "epochs": 2, "min_steps": 0}
    head = heads.get(name).load(HeadOptions("cuda", params))
    head.fit_predict(CaseBags(bags.__getitem__, 4, 6), fits, 2)  # type: ignore[attr-defined]
    counts = counted[-1]
    print({k: counts[k] for k in ("launches", "products", "h2d", "d2h", "stream_syncs")})
    assert counts["h2d"] == 1
    assert counts["d2h"] == counts["pageable"] == counts["stream_syncs"] == 0
    assert counts["launches"] <= (65 if name == "abmil" else 140)


@pytest.mark.parametrize("routing", ["soft", "hard", "concat"])
def test_encode_asks_for_no_rows_and_copies_through_pinned_memory(
    routing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pretend_cuda

    monkeypatch.setattr(modelmodule, "_BLOCK", 64)
    rng = np.random.default_rng(1)
    table = Experts(rng.normal(size=(12, 16)).astype(np.float32), np.arange(12) % 3, ("",) * 12, 3)
    pairs = {e: ExpertPair.create(16, 9, 8, seed=0, expert=e) for e in range(3)}
    x = rng.normal(size=(300, 16)).astype(np.float32)
    models = {
        place: SpadeModel(ModelInfo(tau=0.5), table, list("ABCDEFGHI"), pairs, device=place)
        for place in ("cpu", "cuda")
    }
    with pretend_cuda.census() as seen:
        got = models["cuda"].encode(x, routing)
    np.testing.assert_allclose(got, models["cpu"].encode(x, routing), atol=1e-5)
    counts, blocks = seen.counts, -(-300 // 64)
    assert counts["h2d"] == blocks
    assert counts["d2h"] == blocks + 1  # and once the sums
    assert counts["pageable"] == 1
    assert counts["stream_syncs"] == 1
    x[200, 3] = np.nan
    with pytest.raises(DataError, match="1 rows from row 192"):
        models["cuda"].encode(x, routing)
