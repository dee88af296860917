"""The drop of a probe as class and centre go together: planted answers, and what is too few."""

from __future__ import annotations

import numpy as np
import pytest

from spade_bench.robustness import performancedrop
from spade_bench.robustness.performancedrop import LEAST_IN_CELL, performance_drop
from spade_bench.robustness.sitepoints import PointSet

CELL = 30


def planted(tissue: float, hospital: float, noise: float = 0.1) -> tuple[np.ndarray, PointSet]:
    """Two classes at three centres: -1 and 1 along one axis, and -1, 1 and 0 along another."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 3 * CELL)
    centre = np.tile(np.repeat([0, 1, 2], [CELL, CELL, CELL]), 2)
    x = noise * rng.normal(size=(len(label), 6))
    x[:, 0] += tissue * (2 * label - 1)
    x[:, 1] += hospital * np.array([-1.0, 1.0, 0.0])[centre]
    at = np.arange(len(label))
    names = tuple(map(str, at))
    points = PointSet("slides", names, ("a", "b"), ("A", "B", "C"), label, centre, at)
    return x, points


@pytest.mark.parametrize(
    ("tissue", "hospital", "last"),
    [
        (1.0, 0.0, 1.0),  # nothing tells the hospital
        (1.0, 1.0, 0.75),  # off the diagonal tissue and hospital say the opposite: a coin
        (0.3, 3.0, 0.5),  # the hospital is followed, which is wrong in half of the cells
    ],
)
def test_a_planted_hospital_is_followed(tissue: float, hospital: float, last: float) -> None:
    x, points = planted(tissue, hospital, noise=0.02)
    found = performance_drop(x, points, seed=0)
    assert found is not None
    assert found.correlation[0] == 0.0
    assert found.correlation[-1] == 1.0
    assert found.at_home[0] == pytest.approx(1.0)
    assert found.at_home[-1] == pytest.approx(last, abs=0.1)
    of_first = np.mean(found.at_home[1:]) / found.at_home[0] - 1
    assert found.drop_at_home == pytest.approx(of_first)
    assert found.drop_at_home_range[0] <= found.drop_at_home <= found.drop_at_home_range[1]
    # Where no hospital pulls, tissue alone decides.
    assert found.elsewhere is not None
    assert found.elsewhere[0] == pytest.approx(1.0)


def test_no_signal_drops_by_nothing() -> None:
    x, points = planted(0.0, 0.0)
    found = performance_drop(x, points, seed=0)
    assert found is not None
    assert found.at_home[0] == pytest.approx(0.5, abs=0.12)
    assert found.drop_at_home == pytest.approx(0.0, abs=0.12)


def test_sizes_are_those_of_the_smallest_cell() -> None:
    x, points = planted(1.0, 1.0)
    found = performance_drop(x, points, seed=0)
    assert found is not None
    assert found.train_cases == 2 * (CELL - CELL // 3)
    assert found.elsewhere_cases == 2 * CELL
    assert found == performance_drop(x, points, seed=0)


def test_patches_of_a_case_stay_together() -> None:
    x, points = planted(1.0, 0.0)
    twice = PointSet(
        "patches", points.names * 2, points.labels, points.centres,
        np.tile(points.label, 2), np.tile(points.centre, 2), np.tile(points.group, 2),
    )  # fmt: skip
    found = performance_drop(np.concatenate([x, x]), twice, seed=0)
    assert found is not None
    assert found.train_cases == 2 * (CELL - CELL // 3)
    assert found.at_home[0] == pytest.approx(1.0)


def test_too_few_cases_are_not_measured() -> None:
    x, points = planted(1.0, 1.0)
    sizes = {0: CELL, 1: LEAST_IN_CELL - 1}  # of either class at each centre
    cells = [
        np.flatnonzero((points.label == label) & (points.centre == centre))[:size]
        for label in (0, 1)
        for centre, size in sizes.items()
    ]
    kept = np.concatenate(cells)
    few = PointSet(
        "slides", tuple(points.names[i] for i in kept), points.labels, points.centres,
        points.label[kept], points.centre[kept], np.arange(len(kept)),
    )  # fmt: skip
    assert performance_drop(x[kept], few, seed=0) is None


@pytest.mark.parametrize("size", range(9, 21))
def test_the_first_training_set_ties_nothing(size: int) -> None:
    a, b, c, d = (np.arange(size) + 100 * i for i in range(4))
    cells = ((a, b), (c, d))
    crossing = performancedrop._Crossing((0, 1), (0, 1), cells, (np.arange(0), np.arange(0)))
    draw = performancedrop._draw(crossing, np.random.default_rng(0))
    for label in (0, 1):
        own = np.isin(draw.train[0][label], cells[label][label]).sum()
        assert own * 2 == len(draw.train[0][label])
        assert not np.isin(draw.train[0][label], draw.test[label]).any()
