"""The highest patches that lie apart, and what is seen there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spade_bench.explain.layers import Layer
from spade_bench.explain.places import far_apart, highest, read_crops


@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_lies_apart_and_nothing_better_was_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coords = rng.integers(0, 2000, (500, 2))
    order = rng.permutation(500)
    taken = far_apart(order, coords, 150.0, 40)
    apart = np.abs(coords[taken][:, None] - coords[taken][None]).max(axis=2)
    np.fill_diagonal(apart, 10_000)
    assert apart.min() >= 150
    # Every patch before the last one taken was taken, or lies close to one that was taken earlier.
    place = {int(row): at for at, row in enumerate(order)}
    for row in order[: place[int(taken[-1])]]:
        if row not in taken:
            earlier = [one for one in taken if place[int(one)] < place[int(row)]]
            assert np.abs(coords[earlier] - coords[row]).max(axis=1).min() < 150


def test_as_many_as_wanted_in_their_order() -> None:
    coords = np.arange(20)[:, None] * [100, 0]
    assert far_apart(np.arange(20), coords, 200, 3).tolist() == [0, 2, 4]
    assert far_apart(np.arange(20), coords, 0, 3).tolist() == [0, 1, 2]
    assert len(far_apart(np.arange(20), coords, 1e9, 3)) == 1
    assert len(far_apart(np.empty(0), coords, 1, 3)) == 0


def test_highest_and_lowest_leave_out_what_has_no_value() -> None:
    values = np.array([0.1, np.nan, 0.9, 0.5])
    layer = Layer("k", "t", "l", np.arange(4)[:, None] * [10, 0], 10, values)
    assert highest(layer, 9, 10).tolist() == [2, 3, 0]
    assert highest(layer, 9, 10, lowest=True).tolist() == [0, 3, 2]


def test_crops_show_the_patch_in_their_middle(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    pixels = np.full((640, 640, 3), 200, dtype=np.uint8)
    pixels[256:320, 384:448] = (255, 0, 0)
    slide = write_slide(tmp_path / "s.tif", pixels)
    x, y = np.meshgrid(np.arange(10) * 64, np.arange(10) * 64)
    coords = np.stack([x.ravel(), y.ravel()], axis=1)
    values = np.linspace(0, 0.5, 100)
    values[4 * 10 + 6] = 1.0
    first, *others = read_crops(slide, Layer("k", "t", "l", coords, 64, values), 3)
    assert (first.x, first.y, first.side, first.value) == (352, 224, 128, 1.0)
    red = (first.pixels[..., 0] > 240) & (first.pixels[..., 1] < 20)
    rows, columns = np.nonzero(red)
    px = len(first.pixels)
    assert np.array([rows.mean(), columns.mean()]) == pytest.approx([px / 2, px / 2], abs=1)
    assert red.mean() == pytest.approx(0.25, abs=0.02)
    boxes = [first, *others]
    for one in boxes:
        for other in boxes:
            if one is not other:
                assert max(abs(one.x - other.x), abs(one.y - other.y)) >= 128


@pytest.mark.parametrize(("across", "wanted"), [(2, 1), (4, 4), (12, 4)])
def test_crops_are_of_the_top_quarter_alone(
    across: int, wanted: int, tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    """A small slide has fewer of them: the next that lies apart would hardly be looked at."""
    side = 40
    x, y = np.meshgrid(np.arange(across) * side, np.arange(across) * side)
    coords = np.stack([x.ravel(), y.ravel()], axis=1)
    values = np.random.default_rng(across).permutation(across**2) / across**2
    px = across * side
    slide = write_slide(tmp_path / "s.tif", np.full((px, px, 3), 200, dtype=np.uint8))
    crops = read_crops(slide, Layer("k", "t", "l", coords, side, values), 4)
    assert 1 <= len(crops) <= wanted
    assert crops[0].value == values.max()
    assert all(crop.value >= np.sort(values)[-max(1, len(values) // 4)] for crop in crops)
