"""Experts that start from given heads: the same guarantees as those that start from their own."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from torch import Tensor

from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import (
    TrainingData,
    TrainResult,
    job,
    train_experts,
)
from spade_bench.encoders.spade.pretraining.training.state import START_MARGIN, kept_epoch
from spade_bench.errors import WeightsError


@pytest.fixture
def start(spade_data: TrainingData, spade_config: TrainingConfig) -> dict[str, Tensor]:
    """Heads that no expert of the tests would draw."""
    sizes = spade_data.features.shape[1], spade_data.expression.shape[1], spade_config.proj_dim
    pair = ExpertPair.create(*sizes, seed=99, expert=5)
    return {name: tensor.detach() for name, tensor in pair.state_dict().items()}


def _train(
    data: TrainingData,
    config: TrainingConfig,
    out: Path,
    start: dict[str, Tensor] | None,
    every: float = 1e9,
) -> TrainResult:
    options = {"seed": 7, "device": "cpu", "checkpoint_seconds": every, "initial": start}
    return train_experts(data, config, out, **options)  # type: ignore[arg-type]


def _distance(a: TrainResult, b: TrainResult) -> float:
    assert set(a.weights) == set(b.weights)
    pairs = [(a.weights[e][k], b.weights[e][k]) for e in a.weights for k in a.weights[e]]
    return max(float((x - y).abs().max()) for x, y in pairs)


def _losses(result: TrainResult) -> list[tuple[object, ...]]:
    return [(row["expert"], row["epoch"], row["val_loss"]) for row in result.history]


def test_the_start_decides_the_weights_and_an_earlier_start_is_not_continued(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    start: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    given = _train(spade_data, spade_config, tmp_path, start)
    assert _distance(given, _train(spade_data, spade_config, tmp_path, start)) == 0
    assert _distance(given, _train(spade_data, spade_config, tmp_path, None)) > 1e-2
    other = {name: tensor * 1.01 for name, tensor in start.items()}
    assert _distance(given, _train(spade_data, spade_config, tmp_path, other)) > 1e-4


@pytest.mark.parametrize(
    ("layout", "most"), [("sequential", 0.0), ("processes", 0.0), ("grouped", 1e-5)]
)
def test_every_layout_starts_from_the_same_heads(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    start: dict[str, Tensor],
    tmp_path: Path,
    layout: str,
    most: float,
) -> None:
    one = _train(spade_data, spade_config, tmp_path / "one", start)
    config = dataclasses.replace(spade_config, layout=layout, workers=2)
    other = _train(spade_data, config, tmp_path / "other", start)
    assert _distance(one, other) <= most
    for (e, epoch, loss), row in zip(_losses(one), _losses(other), strict=True):
        assert row == (e, epoch, loss if loss is None else pytest.approx(loss, rel=1e-5))


class StopError(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("layout", ["sequential", "grouped"])
@pytest.mark.parametrize("saves", [1, 9])
def test_a_crash_changes_nothing(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    start: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    saves: int,
) -> None:
    config = dataclasses.replace(spade_config, layout=layout)
    whole = _train(spade_data, config, tmp_path / "whole", start)
    original, count = job.Keeper.save, 0

    def save_then_crash(keeper: job.Keeper, state: object) -> None:
        nonlocal count
        original(keeper, state)  # type: ignore[arg-type]
        count += 1
        if count == saves:
            raise StopError

    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(job.Keeper, "save", save_then_crash)
        _train(spade_data, config, tmp_path / "broken", start, every=0)
    resumed = _train(spade_data, config, tmp_path / "broken", start)
    assert _distance(whole, resumed) <= (0 if layout == "sequential" else 1e-6)
    assert [row[:2] for row in _losses(resumed)] == [row[:2] for row in _losses(whole)]


@pytest.mark.parametrize("layout", ["sequential", "grouped"])
def test_heads_that_training_makes_worse_stay_as_they_were(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    start: dict[str, Tensor],
    tmp_path: Path,
    layout: str,
) -> None:
    good = _train(spade_data, dataclasses.replace(spade_config, epochs=30), tmp_path / "a", None)
    config = dataclasses.replace(spade_config, lr=50.0, layout=layout)  # nothing survives this
    result = _train(spade_data, config, tmp_path / "b", good.weights[0])
    assert result.best_epoch[0] == 0
    assert any("of 4 experts keep the heads they started from" in n for n in result.notes)
    for name, tensor in good.weights[0].items():
        assert bool((result.weights[0][name] == tensor).all())
    first = next(row for row in result.history if row["expert"] == 0)
    assert (first["epoch"], first["train_loss"]) == (0, None)
    best = min(r["val_loss"] for r in good.history if r["expert"] == 0)
    assert math.isclose(first["val_loss"], best, rel_tol=1e-5)
    # without validation spots nothing can be said of the start, and the last epoch is kept
    assert result.best_epoch[3] == spade_config.epochs
    assert all(row["epoch"] for row in result.history if row["expert"] == 3)


def test_given_heads_give_way_only_to_what_is_clearly_better(
    spade_data: TrainingData, spade_config: TrainingConfig, start: dict[str, Tensor], tmp_path: Path
) -> None:
    config = dataclasses.replace(spade_config, epochs=15, lr=3e-3)
    result = _train(spade_data, config, tmp_path, start)
    moved = 0
    for expert in (0, 1):
        rows = [row for row in result.history if row["expert"] == expert]
        losses = {row["epoch"]: row["val_loss"] for row in rows}
        best = min(list(losses)[1:], key=lambda epoch: losses[epoch])
        wanted = best if losses[best] < losses[0] * (1 - START_MARGIN) else 0
        assert result.best_epoch[expert] == wanted == kept_epoch(losses)
        moved += wanted > 0
    assert moved
    assert kept_epoch({0: 1.0, 1: 0.96, 2: 0.97}) == 0
    assert kept_epoch({0: 1.0, 1: 0.94, 2: 0.97}) == 1
    assert kept_epoch({1: 0.96, 2: 0.95}) == 2


def test_an_expert_without_training_spots_keeps_the_heads_it_was_given(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    start: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    empty = dataclasses.replace(spade_data, n_experts=5)
    result = _train(empty, spade_config, tmp_path, start)
    assert all(bool((result.weights[4][name] == start[name]).all()) for name in start)
    assert "expert 4 has no training spots: its heads stay those it started from" in result.notes


def test_heads_that_do_not_fit_are_refused(
    spade_data: TrainingData,
    spade_config: TrainingConfig,
    start: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    with pytest.raises(WeightsError, match="heads to start from"):
        _train(spade_data, spade_config, tmp_path, dict(list(start.items())[1:]))
    narrow = dataclasses.replace(spade_config, proj_dim=4)
    with pytest.raises(WeightsError, match="heads to start from"):
        _train(spade_data, narrow, tmp_path, start)
