"""Spots that measure different genes are never told from one another by what is missing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from spade_bench.encoders.spade.experts import contrastive_loss
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, train_experts
from spade_bench.encoders.spade.pretraining.training.sharedarrays import open_shared, share
from spade_bench.encoders.spade.pretraining.training.stackedpairs import (
    stacked_agreement,
)

GROUP = torch.tensor([0, 1, 0, 2, 1, 0, 1])


@pytest.mark.parametrize("detach", [False, True])
def test_the_loss_is_that_of_each_group_apart(detach: bool) -> None:
    image, spot = torch.randn(2, 7, 5, dtype=torch.float64)
    image.requires_grad_(True)
    got = contrastive_loss(image, spot, 0.8, detach, GROUP)
    parts = [torch.nonzero(g == GROUP).squeeze(1) for g in range(3)]
    wanted = sum(
        contrastive_loss(image[rows], spot[rows], 0.8, detach) * len(rows) for rows in parts
    )
    torch.testing.assert_close(got, wanted / 7)
    gradient = torch.autograd.grad(got, image, retain_graph=True)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted / 7, image)[0])


def test_telling_groups_apart_gains_nothing() -> None:
    own = 9 * torch.eye(3)[GROUP]  # spots of a group alike, groups far apart
    sizes = torch.bincount(GROUP)[GROUP]
    wanted = sum(math.log(n) for n in sizes.tolist()) / 7
    assert float(contrastive_loss(own, own, group=GROUP)) == pytest.approx(wanted, rel=1e-6)
    assert float(contrastive_loss(own, own)) == pytest.approx(wanted, rel=1e-6)
    mixed = torch.ones(7, 3)  # groups alike: without the mask this costs, with it nothing
    assert float(contrastive_loss(mixed, mixed, group=GROUP)) == pytest.approx(wanted, rel=1e-6)
    assert float(contrastive_loss(mixed, mixed)) == pytest.approx(math.log(7), rel=1e-6)


def test_one_group_is_none_at_all() -> None:
    image, spot = torch.randn(2, 6, 4)
    same = contrastive_loss(image, spot, group=torch.full((6,), 5))
    assert float(same) == float(contrastive_loss(image, spot))


def test_stacked_losses_are_the_single_ones() -> None:
    image, spot = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    sizes = [7, 4, 1]
    valid = torch.arange(7) < torch.tensor(sizes)[:, None]
    image.requires_grad_(True)
    group = torch.stack([GROUP, GROUP.flip(0), GROUP])
    both = torch.stack((image, spot), dim=1)
    got = stacked_agreement(both, ~valid, 0.8, group=group) / (-2 * valid.sum(dim=1))
    expected = torch.stack(
        [
            contrastive_loss(image[a, :n], spot[a, :n], 0.8, group=group[a, :n])
            for a, n in enumerate(sizes)
        ]
    )
    torch.testing.assert_close(got, expected)
    gradient = torch.autograd.grad(got.sum(), image, retain_graph=True)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), image)[0])


def grouped_spots(data: TrainingData) -> TrainingData:
    """Half of the spots lack the first half of the genes."""
    group = np.arange(len(data.expert)) % 2
    dense = data.expression.toarray()
    dense[group == 1, : dense.shape[1] // 2] = 0
    return dataclasses.replace(data, expression=type(data.expression)(dense), group=group)


@pytest.mark.parametrize("layout", ["grouped", "processes"])
def test_layouts_agree_on_grouped_spots(
    layout: str, spade_data: TrainingData, spade_config: TrainingConfig, tmp_path: Path
) -> None:
    data = grouped_spots(spade_data)
    one = train_experts(data, spade_config, tmp_path / "one", seed=7, device="cpu")
    config = dataclasses.replace(spade_config, layout=layout, workers=2)
    other = train_experts(data, config, tmp_path / "other", seed=7, device="cpu")
    for expert, tensors in one.weights.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                other.weights[expert][name], tensor, rtol=1e-4, atol=2e-5, msg=name
            )
    for a, b in zip(one.history, other.history, strict=True):
        assert (a["expert"], a["epoch"]) == (b["expert"], b["epoch"])
        assert (a["val_loss"] or 0) == pytest.approx(b["val_loss"] or 0, rel=1e-4)
    plain = dataclasses.replace(data, group=None)
    without = train_experts(plain, spade_config, tmp_path / "plain", seed=7, device="cpu")
    assert without.history[0]["train_loss"] > one.history[0]["train_loss"]  # more to tell apart


def test_groups_travel_to_other_processes_and_are_part_of_the_content(
    spade_data: TrainingData, tmp_path: Path
) -> None:
    data = grouped_spots(spade_data)
    opened = open_shared(share(data, tmp_path))
    assert opened.group is not None
    np.testing.assert_array_equal(opened.group, data.group)
    assert opened.content_hash() == data.content_hash()
    assert data.content_hash() != dataclasses.replace(data, group=None).content_hash()
