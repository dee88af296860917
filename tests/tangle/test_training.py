"""Held-out retrieval beats chance where expression is planted, only there; resuming is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spade_bench.encoders.tangle.pretraining import epochs as training
from spade_bench.encoders.tangle.pretraining.tangleconfig import TangleConfig, TrainingConfig
from spade_bench.encoders.tangle.pretraining.tanglepipeline import run_tangle
from spade_bench.encoders.tangle.towers import SlideTower, info_nce
from spade_bench.errors import ConfigError
from spade_bench.files import read_json

Planted = Callable[..., TangleConfig]


@pytest.mark.slow
def test_planted_expression_is_found_in_held_out_cases_and_permuted_is_not(
    planted: Planted, tmp_path: Path
) -> None:
    config = planted()
    real = run_tangle(config, tmp_path / "real", device="cpu")
    assert real["test"]["n"] == 27
    assert real["test"]["beats_chance"]
    assert real["test"]["percentile"]["low"] > 0.6
    assert real["test"]["p"] < 0.01
    held = [set(real["cases"][name]) for name in ("train", "val", "test")]
    assert sum(map(len, held)) == 90 == len(set.union(*held))  # no case on two sides
    null = run_tangle(replace(config, permute_pairs=True), tmp_path / "null", device="cpu")
    assert null["test"]["percentile"]["low"] < 0.5 < null["test"]["percentile"]["high"]
    assert not null["test"]["beats_chance"]
    assert read_json(tmp_path / "null" / "tangle.json")["notes"] == ["pairs permuted: a control"]


def test_a_killed_run_continues_to_the_same_weights(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = planted(n=24, epochs=5)
    run_tangle(config, tmp_path / "whole", device="cpu")
    save, seen = training._save, []

    def killed(*args: object) -> None:
        save(*args)  # type: ignore[arg-type]
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_tangle(config, tmp_path / "cut", device="cpu")
    assert not (tmp_path / "cut" / "tangle.json").exists()
    monkeypatch.setattr(training, "_save", save)
    run_tangle(config, tmp_path / "cut", device="cpu")
    whole, cut = (load_file(tmp_path / d / "tangle.safetensors") for d in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    history = (tmp_path / "whole" / "training.csv").read_text()
    assert history == (tmp_path / "cut" / "training.csv").read_text()
    run_tangle(replace(config, seed=1), tmp_path / "other", device="cpu")
    other = load_file(tmp_path / "other" / "tangle.safetensors")
    assert not torch.equal(whole["slide.first.weight"], other["slide.first.weight"])


def test_padding_and_order_change_nothing() -> None:
    torch.manual_seed(0)
    tower = SlideTower(6, 8, 4, 0.2).eval()
    x = torch.randn(2, 9, 6)
    alone = tower(x[:1, :5])
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 5:] = False
    torch.testing.assert_close(tower(x, mask)[:1], alone)
    torch.testing.assert_close(tower(x.flip(1)), tower(x))


def test_the_loss_is_that_of_both_directions() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 3))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b)]
    logits = unit[0] @ unit[1].T / 0.1
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    found = info_nce(torch.from_numpy(a), torch.from_numpy(b), 0.1)
    assert float(found) == pytest.approx((rows.mean() + columns.mean()) / 2)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainingConfig(epochs=10, warmup_epochs=2, lr=1.0)
    rates = [training._rate(config, step, 3) for step in range(30)]
    assert rates[:6] == pytest.approx([(i + 1) / 6 for i in range(6)])
    assert max(rates) == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[6:]))
    assert rates[-1] < 0.02


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.temperature"):
        TangleConfig(training=TrainingConfig(temperature=0.0))
