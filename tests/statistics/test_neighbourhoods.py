"""The robustness index and its margins: brute force, planted effects, chance in theory."""

from __future__ import annotations

import numpy as np
import pytest

from spade_bench.errors import DataError
from spade_bench.statistics.intervals import case_weights
from spade_bench.statistics.neighbourhoods import (
    clustering_score,
    neighbourhoods,
    resampled_index,
)


def _world(n: int = 120, class_effect: float = 0.0, centre_effect: float = 0.0, seed: int = 0):
    """Two classes at three centres, two points of each case, in 20 dimensions."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) // 2
    label = group % 2
    centre = group // 2 % 3
    x = rng.normal(size=(n, 20))
    x[:, :2] += class_effect * np.eye(2)[label]
    x[:, 2:5] += centre_effect * np.eye(3)[centre]
    return x, label, centre, group


def _by_hand(x, label, centre, group, k):
    """The definition, point by point."""
    so = os = 0
    margins, every = [], []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if group[j] != group[i]]
        cosine = {j: x[i] @ x[j] / (np.linalg.norm(x[i]) * np.linalg.norm(x[j])) for j in others}
        every += cosine.values()
        first = [j for j in others if label[j] == label[i] and centre[j] != centre[i]]
        second = [j for j in others if label[j] != label[i] and centre[j] == centre[i]]
        if not first or not second:
            margins.append(np.nan)
            continue
        nearest = sorted(others, key=lambda j: -cosine[j])[:k]
        so += len(set(nearest) & set(first))
        os += len(set(nearest) & set(second))
        margins.append(max(cosine[j] for j in first) - max(cosine[j] for j in second))
    return so / (so + os), np.array(margins) / np.std(every)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_is_the_definition(k: int, monkeypatch) -> None:
    x, label, centre, group = _world(48, 1.0, 1.0)
    centre[label == 1] = np.minimum(centre[label == 1], 1)  # the third centre has one class
    found = neighbourhoods(x, label, centre, group, k)
    index, margins = _by_hand(x, label, centre, group, k)
    assert found.index == pytest.approx(index)
    assert found.margin == pytest.approx(margins, nan_ok=True)
    assert 0 < found.usable.sum() < len(x)
    monkeypatch.setattr("spade_bench.statistics.neighbourhoods._BLOCK_BYTES", 8 * len(x) * 7)
    again = neighbourhoods(x, label, centre, group, k)  # in blocks of seven points
    assert np.array_equal(again.same_other, found.same_other)
    assert again.margin == pytest.approx(found.margin, nan_ok=True)


def test_neighbours_of_the_same_case_never_count() -> None:
    x, label, centre, group = _world(40)
    x[1::2] = x[::2]  # the second point of each case is the first again
    found = neighbourhoods(x, label, centre, group, 3)
    apart = neighbourhoods(x[::2], label[::2], centre[::2], group[::2], 3)
    assert (found.same_other + found.other_same).max() <= 3
    assert np.isfinite(apart.index)
    assert found.index == pytest.approx(_by_hand(x, label, centre, group, 3)[0])


def test_a_planted_centre_lowers_the_index_and_a_planted_class_raises_it() -> None:
    plain = neighbourhoods(*_world(400), 11)
    sites = neighbourhoods(*_world(400, centre_effect=3.0), 11)
    classes = neighbourhoods(*_world(400, class_effect=3.0), 11)
    assert sites.index < 0.1 < plain.index < 0.95 < classes.index
    assert np.nanmean(sites.margin) < 0 < np.nanmean(classes.margin)
    weaker = neighbourhoods(*_world(400, centre_effect=1.0), 11)
    assert sites.index < weaker.index < plain.index


def test_without_any_effect_the_index_is_at_chance() -> None:
    """Chance is the share of candidates that are SO: two centres of three against one class."""
    indices, chances = [], []
    for seed in range(20):
        found = neighbourhoods(*_world(240, seed=seed), 11)
        indices.append(found.index)
        chances.append(found.chance)
    assert np.mean(chances) == pytest.approx(2 / 3, abs=0.01)
    error = np.std(indices, ddof=1) / np.sqrt(len(indices))
    assert abs(np.mean(indices) - np.mean(chances)) < 4 * error


def test_shuffled_centres_take_a_site_effect_away() -> None:
    x, label, centre, group = _world(400, centre_effect=3.0)
    rng = np.random.default_rng(1)
    moved = rng.permutation(centre[::2]).repeat(2)  # whole cases go to another centre
    found = neighbourhoods(x, label, moved, group, 11)
    assert found.index == pytest.approx(found.chance, abs=0.05)


def test_margins_do_not_depend_on_what_all_points_share() -> None:
    """Far from the origin all cosines are near one; margins keep their size."""
    x, label, centre, group = _world(100, 2.0)
    near = neighbourhoods(x, label, centre, group, 5).margin
    far = neighbourhoods(x + 100.0, label, centre, group, 5).margin
    assert np.nanstd(far) > 0.3 * np.nanstd(near)


def test_only_directions_count() -> None:
    x, label, centre, group = _world(60, 1.0)
    longer = x * np.random.default_rng(0).uniform(0.1, 10, (60, 1))
    assert neighbourhoods(longer, label, centre, group, 5).index == pytest.approx(
        neighbourhoods(x, label, centre, group, 5).index
    )


def test_resampled_anchors_are_anchors_written_out() -> None:
    x, label, centre, group = _world(60, 0.5, 0.5)
    found = neighbourhoods(x, label, centre, group, 7)
    weights = case_weights(np.zeros(30, dtype=np.int64), 20)[:, group]
    for counts, value in zip(weights, resampled_index(found, weights), strict=True):
        rows = np.repeat(np.arange(60), counts.astype(int))
        rows = rows[found.usable[rows]]
        so, os = found.same_other[rows].sum(), found.other_same[rows].sum()
        assert value == pytest.approx(so / (so + os))
    assert resampled_index(found, np.ones((1, 60)))[0] == pytest.approx(found.index)


def test_clusters_follow_what_is_planted() -> None:
    x, label, centre, _ = _world(200, class_effect=8.0)
    assert clustering_score(x, label, centre)[2] > 0.9
    x, label, centre, _ = _world(200, centre_effect=8.0)
    assert clustering_score(x, label, centre)[2] < -0.3


def test_what_cannot_be_measured_is_refused() -> None:
    x, label, centre, group = _world(20)
    with pytest.raises(DataError, match="30 neighbours"):
        neighbourhoods(x, label, centre, group, 30)
    x[3] = 0
    with pytest.raises(DataError, match="1 of 20 vectors are zero"):
        neighbourhoods(x, label, centre, group, 3)
