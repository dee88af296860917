"""Gated attention: padding, order, and whether it finds what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.errors import ConfigError
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions
from spade_bench.heads.abmil import AbmilConfig, attend, initial
from spade_bench.heads.patch_transformer import PatchTransformerConfig
from spade_bench.heads.patch_transformer import forward as transformer
from spade_bench.heads.patch_transformer import initial as transformer_initial
from spade_bench.registry import heads


def _stack(start, dim: int, config, seed: int) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    drawn = [start(dim, 2, config, stream) for _ in range(3)]
    return {name: torch.stack([one[name] for one in drawn]).double() for name in drawn[0]}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 9), st.integers(0, 100))
def test_padding_and_order_change_nothing(n: int, padding: int, seed: int) -> None:
    p = _stack(initial, 5, AbmilConfig(hidden=7, attention=3), seed)
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, 5, generator=stream).double()
    pooled, attention = attend(x, None, p)
    assert torch.allclose(attention.sum(dim=2), torch.ones(3, 1).double())
    # Beside a longer bag, padded with garbage that is finite.
    longer = torch.randn(1, n + padding, 5, generator=stream).double()
    garbage = torch.cat([x, torch.full((1, padding, 5), 1e3).double()], dim=1)
    mask = torch.ones(2, n + padding, dtype=torch.bool)
    mask[0, n:] = False
    padded, weights = attend(torch.cat([garbage, longer]), mask, p)
    assert torch.allclose(padded[:, :1], pooled, atol=1e-12)
    assert (weights[:, 0, n:] == 0).all()
    assert torch.allclose(padded[:, 1:], attend(longer, None, p)[0], atol=1e-12)
    order = torch.randperm(n, generator=stream)
    turned, moved = attend(x[:, order], None, p)
    assert torch.allclose(turned, pooled, atol=1e-12)
    assert torch.allclose(moved, attention[:, :, order], atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([1, 2, 3, 5, 9, 40, 300]), st.integers(0, 9), st.integers(0, 50))
def test_padding_and_order_do_not_touch_the_transformer(n: int, padding: int, seed: int) -> None:
    p = _stack(transformer_initial, 5, PatchTransformerConfig(hidden=32), seed)
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, 5, generator=stream).double()
    out = transformer(x, None, p, None)
    assert out.shape == (3, 1, 2)
    garbage = torch.cat([x, torch.full((1, padding, 5), 1e3).double()], dim=1)
    mask = torch.arange(n + padding)[None] < n
    assert torch.allclose(transformer(garbage, mask, p, None), out, atol=1e-10)
    turned = x[:, torch.randperm(n, generator=stream)]
    assert torch.allclose(transformer(turned, None, p, None), out, atol=1e-10)


@pytest.mark.slow
def test_finds_rare_patches_that_the_mean_dilutes() -> None:
    rng = np.random.default_rng(4)
    label = np.arange(60) % 2
    features = []
    for y in label:
        x = rng.normal(size=(rng.integers(4, 20), 6)).astype(np.float32)
        x[0, 0] += 6 * y
        features.append(x)
    bags = CaseBags(features.__getitem__, 60, 6)
    train = [np.random.default_rng(d).permutation(60)[:32] for d in range(3)]
    fits = [Fit(t, label[t], np.setdiff1d(np.arange(60), t), d) for d, t in enumerate(train)]
    scores = heads.get("abmil").load(HeadOptions()).fit_predict(bags, fits, 2)
    hits = [(s.argmax(1) == label[fit.test]).mean() for fit, s in zip(fits, scores, strict=True)]
    assert np.mean(hits) > 0.8


def test_other_seed_other_numbers(make_head, world) -> None:
    head = make_head("abmil")
    fit = world.fits(head, [4])[0]
    other = Fit(fit.train, fit.target, fit.test, seed=fit.seed + 1)
    first, second = head.fit_predict(world.bags(), [fit, other], 2)
    assert not np.array_equal(first, second)


def test_bad_settings_are_refused() -> None:
    for params, word in (({"dropout": 1.0}, "dropout"), ({"hiden": 4}, "hidden")):
        with pytest.raises(ConfigError, match=word):
            heads.get("abmil").load(HeadOptions(params=params))
