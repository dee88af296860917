"""Lattices of pseudo-spots: every point has one spot, and every count one place."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from spade_bench.errors import UserError
from spade_bench.spatial.instruments.pseudospots import Pooling, SpotGrid, sum_bins

POINTS = np.random.default_rng(0).uniform(-700, 700, (3000, 2))


def test_squares_are_those_of_a_ruler() -> None:
    cells = SpotGrid(100).cells(np.array([0.0, 99.9, 100.0, -0.1]), np.array([250.0, 0, 0, 0]))
    assert cells.row.tolist() == [2, 0, 0, 0]
    assert cells.column.tolist() == [0, 0, 1, -1]
    assert cells.inside is None
    np.testing.assert_array_equal(
        SpotGrid(100).centres(cells.row[:1], cells.column[:1]), [[50, 250]]
    )


@pytest.mark.parametrize("shape", ["square", "hexagonal"])
@pytest.mark.parametrize("spot", [55.0, 100.0])
def test_a_point_belongs_to_the_nearest_centre(shape: str, spot: float) -> None:
    grid = SpotGrid(spot, shape)  # type: ignore[arg-type]
    cells = grid.cells(POINTS[:, 0], POINTS[:, 1])
    row, column = (v.ravel() for v in np.mgrid[-20:21, -20:21])
    centres = grid.centres(row, column)
    apart = np.linalg.norm(POINTS[:, None] - centres[None], axis=2)
    if shape == "square":
        apart = np.abs(POINTS[:, None] - centres[None]).max(axis=2)
    mine = np.linalg.norm(POINTS - grid.centres(cells.row, cells.column), axis=1)
    if shape == "square":
        mine = np.abs(POINTS - grid.centres(cells.row, cells.column)).max(axis=1)
    np.testing.assert_allclose(mine, apart.min(axis=1), atol=1e-9)


def test_the_layout_of_visium_has_round_spots_with_gaps() -> None:
    grid = SpotGrid(55, "hexagonal", 100)
    cells = grid.cells(POINTS[:, 0], POINTS[:, 1])
    apart = np.linalg.norm(POINTS - grid.centres(cells.row, cells.column), axis=1)
    assert cells.inside is not None
    np.testing.assert_array_equal(cells.inside, apart <= 27.5)
    share = np.pi * 27.5**2 / (100**2 * np.sqrt(3) / 2)
    assert abs(cells.inside.mean() - share) < 0.03
    near = grid.centres(np.array([3, 3, 4]), np.array([0, 1, 0]))
    apart = np.linalg.norm(near[[0, 0]] - near[[1, 2]], axis=1)
    np.testing.assert_allclose(apart, 100)  # six neighbours at one distance


def test_squares_with_gaps_are_squares() -> None:
    cells = SpotGrid(50, "square", 100).cells(np.array([26.0, 24, 74, 76]), np.full(4, 50.0))
    assert cells.inside is not None
    assert cells.inside.tolist() == [True, False, True, False]


def test_names_are_unique_and_say_where() -> None:
    names = SpotGrid(100).names(np.array([12, 0]), np.array([34, 1]))
    assert names.tolist() == ["s_100um_00012_00034", "s_100um_00000_00001"]


def test_sums_over_spots_are_sums_over_bins() -> None:
    rng = np.random.default_rng(1)
    counts = sp.csr_matrix(rng.poisson(0.4, (500, 7)).astype(np.float32))
    spot = rng.integers(-1, 20, 500)
    pooled = sum_bins(counts, spot, 20)
    expected = np.zeros((20, 7))
    np.add.at(expected, spot[spot >= 0], counts.toarray()[spot >= 0])
    np.testing.assert_array_equal(pooled.toarray(), expected)
    lost = np.zeros((20, 7))
    lost[spot[spot >= 0]] += counts.toarray()[spot >= 0]  # keeps one bin of each spot
    assert lost.sum() < 0.2 * pooled.sum()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"spot_um": 0.0}, "spots of 0.0 µm"),
        ({"spot_um": float("nan")}, "spots of nan µm"),
        ({"spot_um": 100.0, "pitch_um": 55.0}, "do not fit a pitch of 55 µm"),
        ({"shape": "round"}, "unknown lattice 'round'"),
        ({"min_qv": 99.0}, "between 0 and 40"),
    ],
)
def test_what_is_no_lattice_is_refused(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Pooling(**wrong)  # type: ignore[arg-type]
