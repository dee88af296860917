"""Small made-up cohorts for heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, Head, HeadOptions
from spade_bench.registry import heads

# Small and few steps, so that a test takes a second; a head without such settings ignores them.
SMALL = {"hidden": 32, "attention": 8, "epochs": 3, "min_steps": 20, "lr": 5e-3}


@dataclass(frozen=True)
class World:
    """Bags of different sizes whose patches all lean along one axis, with every kind of target."""

    features: list[np.ndarray]
    label: np.ndarray
    survival: np.ndarray
    value: np.ndarray

    def bags(self, change: Callable[[int, np.ndarray], np.ndarray] | None = None) -> CaseBags:
        features = self.features
        load = features.__getitem__ if change is None else lambda i: change(i, features[i])
        return CaseBags(load, len(features), features[0].shape[1])

    def target(self, head: Head) -> np.ndarray:
        by_kind = {"classification": self.label, "survival": self.survival}
        return by_kind.get(head.card.kinds[0], self.value)

    def outputs(self, head: Head) -> int:
        return int(self.label.max()) + 1 if head.card.kinds[0] == "classification" else 1

    def fits(self, head: Head, sizes: Sequence[int], **rest: Any) -> list[Fit]:
        """Fits with that many training cases a class; the rest of the cohort is the test set."""
        out = []
        for draw, k in enumerate(sizes):
            rng = np.random.default_rng([draw, 9])
            train = np.concatenate(
                [
                    rng.choice(np.flatnonzero(self.label == c), k, replace=False)
                    for c in np.unique(self.label)
                ]
            )
            test = np.setdiff1d(np.arange(len(self.label)), train)
            out.append(Fit(train, self.target(head)[train], test, seed=draw, **rest))
        return out


def _world(
    seed: int = 0, n_cases: int = 30, dim: int = 5, signal: float = 2.0, n_classes: int = 2
) -> World:
    rng = np.random.default_rng(seed)
    label = np.arange(n_cases) % n_classes
    axes = np.eye(n_classes, dim) * signal
    features = [
        (rng.normal(size=(rng.integers(3, 12), dim)) + axes[y]).astype(np.float16) for y in label
    ]
    days = rng.exponential(1000 * np.exp(-1.5 * label))
    # Two in three have an event; the rest are lost at some time before it.
    event = (np.arange(n_cases) // n_classes % 3 > 0).astype(float)
    days = np.where(event > 0, days, days * rng.uniform(0.3, 1, n_cases)) + 1
    value = 50.0 + 10.0 * label + rng.normal(size=n_cases)
    return World(features, label, np.stack([event, days], axis=1), value)


def _head(name: str, memory: int | str | None = None, **params: Any) -> Head:
    plugin = heads.get(name)
    known = plugin.card.defaults
    chosen = {**{k: v for k, v in SMALL.items() if k in known}, **params}
    return plugin.load(HeadOptions(params=chosen, memory=memory))


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    return _world


@pytest.fixture(scope="session")
def make_head() -> Callable[..., Head]:
    return _head


@pytest.fixture(scope="session")
def world() -> World:
    return _world()
