"""What runs on a GPU gives what the CPU gives, up to the rounding of the products."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import (
    TrainingData,
    resident,
    train_experts,
)
from spade_bench.encoders.tangle.towers import SlideTower
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

pytestmark = pytest.mark.cuda

WIDTH, N_GENES, N_EXPERTS = 64, 90, 4


@pytest.fixture(scope="module")
def data() -> TrainingData:
    rng = np.random.default_rng(0)
    n = 300
    latent = rng.normal(size=(n, 6))
    features = latent @ rng.normal(size=(6, WIDTH)) + 0.3 * rng.normal(size=(n, WIDTH))
    counts = rng.poisson(np.exp(0.5 * latent @ rng.normal(size=(6, N_GENES))))
    from scipy import sparse

    return TrainingData(
        features.astype(np.float32),
        sparse.csr_matrix(np.log1p(counts).astype(np.float32)),
        np.repeat(np.arange(N_EXPERTS), [140, 90, 50, 20]),
        np.where(rng.random(n) < 0.15, "val", "train"),
        N_EXPERTS,
    )


@pytest.mark.parametrize(
    ("layout", "precision", "groups"),  # sets of measured genes
    [
        ("grouped", "fp32", 1),
        ("grouped", "bf16", 1),
        ("grouped", "fp32", 2),
        ("sequential", "fp32", 1),
        ("sequential", "bf16", 2),
    ],
)
def test_spade_learns_the_same_on_both(
    data: TrainingData, tmp_path: Path, layout: str, precision: str, groups: int
) -> None:
    if groups > 1:
        data = dataclasses.replace(data, group=np.arange(len(data.expert)) % groups)
    config = TrainingConfig(epochs=3, lr=1e-4, batch_size=32, proj_dim=32, layout=layout)  # type: ignore[arg-type]
    config = dataclasses.replace(config, precision=precision)  # type: ignore[arg-type]
    cpu = train_experts(
        data, dataclasses.replace(config, precision="fp32"), tmp_path / "cpu", device="cpu"
    )
    gpu = train_experts(data, config, tmp_path / "gpu", device="cuda")
    assert set(gpu.weights) == set(cpu.weights) == set(range(N_EXPERTS))
    for expert, weights in cpu.weights.items():
        start = ExpertPair.create(WIDTH, N_GENES, 32, seed=0, expert=expert).state_dict()
        moved = sum(float((t - start[k]).square().sum()) for k, t in weights.items()) ** 0.5
        apart = (
            sum(float((t - gpu.weights[expert][k]).square().sum()) for k, t in weights.items())
            ** 0.5
        )
        assert apart < (0.1 if precision == "fp32" else 0.35) * moved


def test_an_interrupted_training_goes_on_on_cuda(data: TrainingData, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, lr=1e-4, batch_size=64, proj_dim=16, layout="grouped")
    whole = train_experts(data, config, tmp_path / "whole", device="cuda")
    part = train_experts(data, config, tmp_path / "part", experts=[0, 2], device="cuda")
    rest = train_experts(data, config, tmp_path / "part", device="cuda")
    for expert in part.weights:
        for name, tensor in part.weights[expert].items():
            assert torch.equal(tensor, rest.weights[expert][name])
    assert set(rest.weights) == set(whole.weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_spade_encodes_the_same_and_sends_each_patch_to_the_same_expert(precision: str) -> None:
    rng = np.random.default_rng(1)
    table = Experts(
        rng.normal(size=(12, WIDTH)).astype(np.float32), np.arange(12) % 4, ("",) * 12, 4
    )
    pairs = {e: ExpertPair.create(WIDTH, N_GENES, 32, seed=0, expert=e) for e in range(4)}
    models = {
        device: SpadeModel(
            ModelInfo(tau=0.5),
            table,
            [f"G{i}" for i in range(N_GENES)],
            pairs,
            device=device,
            precision=precision,  # type: ignore[arg-type]
        )
        for device in ("cpu", "cuda")
    }
    features = rng.normal(size=(20_000, WIDTH)).astype(np.float32)
    weights = {device: np.asarray(model.route(features)) for device, model in models.items()}
    np.testing.assert_allclose(weights["cuda"], weights["cpu"], atol=1e-4)
    assert (weights["cuda"].argmax(1) == weights["cpu"].argmax(1)).mean() > 0.9999
    got = {device: np.asarray(model.encode(features)) for device, model in models.items()}
    error = np.linalg.norm(got["cuda"] - got["cpu"]) / np.linalg.norm(got["cpu"])
    assert error < (1e-5 if precision == "fp32" else 2e-2)


def test_a_real_encoder_gives_the_same_features() -> None:
    images = np.random.default_rng(2).integers(0, 256, size=(9, 224, 224, 3), dtype=np.uint8)
    got = {}
    for device in ("cpu", "cuda"):
        encoder = encoders.get("efficientnet-lite0").load(LoadOptions(device=device))
        got[device] = np.asarray(torch.as_tensor(encoder.encode(images)).float().cpu())  # type: ignore[attr-defined]
    error = np.linalg.norm(got["cuda"] - got["cpu"]) / np.linalg.norm(got["cpu"])
    assert error < 1e-4


def test_tangles_tower_gives_the_same_slides() -> None:
    torch.manual_seed(0)
    tower = SlideTower(32, 16, 4, 0.2).eval()
    x = torch.randn(3, 500, 32)
    cpu = tower(x)
    torch.testing.assert_close(tower.cuda()(x.cuda()).cpu(), cpu, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("form", ["dense", "compressed", "host"])
def test_where_expression_lies_changes_nothing(
    form: str, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(epochs=1, lr=1e-4, batch_size=64, proj_dim=16, layout="grouped")
    whole = train_experts(data, config, tmp_path / "whole", device="cuda")
    monkeypatch.setattr(resident, "_form", lambda *_: form)
    other = train_experts(data, config, tmp_path / form, device="cuda")
    for expert, weights in whole.weights.items():
        for name, tensor in weights.items():
            torch.testing.assert_close(other.weights[expert][name], tensor, rtol=0, atol=1e-6)
    for a, b in zip(whole.history, other.history, strict=True):
        assert (a["train_loss"], a["val_loss"] or 0) == pytest.approx(
            (b["train_loss"], b["val_loss"] or 0), rel=1e-5
        )
