"""Training together: memory, reads, early stopping, cores, precision, and new heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spade_bench import plugins
from spade_bench.errors import ConfigError
from spade_bench.features.bagmemory import BagMemory
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, parse_memory
from spade_bench.heads.training import trainer as trainer_module
from spade_bench.registry import heads

GRADIENT = [p.name for p in heads if "precision" in p.card.defaults]


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADIENT)
def test_little_memory_splits_stacks_without_changing_results(
    name, make_head, world, monkeypatch
) -> None:
    made = []
    real = trainer_module.Trainer.__init__

    def count(self, members, *args, **rest):
        made.append(len(members))
        real(self, members, *args, **rest)

    monkeypatch.setattr(trainer_module.Trainer, "__init__", count)
    wide = make_head(name, precision="fp64")
    tight = make_head(
        name, memory="4MB" if name == "patch-transformer" else "400kB", precision="fp64"
    )
    fits = world.fits(wide, [4] * 12)
    together = wide.fit_predict(world.bags(), fits, world.outputs(wide))
    assert made == [12]
    made.clear()
    split = tight.fit_predict(world.bags(), fits, world.outputs(wide))
    assert sum(made) == 12
    assert len(made) > 1
    for a, b in zip(together, split, strict=True):
        assert a == pytest.approx(b, abs=1e-8)
    assert wide.params == tight.params


def test_too_little_memory_is_said(make_head, world) -> None:
    head = make_head("abmil", memory="20kB")
    with pytest.raises(ConfigError, match=r"Give --memory \d+MB or more"):
        head.fit_predict(world.bags(), world.fits(head, [4]), 2)
    assert [parse_memory(t) for t in ("4GB", "1.5 MB", 7, "2k")] == [4 * 10**9, 1500000, 7, 2000]
    for bad in ("much", "0", "-4GB"):
        with pytest.raises(ConfigError, match="amount"):
            parse_memory(bad)


def test_a_bag_is_read_once_a_step_for_all(make_head, world) -> None:
    """Twelve grid points and two folds read as many bags as one fit on all cases would."""
    reads: list[int] = []

    def load(index: int) -> np.ndarray:
        reads.append(index)
        return world.features[index]

    head = make_head("abmil", epochs=3, min_steps=0)
    train, test = np.arange(20), np.arange(20, 30)
    folds = [np.delete(train, slice(0, 10)), np.delete(train, slice(10, 20)), train[5:15]]
    fits = [
        Fit(fold, world.label[fold], test, seed=i, params={"lr": lr, "hidden": hidden})
        for i, fold in enumerate(folds)
        for lr in (1e-4, 1e-3)
        for hidden in (16, 32)
    ]
    bags = CaseBags(load, 30, 5, memory=BagMemory(0))
    head.fit_predict(bags, fits, 2)
    counts = np.bincount(reads, minlength=30)
    # Each epoch once, and a few times to measure; not once for each of the twelve fits.
    assert counts[:20].max() <= 3 + 3
    assert counts[20:].max() <= 3


@pytest.mark.slow
def test_early_stopping_is_each_members_own(make_head, make_world) -> None:
    world = make_world(3, n_cases=48)
    head = make_head("abmil", epochs=12, min_steps=0, patience=2, precision="fp64")
    fits = []
    for fit in world.fits(head, [8, 8]):
        tune, test = fit.test[:10], fit.test[10:]
        rng = np.random.default_rng(fit.seed)
        noise = rng.permutation(world.label[tune])
        fits.append(replace(fit, tune=tune, tune_target=world.label[tune], test=test))
        fits.append(replace(fit, tune=tune, tune_target=noise, test=test))
        fits.append(replace(fit, test=test))
    together = head.fit_predict(world.bags(), fits, 2)
    for fit, got in zip(fits, together, strict=True):
        assert got == pytest.approx(head.fit_predict(world.bags(), [fit], 2)[0], abs=1e-9)
    # Tuning cases that contradict the training cases stop it early: a model that is less sure.
    for honest, wrong, whole in zip(together[::3], together[1::3], together[2::3], strict=True):
        assert np.abs(wrong - 0.5).mean() < np.abs(whole - 0.5).mean()
        assert not np.array_equal(honest, wrong)


def test_tuning_cases_choose_epochs_and_nothing_else(make_head, world) -> None:
    head = make_head("abmil", precision="fp64", patience=99)
    fit = world.fits(head, [5])[0]
    tune, test = fit.test[:6], fit.test[6:]
    tuned = replace(fit, tune=tune, tune_target=world.label[tune], test=test)
    moved = world.bags(lambda i, x: x + (0.01 if i in set(tune.tolist()) else 0))
    before = head.fit_predict(world.bags(), [tuned], 2)[0]
    assert head.fit_predict(moved, [tuned], 2)[0] == pytest.approx(before, abs=1e-9)


def test_cores_change_nothing(make_head) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(10) % 2
    features = [rng.normal(size=(300, 8)).astype(np.float32) + y for y in label]
    bags = CaseBags(features.__getitem__, 10, 8)
    head = make_head("abmil", hidden=64)
    fits = [Fit(np.arange(6), label[:6], np.arange(6, 10), seed) for seed in range(20)]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(head.fit_predict(bags, fits, 2))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize("name", GRADIENT)
def test_bfloat16_comes_near(name, make_head, world) -> None:
    head = make_head(name)
    fits = world.fits(head, [5, 5])
    full = head.fit_predict(world.bags(), fits, world.outputs(head))
    half = make_head(name, precision="bf16").fit_predict(world.bags(), fits, world.outputs(head))
    for a, b in zip(full, half, strict=True):
        assert not np.array_equal(a, b)
        assert np.corrcoef(a[:, -1], b[:, -1])[0, 1] > 0.95


PLUGIN = '''
"""Largest activation of each hidden unit over the patches."""
import math
from dataclasses import asdict, dataclass
import torch
from spade_bench.heads import Model, TrainConfig, stacked_head
from spade_bench.types import HeadCard

@dataclass(frozen=True)
class MaxConfig(TrainConfig):
    hidden: int = 32
    balanced: bool = True

def initial(dim, width, s, stream):
    draw = lambda *shape: torch.randn(*shape, generator=stream) / math.sqrt(shape[-1])
    return {"w1": draw(s.hidden, dim), "b1": torch.zeros(s.hidden), "out": draw(s.hidden, width)}

def forward(x, mask, p, noise):
    h = torch.einsum("bnd,shd->sbnh", x, p["w1"]) + p["b1"][:, None, None]  # (S, B, n, H)
    if mask is not None:
        h = h.masked_fill(~mask[..., None], -math.inf)
    h = h.amax(dim=2)  # (S, B, H)
    return (h if noise is None else h * noise) @ p["out"]

card = HeadCard("max-pool", ("classification",), "Max pooling", "bag", asdict(MaxConfig()))
stacked_head(card, MaxConfig, Model(initial, forward, lambda s: s.hidden, lambda s: 4 * s.hidden,
                                    ("hidden",)), "classes")
'''


@pytest.mark.slow
def test_a_new_head_is_a_plugin_of_less_than_forty_lines(tmp_path: Path, world) -> None:
    assert len(PLUGIN.splitlines()) < 40
    path = tmp_path / "max_pool.py"
    path.write_text(PLUGIN)
    plugins.load_file(path)
    head = heads.get("max-pool").load(HeadOptions(params={"precision": "fp64", "lr": 5e-3}))
    try:
        fits = world.fits(head, [8, 8, 4])
        together = head.fit_predict(world.bags(), fits, 2)
        for fit, got in zip(fits, together, strict=True):
            assert got == pytest.approx(head.fit_predict(world.bags(), [fit], 2)[0], abs=1e-9)
            assert (got.argmax(axis=1) == world.label[fit.test]).mean() > 0.7
    finally:
        heads._plugins.pop("max-pool")
