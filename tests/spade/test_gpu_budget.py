"""What pretraining must cost on one H100, counted over the very steps that would run there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def budget(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    monkeypatch.delitem(sys.modules, "budget", raising=False)
    import budget as module  # type: ignore[import-not-found, unused-ignore]

    return module


def test_the_bars_hold_in_bfloat16(budget: ModuleType) -> None:
    found = budget.pretraining_budget("bf16")
    assert found["seconds"] <= 25
    assert found["seconds_with_control"] <= 90
    assert budget.grid_budget("bf16")["seconds"] <= 120


def test_in_float32_the_control_does_not_decide_how_long_it_takes(budget: ModuleType) -> None:
    found = budget.pretraining_budget("fp32")
    assert found["seconds_with_control"] <= 90
    # Products and AdamW are most of a step: what is left is no longer worth much.
    kinds = found["experts"]["step"]["microseconds_of"]
    assert kinds["products"] + kinds["_fused_adamw_"] > 0.75 * sum(kinds.values())


def test_counting_knows_a_product(budget: ModuleType) -> None:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, w = torch.empty(2, 3, 5), torch.empty(2, 5, 7)
        cost = budget.counted(lambda: torch.bmm(x, w).add_(1.0))
    assert cost.kernels == 2
    assert cost.flops == 2 * 2 * 3 * 5 * 7
    assert cost.bytes == 4 * (2 * 3 * 5 + 2 * 5 * 7 + 3 * 2 * 3 * 7)
