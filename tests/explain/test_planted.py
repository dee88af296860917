"""Maps find the patches that were planted; those of untrained heads and chance labels do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from spade_bench.explain.casemaps import CaseBag, Model, Subject, case_bag, case_maps
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, FittedHead, HeadOptions
from spade_bench.registry import heads
from spade_bench.statistics.metrics import auroc
from spade_bench.types import Bag

CASES, TRAIN, PATCHES, PLANTED, DIM = 60, 40, 30, 7, 10
SEEDS = 24
SMALL = {"epochs": 6, "min_steps": 0, "hidden": 16, "attention": 8, "lr": 5e-3}


@dataclass(frozen=True)
class World:
    """Bags in which some patches carry the class, and all are equally long vectors."""

    features: list[np.ndarray]
    informative: list[np.ndarray]
    label: np.ndarray

    def bag(self, case: int) -> CaseBag:
        coords = np.stack([np.arange(PATCHES) * 10, np.zeros(PATCHES, dtype=int)], axis=1)
        bag = Bag(f"s{case}", self.features[case], coords, 10)
        return case_bag(f"c{case}", [bag.slide_id], lambda _: bag, bag.features)


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    label = np.arange(CASES) % 2
    features, informative = [], []
    for y in label:
        x = rng.normal(size=(PATCHES, DIM))
        inside = np.zeros(PATCHES, dtype=bool)
        inside[rng.choice(PATCHES, PLANTED, replace=False)] = True
        x[inside, y] += 3.0
        x *= np.sqrt(DIM) / np.linalg.norm(x, axis=1, keepdims=True)  # so that none stands out
        features.append(x.astype(np.float32))
        informative.append(inside)
    return World(features, informative, label)


def train(world: World, targets: list[np.ndarray], **params: float) -> list[FittedHead]:
    """Fit abmil once per array of training labels, all side by side."""
    cases, rest = np.arange(TRAIN), np.arange(TRAIN, CASES)
    jobs = [Fit(cases, target, rest, seed) for seed, target in enumerate(targets)]
    head = heads.get("abmil").load(HeadOptions(params={**SMALL, **params}))
    bags = CaseBags(world.features.__getitem__, CASES, DIM)
    return list(head.fit(bags, jobs, 2))


def found(world: World, fitted: list[FittedHead]) -> np.ndarray:
    """AUROC of what the map of a held-out slide shows for the planted patches, by model."""
    subject = Subject("mine", "abmil", "t")
    scores = []
    for at, one in enumerate(fitted):
        of_cases = []
        for case in range(TRAIN, CASES):
            (shown,) = case_maps(world.bag(case), [Model(str(at), one)], subject)
            of_cases.append(score(world, case, shown.percentile))
        scores.append(np.mean(of_cases))
    return np.array(scores)


def score(world: World, case: int, shown: np.ndarray) -> float:
    both = np.stack([1 - shown, shown], axis=1)
    return float(auroc(world.informative[case].astype(int), both)[0])


def is_chance(scores: np.ndarray) -> bool:
    """Whether the mean lies within four standard errors of 0.5, which must say something."""
    error = scores.std(ddof=1) / np.sqrt(len(scores))
    assert error < 0.05
    return bool(abs(scores.mean() - 0.5) < 4 * error)


def test_attention_finds_the_planted_patches(world) -> None:
    truth = world.label[:TRAIN]
    trained = found(world, train(world, [truth] * 4))
    assert trained.min() > 0.8
    rng = np.random.default_rng(1)
    permuted = found(world, train(world, [rng.permutation(truth) for _ in range(SEEDS)]))
    assert is_chance(permuted)
    assert trained.mean() > permuted.mean() + 0.25


def test_an_untrained_head_finds_nothing(world) -> None:
    truth = world.label[:TRAIN]
    untrained = found(world, train(world, [truth] * SEEDS, epochs=1, lr=1e-12))
    assert is_chance(untrained)


def test_contributions_point_to_the_class_of_the_planted_patches(world) -> None:
    (fitted,) = train(world, [world.label[:TRAIN]])
    for case in range(TRAIN, CASES):
        (shown,) = case_maps(world.bag(case), [Model("m", fitted)], Subject("mine", "abmil", "t"))
        towards = shown.contribution[:, 1] - shown.contribution[:, 0]
        sign = 1 if world.label[case] else -1
        inside = world.informative[case]
        assert sign * (towards[inside].mean() - towards[~inside].mean()) > 0


def test_the_map_of_several_models_is_their_mean_and_says_how_they_differ(world) -> None:
    models = [Model(str(i), one) for i, one in enumerate(train(world, [world.label[:TRAIN]] * 4))]
    subject, case = Subject("mine", "abmil", "t"), TRAIN
    alone = [case_maps(world.bag(case), [model], subject)[0] for model in models]
    (shown,) = case_maps(world.bag(case), models, subject)
    assert shown.models == 4
    assert shown.about["models"] == ["0", "1", "2", "3"]
    assert shown.attention == pytest.approx(np.mean([one.attention for one in alone], axis=0))
    together = np.mean([one.contribution for one in alone], axis=0)
    assert shown.contribution == pytest.approx(together)
    spread = np.std([one.percentile for one in alone], axis=0, ddof=1)
    assert shown.sd == pytest.approx(spread)
    assert shown.sd.max() > 0
    predicted = np.mean([one.predicted for one in alone], axis=0)
    assert shown.predicted == pytest.approx(tuple(predicted))
    assert alone[0].sd is None
