from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from spade_bench.encoders.spade import kmeans
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.kmeans import fit_kmeans, nearest
from spade_bench.encoders.spade.pretraining import clustering
from spade_bench.encoders.spade.pretraining.clustering import fit_experts
from spade_bench.encoders.spade.pretraining.pretrainconfig import ClusteringConfig
from spade_bench.errors import DataError

CONFIG = ClusteringConfig(k_organ=4, k_experts=2, n_init=3)
RNG = np.random.default_rng(5)


def _blobs(n: int, k: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * 20
    label = rng.integers(k, size=n)
    return (centres[label] + rng.normal(size=(n, d))).astype(np.float32), label


def test_kmeans_finds_separated_blobs() -> None:
    points, label = _blobs(300, 5, 6)
    fit = fit_kmeans(points, 5, seed=0)
    assert adjusted_rand_score(label, fit.labels) == 1.0
    means = np.stack([points[fit.labels == c].mean(0) for c in range(5)])
    np.testing.assert_allclose(fit.centroids, means, atol=1e-3)
    assert fit.inertia == pytest.approx(((points - means[fit.labels]) ** 2).sum(), rel=1e-4)


def test_kmeans_subsamples_and_still_labels_every_point() -> None:
    points, label = _blobs(500, 3, 4)
    fit = fit_kmeans(points, 3, seed=0, max_points_per_centroid=20)
    assert len(fit.labels) == 500
    assert adjusted_rand_score(label, fit.labels) == 1.0
    full = fit_kmeans(points, 3, seed=0)
    assert np.abs(fit.centroids - full.centroids).max() > 1e-6  # it did look at fewer


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 5))
def test_kmeans_of_few_or_equal_points(n: int, k: int, distinct: int) -> None:
    points = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    points = points[np.arange(n) % (distinct + 1) % n]
    fit = fit_kmeans(points, k, seed=0)
    assert len(fit.centroids) == min(k, len(np.unique(points, axis=0)))
    assert set(fit.labels) == set(range(len(fit.centroids)))


