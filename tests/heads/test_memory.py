"""`--memory` bounds what heads on pooled features take, and reaches every head of a run."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, Head, HeadOptions
from spade_bench.heads import _pooled as pooled_module
from spade_bench.registry import heads

# Fewer cases than features are solved in the dual, more in the primal, three classes otherwise.
SHAPES = {"dual": (40, 60, 2), "primal": (80, 20, 2), "classes": (80, 20, 3)}


def _problem(n: int, dim: int, n_classes: int, n_fits: int) -> tuple[CaseBags, list[Fit]]:
    rng = np.random.default_rng(0)
    label = np.arange(2 * n) % n_classes
    x = rng.normal(size=(2 * n, 1, dim)).astype(np.float32)
    x[:, 0, 0] += label
    fits = []
    for seed in range(n_fits):
        order = np.random.default_rng(seed).permutation(2 * n)
        train = np.sort(order[:n])
        fits.append(Fit(train, label[train], np.sort(order[n:]), seed))
    return CaseBags(lambda i: x[i], 2 * n, dim), fits


def _head(memory: str | None, **params: float) -> Head:
    return heads.get("logistic").load(HeadOptions(memory=memory, params=params))


@pytest.mark.parametrize("shape", SHAPES)
def test_fits_are_solved_in_parts_with_the_same_results(shape: str) -> None:
    n, dim, n_classes = SHAPES[shape]
    bags, fits = _problem(n, dim, n_classes, 7)
    sizes: list[int] = []

    def counted(head: Any) -> Any:
        solve = head._solve

        def spy(pooled: Any, part: Any, *rest: Any) -> Any:
            sizes.append(len(part))
            return solve(pooled, part, *rest)

        head._solve = spy
        return head

    whole = counted(_head(None)).fit_predict(bags, fits, n_classes)
    assert sizes == [7]
    sizes.clear()
    memory = f"{2 * 3 * pooled_module._bytes(n, dim, n_classes)}"
    parts = counted(_head(memory)).fit_predict(bags, fits, n_classes)
    assert sizes == [3, 3, 1]
    for one, other in zip(whole, parts, strict=True):
        assert np.allclose(one, other, rtol=0, atol=1e-9)
    sizes.clear()
    counted(_head("1kB")).fit_predict(bags, fits, n_classes)
    assert sizes == [1] * 7  # one at least


@pytest.mark.parametrize(("n", "dim", "n_classes"), [(60, 400, 2), (400, 60, 2), (300, 100, 3)])
def test_the_bound_holds(n: int, dim: int, n_classes: int) -> None:
    bags, fits = _problem(n, dim, n_classes, 60)
    bags.pooled()
    peaks = {}
    for memory in (None, "12MB"):
        head = _head(memory, C=0.001)  # few steps, which take as much memory as many
        head.fit_predict(bags, fits[:1], n_classes)  # imports
        tracemalloc.start()
        head.fit_predict(bags, fits, n_classes)
        peaks[memory] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["12MB"] <= 6e6 + 1e5
    assert peaks[None] > 2 * peaks["12MB"]


@pytest.mark.parametrize("name", heads.names())
def test_every_head_is_told(name: str) -> None:
    head = heads.get(name).load(HeadOptions(memory="3MB"))
    assert head._memory == 3_000_000  # type: ignore[attr-defined]
