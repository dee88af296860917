"""What the size of a cohort decides, and what is said of settings that cannot work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.pretraining import settingrules as rules
from spade_bench.encoders.spade.pretraining.pretrainconfig import (
    ClusteringConfig,
    RoutingConfig,
    SplitConfig,
    TrainingConfig,
    settled,
)
from spade_bench.errors import ConfigError


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=5))
def test_experts_get_hundreds_of_spots(organs: list[int]) -> None:
    organ = np.repeat([f"O{i}" for i in range(len(organs))], organs)
    found, said = rules.choose_clusters(ClusteringConfig(), organ)
    k, k_organ = settled(found.k_experts, "k"), settled(found.k_organ, "k")
    assert 1 <= k <= 16
    assert 1 <= k_organ <= 16
    assert k == 1 or len(organ) >= rules.SPOTS_PER_EXPERT * k
    assert k == 16 or len(organ) < rules.SPOTS_PER_EXPERT * (k + 1)
    assert [rule.name for rule in said] == ["clustering.k_organ", "clustering.k_experts"]
    assert f"clustering.k_experts = {k} by rule: {len(organ):,} training spots" in str(said[1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=16), st.integers(1, 1000))
def test_experts_take_enough_steps(sizes: list[int], min_steps: int) -> None:
    asked = TrainingConfig(min_steps=min_steps)
    found, said = rules.choose_training(asked, sizes)
    per_epoch = max(1, math.ceil(int(np.mean(sizes)) / 128))
    epochs = settled(found.epochs, "epochs")
    assert epochs * per_epoch >= min_steps
    assert {rule.name for rule in said} == {"training.epochs", "training.lr", "training.init"}
    large = 100 * per_epoch >= rules.PAPER_STEPS
    assert found.lr == (1e-4 if large or len(sizes) > 1 else 1e-3)
    assert (found.init == "k1") == (not large and len(sizes) > 1)
    single = rules.single_training(asked, found, sizes)
    steps = settled(single.epochs, "epochs") * max(1, math.ceil(sum(sizes) / 128))
    assert steps >= min_steps
    assert single.init == "none"
    assert single.lr == (1e-4 if large else 1e-3)


def test_what_is_given_is_obeyed() -> None:
    organ = ["Brain"] * 49
    asked = ClusteringConfig(k_organ=16, k_experts=16)
    assert rules.choose_clusters(asked, organ) == (asked, ())
    training = TrainingConfig(epochs=3, lr=0.5, init="none")
    assert rules.choose_training(training, [10, 12]) == (training, ())
    assert rules.single_training(training, training, [10, 12]) == training
    split = SplitConfig(validation="samples", test_fraction=0.2)
    assert rules.choose_split(split, 2, 10) == (split, ())
    for auto in ("epochs", "lr", "init"):
        part = TrainingConfig(**({"epochs": 3, "lr": 0.5, "init": "none"} | {auto: "auto"}))  # type: ignore[arg-type]
        assert [rule.name for rule in rules.choose_training(part, [900])[1]] == [f"training.{auto}"]


def test_without_a_single_expert_none_can_be_started_from() -> None:
    alone, _ = rules.choose_training(TrainingConfig(), [400])
    assert alone.init == "none"
    found, said = rules.choose_training(TrainingConfig(), [400, 400], control=False)
    assert found.init == "none"
    reasons = {rule.name: rule.reason for rule in said}
    assert "controls.k1 is off" in reasons["training.init"]
    assert found.lr == 1e-3
    with pytest.raises(ConfigError, match="needs the single expert"):
        rules.choose_training(TrainingConfig(init="k1"), [400, 400], control=False)


@pytest.mark.parametrize(
    ("patients", "largest", "way", "words"),
    [
        (1, 300, "blocks", "1 patient to train"),
        (19, 300, "blocks", "fewer than 20"),
        (20, 300, "samples", "at least 20"),
        (4, 49, "samples", "no section has 50 spots"),
    ],
)
def test_few_patients_validate_on_blocks(patients: int, largest: int, way: str, words: str) -> None:
    found, said = rules.choose_split(SplitConfig(), patients, largest)
    assert found.validation == way
    assert words in str(said[0])
    assert found.test_fraction == found.val_fraction
    named, said = rules.choose_split(SplitConfig(test_samples=("S1",)), patients, largest)
    assert named.test_fraction == 0
    assert "a test is named" in str(said[1])


def _experts(scale: float, n: int = 6) -> tuple[Experts, np.ndarray]:
    rng = np.random.default_rng(0)
    centroids = (scale * rng.normal(size=(n, 8))).astype(np.float32)
    points = (scale * rng.normal(size=(400, 8))).astype(np.float32)
    return Experts(centroids, np.arange(n), ("Skin",) * n, n), points


def _entropy(experts: Experts, points: np.ndarray, tau: float) -> float:
    distance = np.linalg.norm(points[:, None].astype(float) - experts.centroids[None], axis=2)
    q = np.exp(-(distance - distance.min(axis=1, keepdims=True)) / tau)
    q /= q.sum(axis=1, keepdims=True)
    return float(-(q * np.log(np.maximum(q, 1e-300))).sum(axis=1).mean())


@pytest.mark.parametrize("target", [0.1, 0.5, 1.2])
def test_tau_brings_the_routing_to_its_entropy(target: float) -> None:
    experts, points = _experts(3.0)
    config = RoutingConfig(entropy=target)
    found, said = rules.choose_tau(config, experts, points, np.arange(400), seed=0)
    tau = settled(found.tau, "tau")
    assert _entropy(experts, points, tau) == pytest.approx(target, abs=2e-3)
    assert str(said[0]).startswith(f"routing.tau = {tau:.4g} by rule: an entropy of {target:g}")
    fixed = RoutingConfig(tau=0.3)
    assert rules.choose_tau(fixed, experts, points, np.arange(400), seed=0) == (fixed, ())


def test_tau_follows_the_scale_of_the_features() -> None:
    taus = []
    for scale in (0.01, 1.0, 100.0):
        experts, points = _experts(scale)
        found, _ = rules.choose_tau(RoutingConfig(), experts, points, np.arange(400), seed=0)
        taus.append(settled(found.tau, "tau") / scale)
    assert taus == pytest.approx([taus[0]] * 3, rel=1e-3)


@pytest.mark.parametrize("n", [1, 2])
def test_tau_where_the_entropy_cannot_be_reached(n: int) -> None:
    experts, points = _experts(1.0, n)
    config = RoutingConfig(entropy=5.0)
    found, _ = rules.choose_tau(config, experts, points, np.arange(400), seed=0)
    assert 0 < settled(found.tau, "tau") < math.inf


def test_few_spots_and_rising_losses_are_said() -> None:
    assert rules.small_experts([100, 4000]) == ""
    assert "99 training spots, fewer than 100" in rules.small_experts([99])
    assert "2 of 3 experts have fewer than 100 training spots: 0 (99), 2 (0)" in (
        rules.small_experts([99, 100, 0])
    )

    def curve(expert: int, *losses: float | None) -> list[dict[str, Any]]:
        return [{"expert": expert, "epoch": i, "val_loss": x} for i, x in enumerate(losses)]

    falls, rises = curve(0, 3.0, 2.0, 5.0), curve(1, 3.0, 3.1, 4.0)
    assert rules.rising_experts([*falls, *curve(2, None, None), *curve(3, 2.0)]) == ""
    said = rules.rising_experts([*rises, *falls])
    assert "of 1 of 2 experts rises from the start (1)" in said
