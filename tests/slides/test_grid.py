"""The grid: whole patches on tissue, no drift, positions right to a pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.errors import DataError
from spade_bench.slides.grid import make_grid


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(300, 5000),
    height=st.integers(300, 5000),
    side=st.floats(50, 299),
    overlap=st.floats(0, 0.7),
)
def test_patches_tile_the_slide(width: int, height: int, side: float, overlap: float) -> None:
    grid = make_grid(width, height, side, np.ones((7, 9), bool), overlap=overlap)
    step = side * (1 - overlap)
    x = np.unique(grid.coords[:, 0])
    y = np.unique(grid.coords[:, 1])
    assert len(grid.coords) == len(x) * len(y)
    for axis, extent in ((x, width), (y, height)):
        assert axis[0] == 0
        assert np.abs(axis - np.arange(len(axis)) * step).max() <= 0.5  # no drift
        assert axis[-1] + side <= extent + 1  # inside
        assert axis[-1] + step + side > extent - 1  # and none left out


def test_only_patches_with_enough_tissue_are_kept() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:20, :15] = True  # of a 400 x 400 slide: x < 150, y < 200
    grid = make_grid(400, 400, 100, mask, min_tissue=0.5)
    assert grid.coords.tolist() == [[0, 0], [100, 0], [0, 100], [100, 100]]
    assert grid.tissue.tolist() == [1.0, 0.5, 1.0, 0.5]
    assert len(make_grid(400, 400, 100, mask, min_tissue=0.51).coords) == 2
    assert len(make_grid(400, 400, 100, mask, min_tissue=0.0).coords) == 4  # never bare glass


def test_too_small_and_empty_slides_are_refused() -> None:
    with pytest.raises(DataError, match="too small: 16 x 16 px, where one patch takes 224 px"):
        make_grid(16, 16, 224.0, np.ones((2, 2), bool))
    with pytest.raises(DataError, match="no tissue: none of 4 patches"):
        make_grid(500, 500, 224.0, np.zeros((20, 20), bool))
    assert len(make_grid(224, 224, 224.4, np.ones((2, 2), bool)).coords) == 1
