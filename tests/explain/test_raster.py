"""Patches painted onto a raster: where they land, what overlaps become, what stays empty."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spade_bench.explain.layers import CATEGORY, SHARE, VALUE, Layer
from spade_bench.explain.raster import Raster, rasterise, rasterise_borders


def layer(coords: object, side: int, values: object, scale: str = SHARE) -> Layer:
    return Layer("k", "t", "l", np.asarray(coords, dtype=np.int64), side,
                 np.asarray(values, dtype=float), scale, ("a", "b", "c"))  # fmt: skip


def at(raster: Raster, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values under level-0 points; NaN outside the raster."""
    column = np.floor((x - raster.left) / raster.pixel[0]).astype(int)
    row = np.floor((y - raster.top) / raster.pixel[1]).astype(int)
    tall, wide = raster.values.shape
    inside = (column >= 0) & (column < wide) & (row >= 0) & (row < tall)
    found = np.full(len(x), np.nan)
    found[inside] = raster.values[row[inside], column[inside]]
    return found


def painted_one_by_one(drawn: Layer, x: NDArray[np.float64], y: NDArray[np.float64]) -> list[float]:
    """The mean value of the patches over each point, as anybody would compute it."""
    means = []
    for px, py in zip(x, y, strict=True):
        left, top = drawn.coords.T
        over = (left <= px) & (px < left + drawn.side) & (top <= py) & (py < top + drawn.side)
        over &= np.isfinite(drawn.values)
        means.append(float(drawn.values[over].mean()) if over.any() else np.nan)
    return means


def grid(columns: int, rows: int, step: float, offset: tuple[int, int] = (0, 0)) -> object:
    x, y = np.meshgrid(np.arange(columns) * step, np.arange(rows) * step)
    return np.rint(np.stack([x.ravel(), y.ravel()], axis=1)).astype(np.int64) + offset


@pytest.mark.parametrize(
    ("step", "side", "exact"),
    [
        (224, 224, True),  # side by side
        (112, 224, True),  # half overlapping
        (56, 224, True),  # three quarters
        (448, 224, True),  # with gaps
        (448.37, 448, True),  # a width that is no whole number, rounded
        (150, 224, False),  # an overlap that no cell fits
        (300, 224, False),  # gaps that no cell fits
    ],
)
def test_the_raster_says_what_patches_say_one_by_one(step: float, side: int, exact: bool) -> None:
    rng = np.random.default_rng(3)
    coords = grid(9, 7, step, (1000, 333))
    kept = rng.random(len(coords)) < 0.7
    kept[[0, -1]] = True
    drawn = layer(coords[kept], side, rng.random(kept.sum()))
    raster = rasterise(drawn)
    assert raster.exact is exact
    x, y = rng.uniform(900, 1100 + 9 * step, 400), rng.uniform(200, 400 + 7 * step, 400)
    edges = np.unique(np.concatenate([drawn.coords, drawn.coords + side]))
    # A patch may be off by a pixel at its border, where rounding decides.
    clear = np.array([min(abs(edges - a).min(), abs(edges - b).min()) > 1.5 for a, b in zip(x, y)])  # noqa: B905
    wanted = np.array(painted_one_by_one(drawn, x, y))
    np.testing.assert_allclose(at(raster, x, y)[clear], wanted[clear], atol=1e-12)
    assert np.isnan(wanted[clear]).any()
    assert clear.sum() > 300


def test_a_regular_grid_takes_a_pixel_per_patch() -> None:
    drawn = layer(grid(300, 200, 224.4), 224, np.arange(60_000) / 60_000)
    raster = rasterise(drawn)
    assert raster.values.shape == (200, 300)
    np.testing.assert_array_equal(raster.values.ravel(), drawn.values)
    assert raster.extent == pytest.approx((0, 300 * 224.4, 200 * 224.4, 0), abs=1)


def test_a_regular_grid_and_the_fine_raster_agree() -> None:
    rng = np.random.default_rng(0)
    drawn = layer(grid(12, 12, 64, (640, 64)), 64, rng.random(144))
    quick, slow = rasterise(drawn), rasterise(drawn, regular=False)
    assert quick.exact
    assert not slow.exact
    assert slow.values.shape == (768, 768)
    np.testing.assert_allclose(np.kron(quick.values, np.ones((64, 64))), slow.values, atol=1e-12)


def test_patches_without_a_value_leave_no_trace() -> None:
    raster = rasterise(layer(grid(3, 1, 10), 10, [0.5, np.nan, 0.25]))
    np.testing.assert_array_equal(raster.values, [[0.5, np.nan, 0.25]])
    assert np.isnan(rasterise(layer(grid(3, 1, 10), 10, [np.nan] * 3)).values).all()
    raster = rasterise(layer(grid(3, 1, 10), 10, [2, -1, 0], CATEGORY))
    np.testing.assert_array_equal(raster.values, [[2, np.nan, 0]])


def test_of_overlapping_categories_the_most_frequent_stands() -> None:
    coords = [[0, 0], [0, 0], [0, 0], [10, 0]]
    raster = rasterise(layer(coords, 10, [1, 2, 2, 0], CATEGORY))
    np.testing.assert_array_equal(raster.values, [[2, 0]])


def test_large_values_keep_their_digits() -> None:
    values = 1e6 + np.random.default_rng(1).random(400)
    drawn = layer(grid(20, 20, 8), 16, values, VALUE)
    raster = rasterise(drawn)
    assert raster.values[0, 0] == pytest.approx(values[0], abs=1e-9)
    assert raster.values[1, 1] == pytest.approx(values[[0, 1, 20, 21]].mean(), abs=1e-9)


def test_borders_leave_the_inside_free() -> None:
    raster = rasterise_borders(layer([[0, 0], [100, 0]], 100, [0.2, 0.9]))
    middle = at(raster, np.array([50.0, 150.0]), np.array([50.0, 50.0]))
    assert np.isnan(middle).all()
    on_border = at(raster, np.array([50.0, 150.0, 101.0]), np.array([1.0, 99.0, 50.0]))
    np.testing.assert_array_equal(on_border, [0.2, 0.9, 0.9])