def test_nearest_agrees_with_distances_far_from_the_origin() -> None:
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(200, 8)) + 1000).astype(np.float32)
    centroids = (rng.normal(size=(7, 8)) + 1000).astype(np.float32)
    distance = ((points[:, None].astype(float) - centroids[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(nearest(points, centroids), distance.argmin(1))


def _cohort() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, _ = _blobs(400, 8, 5)
    organ = np.where(np.arange(400) < 250, "Breast", "Liver")
    train = np.random.default_rng(1).random(400) < 0.8
    return points, organ, train


def test_two_steps_and_assignment_within_the_own_organ() -> None:
    points, organ, train = _cohort()
    experts, assigned = fit_experts(points, organ, CONFIG, seed=0, train=train)
    assert experts.centroids.shape == (8, 5)
    assert experts.centroid_organ == ("Breast",) * 4 + ("Liver",) * 4
    assert experts.n_experts == 2
    assert set(experts.centroid_expert) == {0, 1}
    own = np.array(experts.centroid_organ)[assigned.cluster]
    np.testing.assert_array_equal(own, organ)
    np.testing.assert_array_equal(assigned.expert, experts.centroid_expert[assigned.cluster])
    for i in range(0, 400, 7):
        rows = np.flatnonzero(np.array(experts.centroid_organ) == organ[i])
        distance = np.linalg.norm(experts.centroids[rows] - points[i], axis=1)
        assert assigned.cluster[i] == rows[distance.argmin()]


def test_held_out_spots_move_no_centroid() -> None:
    points, organ, train = _cohort()
    first, _ = fit_experts(points, organ, CONFIG, seed=0, train=train)
    changed = points.copy()
    changed[~train] += 100
    second, _ = fit_experts(changed, organ, CONFIG, seed=0, train=train)
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.centroid_expert, second.centroid_expert)


def test_same_seed_same_bits_and_organs_do_not_disturb_each_other() -> None:
    points, organ, train = _cohort()
    first, a = fit_experts(points, organ, CONFIG, seed=3, train=train)
    second, b = fit_experts(points, organ, CONFIG, seed=3, train=train)
    assert first.centroids.tobytes() == second.centroids.tobytes()
    np.testing.assert_array_equal(a.expert, b.expert)
    alone = organ == "Breast"
    breast, _ = fit_experts(points[alone], organ[alone], CONFIG, seed=3, train=train[alone])
    np.testing.assert_array_equal(breast.centroids, first.centroids[:4])


@pytest.mark.parametrize("space", ["expression", "joint"])
def test_other_spaces_route_by_mean_image_feature(space: str) -> None:
    rng = np.random.default_rng(0)
    programme = rng.integers(3, size=300)
    rates = rng.gamma(2.0, 2.0, size=(3, 40))
    expression = sparse.csr_matrix(np.log1p(rng.poisson(rates[programme])).astype(np.float32))
    image = rng.normal(size=(300, 6)).astype(np.float32)
    organ = np.full(300, "Breast")
    train = rng.random(300) < 0.8
    config = ClusteringConfig(k_organ=3, k_experts=3, space=space)
    experts, assigned = fit_experts(
        image, organ, config, seed=0, train=train, expression=expression
    )
    if space == "expression":
        assert adjusted_rand_score(programme[train], assigned.cluster[train]) > 0.9
    for c in range(3):
        members = train & (assigned.cluster == c)
        np.testing.assert_allclose(experts.centroids[c], image[members].mean(0), atol=1e-5)
    held_out = experts.assign(image[~train], organ[~train])
    np.testing.assert_array_equal(assigned.cluster[~train], held_out.cluster)


def test_expression_space_needs_expression() -> None:
    config = ClusteringConfig(space="expression")
    with pytest.raises(DataError, match="needs expression"):
        fit_experts(np.zeros((4, 2), np.float32), np.full(4, "a"), config)


def test_tiny_organs_are_capped_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    points, _ = _blobs(43, 4, 5)
    organ = np.array(["Breast"] * 40 + ["Liver"] * 3)
    config = ClusteringConfig(k_organ=8, k_experts=64)
    experts, _ = fit_experts(points, organ, config, seed=0)
    assert experts.centroid_organ.count("Liver") == 3
    assert experts.n_experts == 11
    said = capsys.readouterr().err
    assert "organ Liver: 3 training spots give 3 clusters instead of 8" in said
    assert "11 step-1 centroids give 11 experts instead of 64" in said


def test_an_unknown_organ_competes_for_all_centroids() -> None:
    points, organ, train = _cohort()
    experts, _ = fit_experts(points, organ, CONFIG, seed=0, train=train)
    free = experts.assign(points)
    foreign = experts.assign(points, np.full(400, "Skin"))
    np.testing.assert_array_equal(free.cluster, foreign.cluster)
    np.testing.assert_array_equal(free.cluster, nearest(points, experts.centroids))


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="3 features, 2 organs"):
        fit_experts(np.zeros((3, 2), np.float32), np.array(["a", "b"]), CONFIG)
    with pytest.raises(DataError, match="No training spot"):
        fit_experts(np.zeros((3, 2), np.float32), np.full(3, "a"), CONFIG, train=np.zeros(3, bool))
    with pytest.raises(DataError, match="do not belong together"):
        Experts(np.zeros((3, 2), np.float32), np.zeros(2, np.int64), ("", "", ""), 1)
    with pytest.raises(DataError, match=r"0\.\.1"):
        Experts(np.zeros((1, 2), np.float32), np.array([2]), ("",), 2)


def test_rows_of_a_map_cluster_as_a_copy_of_them_does(tmp_path: Path) -> None:
    x = RNG.normal(size=(20_000, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.sort(RNG.choice(len(x), 9_000, replace=False))
    for cap in (50_000, 500):  # all of them, and a subsample
        one = fit_kmeans(mapped, 4, seed=3, max_points_per_centroid=cap, rows=rows)
        other = fit_kmeans(x[rows], 4, seed=3, max_points_per_centroid=cap)
        assert np.array_equal(one.centroids, other.centroids)
        assert np.array_equal(one.labels, other.labels)
        assert one.inertia == other.inertia
    assert np.array_equal(x, mapped)


def test_what_is_fitted_stays_within_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=(20_000, 5)).astype(np.float32)
    asked: list[int] = []
    taken = kmeans._taken
    monkeypatch.setattr(kmeans, "FIT_BYTES", 4 * 5 * 3_000)
    monkeypatch.setattr(
        kmeans, "_taken", lambda points, rows: (asked.append(len(rows)), taken(points, rows))[1]
    )
    fit = fit_kmeans(x, 4, seed=0)
    assert asked == [3_000]
    assert len(fit.labels) == len(x)


def test_the_joint_space_is_what_it_is_of_all_points_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clustering, "_BLOCK", 100)
    monkeypatch.setattr(clustering, "_SCRATCH_BYTES", 1)  # in a file
    x = (3 + RNG.normal(size=(1_050, 6))).astype(np.float32)
    counts = sparse.csr_matrix(RNG.poisson(1.0, size=(1_050, 90)).astype(np.float32))
    rows = np.sort(RNG.choice(1_050, 777, replace=False))
    joint, places = clustering.space_points(x, counts, rows, "joint", 0)
    assert np.array_equal(places, np.arange(777))
    centred = x[rows] - x[rows].mean(axis=0, dtype=np.float64)
    scaled = (centred / np.sqrt((centred**2).sum(axis=1).mean())).astype(np.float32)
    assert np.array_equal(joint[:, :6], scaled)
    assert joint[:, 6:].var(axis=0).sum() == pytest.approx(1, rel=1e-4)
