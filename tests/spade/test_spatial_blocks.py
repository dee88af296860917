"""Held-out strips of a section: their size, and nothing of them in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.encoders.spade.pretraining.prepare.spatialblocks import (
    GUARD_PITCHES,
    MIN_SECTION_SPOTS,
    section_blocks,
    spot_pitch,
)


def _lattice(width: int, height: int, *, hexagonal: bool) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    if hexagonal:
        x, y = x + 0.5 * (y % 2), y * np.sqrt(3) / 2
    return 100.0 * np.stack([x.ravel(), y.ravel()], axis=1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 30), st.integers(8, 30), st.booleans(), st.integers(0, 50),
    st.sampled_from([0.0, 112.0, 350.0]),
)  # fmt: skip
def test_no_training_spot_is_near_a_held_out_one(
    width: int, height: int, hexagonal: bool, seed: int, side: float
) -> None:
    xy = _lattice(width, height, hexagonal=hexagonal)
    split = section_blocks(xy, val=0.1, test=0.1, patch_side=side, seed=seed, name="S")
    train, held = xy[split == "train"], xy[np.isin(split, ["val", "test"])]
    assert (split == "val").sum() == (split == "test").sum() == round(0.1 * len(xy))
    gaps = np.abs(train[:, None] - held[None]).max(axis=2)  # along x or y, the larger
    if len(train):
        assert gaps.min() >= max(GUARD_PITCHES * 100.0, side) * (1 - 1e-3)
    if side == 0 and min(width, height) > 12:
        assert (split == "train").mean() > 0.4
    again = section_blocks(xy, val=0.1, test=0.1, patch_side=side, seed=seed, name="S")
    np.testing.assert_array_equal(split, again)


def test_strips_are_ends_of_the_section_and_each_section_has_its_own() -> None:
    xy = _lattice(30, 30, hexagonal=False)
    split = section_blocks(xy, val=0.1, test=0.1, seed=0, name="A")
    val, test = xy[split == "val"].mean(axis=0), xy[split == "test"].mean(axis=0)
    centre = xy.mean(axis=0)
    assert np.dot(val - centre, test - centre) < 0  # opposite ends
    other = section_blocks(xy, val=0.1, test=0.1, seed=0, name="B")
    assert (split != other).any()
    shuffled = np.random.default_rng(0).permutation(len(xy))
    moved = section_blocks(xy[shuffled], val=0.1, test=0.1, seed=0, name="A")
    np.testing.assert_array_equal(moved, split[shuffled])


@pytest.mark.parametrize("n", [1, 2, MIN_SECTION_SPOTS - 1])
def test_a_small_section_trains_as_a_whole(n: int) -> None:
    xy = np.random.default_rng(0).uniform(0, 1000, (n, 2))
    assert set(section_blocks(xy, val=0.1, test=0.1)) == {"train"}


def test_nothing_asked_holds_nothing_out() -> None:
    xy = _lattice(10, 10, hexagonal=False)
    assert set(section_blocks(xy, val=0.0, test=0.0)) == {"train"}
    only = section_blocks(xy, val=0.0, test=0.2)
    assert (only == "test").sum() == 20
    assert "val" not in only
    assert spot_pitch(xy) == 100.0
