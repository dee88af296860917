from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from spade_bench.encoders.spade.experts import ExpertPair, contrastive_loss
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, TrainResult, train_experts
from spade_bench.encoders.spade.pretraining.training.gene_layer import (
    GeneBatch,
    GeneOrder,
    gene_layer,
)
from spade_bench.encoders.spade.pretraining.training.schedule import Schedule
from spade_bench.encoders.spade.pretraining.training.stackedpairs import (
    stacked_agreement,
)
from spade_bench.encoders.spade.pretraining.training.trainingdata import ExpertRows
from spade_bench.encoders.spade.streams import dropout_keep, dropout_keys
from spade_bench.errors import ConfigError, DataError

Weights = dict[int, dict[str, Tensor]]


def _train(data: TrainingData, config: TrainingConfig, out: Path, **options: object) -> TrainResult:
    return train_experts(data, config, out, seed=7, device="cpu", **options)


def _distance(a: Weights, b: Weights, experts: list[int] | None = None) -> float:
    pairs = [(a[e][k], b[e][k]) for e in experts or a for k in a[e]]
    return max(float((x - y).abs().max()) for x, y in pairs)


def test_schedule_is_a_cosine_over_the_experts_own_steps() -> None:
    plan = Schedule(
        0, 1, n_train=70, n_val=10, config=TrainingConfig(epochs=3, batch_size=32, lr=1e-4)
    )
    assert (plan.steps_per_epoch, plan.total_steps) == (3, 9)
    assert plan.lr(0) == 1e-4
    assert plan.lr(9) == pytest.approx(0.0, abs=1e-20)
    assert plan.lr(3) == pytest.approx(1e-4 * 0.5 * (1 + math.cos(math.pi / 3)))
    for epoch in range(3):
        batches = plan.batches(epoch)
        assert [len(b) for b in batches] == [32, 32, 6]
        assert sorted(np.concatenate(batches)) == list(range(70))
    assert sorted(np.concatenate(plan.validation_batches())) == list(range(70, 80))


