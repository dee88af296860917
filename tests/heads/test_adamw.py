"""Optimisers of stacked models go where AdamW goes; dropout is one in any company."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from spade_bench.counterhash import MASK32, drawn16, mixed
from spade_bench.heads.training.adamw import CpuAdamW, GpuAdamW, Part, pace
from spade_bench.heads.training.hasheddropout import HashedDropout

S, DECAY = 5, np.array([0.0, 0.01, 0.1, 0.3, 0.01])
SHAPES = {"w1": (4, 7), "out": (4, 2), "out_b": (1, 2)}


def _drawn() -> list[dict[str, torch.Tensor]]:
    stream = torch.Generator().manual_seed(0)
    return [{k: torch.randn(*n, generator=stream) for k, n in SHAPES.items()} for _ in range(S)]


def _whole(members: list[int]) -> Part:
    return slice(members[0], members[-1] + 1)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("companies", "part"),
    [
        ([[0, 1, 2, 3, 4]], _whole),
        ([[0, 2, 3], [1, 4], [2], [0, 1, 4]], torch.tensor),
        ([[1, 2, 3], [0, 1], [3, 4]], _whole),
    ],
)
def test_every_model_goes_where_it_goes_alone(
    kind: str, companies: list[list[int]], part: Callable[[list[int]], Part]
) -> None:
    drawn, like = _drawn(), torch.zeros(1)
    optimiser = GpuAdamW(drawn, like) if kind == "gpu" else CpuAdamW(drawn, like, DECAY)
    alone = [{k: w.clone().requires_grad_() for k, w in one.items()} for one in drawn]
    plain = [
        torch.optim.AdamW(list(own.values()), lr=1e-3, weight_decay=float(decay))
        for own, decay in zip(alone, DECAY, strict=True)
    ]
    taken, stream = np.zeros(S, dtype=np.int64), torch.Generator().manual_seed(1)
    for step in range(12):
        members = companies[step % len(companies)]
        rates = 0.05 * np.cos(step / 20) * (1 + np.array(members))
        chosen = part(members)
        if kind == "gpu":
            going = torch.from_numpy(pace(rates, DECAY[members], taken[members] + 1)).float()
        else:
            going = torch.from_numpy(rates)
            chosen = members if isinstance(chosen, torch.Tensor) else chosen
        taken[members] += 1
        turn = optimiser.turn(chosen, going)
        target = {k: torch.randn(S, *n, generator=stream) for k, n in SHAPES.items()}
        loss = sum(((turn.leaves[k] - t[members]) ** 4).sum() for k, t in target.items())
        grads = torch.autograd.grad(loss, list(turn.leaves.values()))
        turn.update(dict(zip(turn.leaves, grads, strict=True)))
        for member, rate in zip(members, rates, strict=True):
            plain[member].param_groups[0]["lr"] = float(rate)
            plain[member].zero_grad()
            own = sum(((w - target[k][member]) ** 4).sum() for k, w in alone[member].items())
            torch.autograd.backward(own)
            plain[member].step()
    for member in range(S):
        for k, w in alone[member].items():
            torch.testing.assert_close(
                optimiser.tensors[k][member], w.detach(), rtol=1e-5, atol=1e-6
            )


def test_a_parameter_begins_where_products_are_fast() -> None:
    optimiser = GpuAdamW(_drawn(), torch.zeros(1))
    starts = [w.storage_offset() for w in optimiser.tensors.values()]
    assert len(set(starts)) == len(SHAPES)
    assert not any(start % 32 for start in starts)
    assert optimiser.w.shape[1] % 32 == 0
    got = optimiser.joined({k: w.clone() for k, w in optimiser.tensors.items()})
    assert torch.equal(got, optimiser.w)


def test_dropout_drawn_ahead_is_that_of_the_step() -> None:
    seeds, rates, width = [3, 2**40 + 1, 9], [0.5, 0.0, 0.25], 6
    drawn = HashedDropout(seeds, rates, width, torch.zeros(1))
    taken, times = np.array([0, 5, 2]), 0
    rng = np.random.default_rng(0)
    for step in range(200):
        members = sorted(rng.choice(3, size=rng.integers(1, 4), replace=False).tolist())
        n_cases = 2 if step % 3 else 4
        if drawn.wanted(members, taken, n_cases):
            times += 1
            drawn.draw(torch.from_numpy(drawn.keys()))
        places = torch.from_numpy(drawn.places(members, taken))
        got = drawn.factors(torch.tensor(members), places, n_cases)  # (s, B, H)
        for at, member in enumerate(members):
            seed = mixed(np.array([seeds[member] & MASK32]))
            key = torch.from_numpy(mixed(seed + taken[member]))
            kept = drawn16(key, n_cases * width)[0] >= round(rates[member] * 2**16)
            want = (kept / (1 - rates[member])).float().view(n_cases, width)
            assert torch.equal(got[at], want)
        taken[members] += 1
    assert 3 <= times <= 6  # of 200 steps: 64 are drawn at once