def test_training_equals_a_plain_loop(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    """An independent loop with torch's unfused AdamW ends at the same weights."""
    config, expert = spade_config, 1
    got = _train(spade_data, config, tmp_path)
    train, val = spade_data.rows(expert, "train"), spade_data.rows(expert, "val")
    x = torch.from_numpy(spade_data.features)
    g = torch.from_numpy(spade_data.expression.toarray())
    pair = ExpertPair.create(x.shape[1], g.shape[1], config.proj_dim, seed=7, expert=expert)
    optimiser = torch.optim.AdamW(
        pair.parameters(), lr=config.lr, weight_decay=config.weight_decay, foreach=False
    )
    plan = Schedule(7, expert, len(train), len(val), config)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.total_steps)
    best, step, kept = math.inf, 0, {}
    for epoch in range(config.epochs):
        for batch in plan.batches(epoch):
            rows = train[batch]
            keys = dropout_keys(7, expert, step, step + 1)[:, 0]
            keep = dropout_keep(keys, len(rows), config.proj_dim, config.dropout)
            loss = contrastive_loss(pair.image(x[rows], keep[0]), pair.spot(g[rows], keep[1]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            step += 1
        with torch.no_grad():
            losses = [
                float(contrastive_loss(pair.image(x[r]), pair.spot(g[r]))) * len(r)
                for r in (val[b - len(train)] for b in plan.validation_batches())
            ]
        row = next(r for r in got.history if (r["expert"], r["epoch"]) == (expert, epoch + 1))
        assert row["val_loss"] == pytest.approx(sum(losses) / len(val), rel=1e-4)
        if sum(losses) / len(val) < best:
            best = sum(losses) / len(val)
            kept = {k: v.clone() for k, v in pair.state_dict().items()}
    assert _distance({1: got.weights[1]}, {1: kept}) < 2e-5


def test_training_learns_and_keeps_the_best_epoch(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(spade_config, epochs=12)
    result = _train(spade_data, config, tmp_path)
    for expert in (0, 1):
        losses = [r["val_loss"] for r in result.history if r["expert"] == expert]
        assert min(losses) < 0.8 * losses[0]
        assert result.best_epoch[expert] == 1 + int(np.argmin(losses))
    assert [r["epoch"] for r in result.history if r["expert"] == 3] == list(range(1, 13))
    assert result.best_epoch[3] == 12
    assert "expert 3 has no validation spots: its last epoch is kept" in result.notes


def test_test_spots_are_never_read(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    first = _train(spade_data, spade_config, tmp_path / "a")
    features = spade_data.features.copy()
    features[spade_data.split == "test"] = np.nan
    changed = dataclasses.replace(spade_data, features=features)
    second = _train(changed, spade_config, tmp_path / "b")
    assert _distance(first.weights, second.weights) == 0


@pytest.mark.parametrize("layout", ["sequential", "grouped"])
def test_an_expert_does_not_depend_on_the_others(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path, layout: str
) -> None:
    config = dataclasses.replace(spade_config, layout=layout)
    together = _train(spade_data, config, tmp_path / "all")
    alone = _train(spade_data, config, tmp_path / "some", experts=[3, 1])
    assert set(together.weights) == {0, 1, 2, 3}
    assert set(alone.weights) == {1, 3}
    assert _distance(together.weights, alone.weights, [1, 3]) < 1e-6
    rest = _train(spade_data, config, tmp_path / "some", experts=[0, 2])
    assert set(rest.weights) == {0, 1, 2, 3}  # the finished ones are still there
    assert _distance(together.weights, rest.weights) < 1e-6


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_grouped_equals_one_by_one(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    tmp_path: Path,
    dense: bool,
    detach: bool,
) -> None:
    if dense:
        spade_data = dataclasses.replace(spade_data, expression=spade_data.expression.toarray())
    config = dataclasses.replace(spade_config, detach_targets=detach)
    single = _train(spade_data, config, tmp_path / "single")
    config = dataclasses.replace(config, layout="grouped")
    grouped = _train(spade_data, config, tmp_path / "grouped")
    assert _distance(single.weights, grouped.weights) < 2e-5
    assert single.best_epoch == grouped.best_epoch
    for a, b in zip(single.history, grouped.history, strict=True):
        assert (a["expert"], a["epoch"], a["lr"]) == (b["expert"], b["epoch"], b["lr"])
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4, abs=1e-6)


def _rare_genes(n: int, n_genes: int) -> sparse.csr_matrix:
    rng = np.random.default_rng(5)
    rates = np.where(np.arange(n_genes) % 4 == 0, 2.0, 0.001)
    return sparse.csr_matrix(np.log1p(rng.poisson(rates, size=(n, n_genes))).astype(np.float32))


@pytest.mark.parametrize("low", [False, True])
def test_gene_layer_is_a_linear_layer(low: bool) -> None:
    matrix = _rare_genes(40, 1000)
    order = GeneOrder.of(matrix, 0.07)
    assert order.n_dense == 250
    weight = torch.randn(6, 1000)
    common, rare = order.split(weight)
    assert torch.equal(common, weight.T[::4])
    assert torch.equal(order.join(common, rare), weight)
    dense = torch.from_numpy(matrix.toarray())
    ours, theirs = [common, rare, torch.randn(6)], [weight, torch.randn(6)]
    theirs[1].copy_(ours[2])
    for tensor in (*ours, *theirs):
        tensor.requires_grad_(True)
    whole = matrix[:, order.order]
    batch = GeneBatch(torch.from_numpy(whole[:, :250].toarray()), whole[:, 250:])
    got = gene_layer(batch, *ours, low_precision=low)
    expected = torch.nn.functional.linear(dense, *theirs)
    tolerance = {"atol": 0.3, "rtol": 0.05} if low else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(got, expected, **tolerance)
    above = torch.randn(40, 6)
    d_common, d_rare, d_bias = torch.autograd.grad((got * above).sum(), ours)
    d_weight, d_other = torch.autograd.grad((expected * above).sum(), theirs)
    torch.testing.assert_close(order.join(d_common, d_rare), d_weight, **tolerance)
    torch.testing.assert_close(d_bias, d_other, **tolerance)


def test_splitting_rare_genes_changes_nothing(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    data = dataclasses.replace(spade_data, expression=_rare_genes(len(spade_data.expert), 900))
    rows = ExpertRows(data, 0, rare=0.07)
    assert rows.genes.n_dense == 225
    split = _train(data, spade_config, tmp_path / "split")
    config = dataclasses.replace(spade_config, layout="grouped")  # never splits
    whole = _train(data, config, tmp_path / "whole")
    assert _distance(split.weights, whole.weights) < 2e-5
    assert split.best_epoch == whole.best_epoch
    resumed = _train(data, dataclasses.replace(spade_config), tmp_path / "split")
    assert _distance(split.weights, resumed.weights) == 0


def test_grouped_loss_of_padded_batches() -> None:
    image, spot = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=False)
    sizes = [6, 4, 1]
    valid = torch.arange(6) < torch.tensor(sizes)[:, None]
    image.requires_grad_(True)
    both = torch.stack((image, spot), dim=1)
    got = stacked_agreement(both, ~valid, 0.8) / (-2 * valid.sum(dim=1))
    expected = [contrastive_loss(image[a, :n], spot[a, :n], 0.8) for a, n in enumerate(sizes)]
    torch.testing.assert_close(got, torch.stack(expected))
    gradient = torch.autograd.grad(got.sum(), image, retain_graph=True)[0]
    wanted = torch.autograd.grad(torch.stack(expected).sum(), image)[0]
    torch.testing.assert_close(gradient, wanted)
    assert not bool(gradient[~valid].any())


def test_same_seed_same_bits(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    first = _train(spade_data, spade_config, tmp_path / "a")
    torch.manual_seed(99)
    second = _train(spade_data, spade_config, tmp_path / "b")
    assert _distance(first.weights, second.weights) == 0
    other = train_experts(spade_data, spade_config, tmp_path / "c", seed=8, device="cpu")
    assert _distance(first.weights, other.weights) > 1e-3


def test_bfloat16_linears_stay_close(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    exact = _train(spade_data, spade_config, tmp_path / "a")
    config = dataclasses.replace(spade_config, precision="bf16")
    low = _train(spade_data, config, tmp_path / "b")
    assert 0 < _distance(exact.weights, low.weights) < 0.05
    assert all(t.dtype == torch.float32 for w in low.weights.values() for t in w.values())


def test_tiny_and_empty_experts(spade_config: TrainingConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = TrainingData(
        rng.normal(size=(4, 3)).astype(np.float32),
        rng.random((4, 5)).astype(np.float32),
        np.array([0, 1, 1, 2]),
        np.array(["train", "train", "val", "val"]),
        4,
    )
    for layout in ("sequential", "grouped"):
        config = dataclasses.replace(spade_config, layout=layout)
        result = _train(data, config, tmp_path / layout)
        assert set(result.weights) == {0, 1, 2, 3}
        assert all(bool(t.isfinite().all()) for w in result.weights.values() for t in w.values())
        assert result.best_epoch[2] == result.best_epoch[3] == 0
        fresh = ExpertPair.create(3, 5, config.proj_dim, seed=7, expert=3).state_dict()
        assert _distance({3: result.weights[3]}, {3: fresh}) == 0
        assert "expert 3 has no training spots: its heads stay untrained" in result.notes


def test_rows_are_read_where_they_belong(spade_data: TrainingData) -> None:
    rows = ExpertRows(spade_data, 1)
    x, g = np.ones((3, 12), np.float32), np.ones((3, 20), np.float32)
    chosen = np.array([4, 0, rows.n_train])
    rows.read(chosen, x, g)
    wanted = np.concatenate([spade_data.rows(1, "train"), spade_data.rows(1, "val")])[chosen]
    np.testing.assert_array_equal(x, spade_data.features[wanted])
    np.testing.assert_array_equal(g, spade_data.expression[wanted].toarray())


def test_inputs_that_do_not_fit_are_refused(
    spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"there are 0\.\.3"):
        _train(spade_data, spade_config, tmp_path, experts=[4])
    with pytest.raises(DataError, match="329 experts"):
        dataclasses.replace(spade_data, expert=spade_data.expert[1:])
    with pytest.raises(DataError, match=r"0\.\.2"):
        dataclasses.replace(spade_data, n_experts=3)
