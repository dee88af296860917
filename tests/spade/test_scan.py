"""The elbow scan finds planted clusters and never does worse with more of them."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest

from spade_bench.encoders.spade.pretraining.elbow import STEP_2, scan_k
from spade_bench.encoders.spade.pretraining.pretrainconfig import ClusteringConfig
from spade_bench.errors import DataError

KS = (2, 4, 8, 16)
CONFIG = ClusteringConfig(k_organ=4, k_experts=4, n_init=3, max_iter=30)


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return 4 tight clusters in each of two organs."""
    rng = np.random.default_rng(seed)
    centres = 10 * rng.normal(size=(8, 5))
    points = centres[np.repeat(np.arange(8), 30)] + 0.1 * rng.normal(size=(240, 5))
    return points.astype(np.float32), np.repeat(["Breast", "Skin"], 120)


def test_the_curve_falls_to_nothing_at_the_planted_number(tmp_path):
    points, organ = planted()
    rows = scan_k(points, organ, tmp_path, config=CONFIG, ks=KS)
    for name in ("Breast", "Skin"):
        curve = {r.k: r.normalised for r in rows if r.organ == name}
        assert curve[1] == 1
        assert curve[2] > 0.05
        assert curve[4] < 0.001
    assert all(0 <= r.normalised <= 1 for r in rows)


def test_more_clusters_are_never_worse(tmp_path):
    rng = np.random.default_rng(1)
    rows = scan_k(
        rng.normal(size=(150, 6)), ["Breast"] * 150, tmp_path, config=CONFIG, ks=(4, 8, 16, 32)
    )
    values = [r.normalised for r in rows if r.step == 1]
    assert all(a > b for a, b in itertools.pairwise(values))


def test_step_2_clusters_the_centroids_of_all_organs(tmp_path):
    points, organ = planted()
    rows = [r for r in scan_k(points, organ, tmp_path, config=CONFIG, ks=KS) if r.step == 2]
    assert {r.organ for r in rows} == {STEP_2}
    assert {r.n for r in rows} == {8}  # two organs of k_organ = 4 centroids
    assert [r.k for r in rows] == [1, 2, 4, 8]  # 16 is above the number of points
    assert rows[-1].normalised == pytest.approx(0, abs=1e-6)


def test_csv_and_plot_are_written(tmp_path, capsys):
    points, organ = planted()
    rows = scan_k(points, organ, tmp_path, config=CONFIG, ks=KS)
    with (tmp_path / "scan_k.csv").open() as handle:
        read = list(csv.DictReader(handle))
    assert [(r["organ"], int(r["k"])) for r in read] == [(r.organ, r.k) for r in rows]
    assert [float(r["wcss"]) for r in read] == pytest.approx([r.wcss for r in rows])
    assert (tmp_path / "scan_k.png").read_bytes()[:4] == b"\x89PNG"
    assert "k=16" in capsys.readouterr().out


def test_the_scan_is_reproducible(tmp_path):
    points, organ = planted()
    first = scan_k(points, organ, tmp_path / "a", config=CONFIG, ks=KS, seed=3)
    assert first == scan_k(points, organ, tmp_path / "b", config=CONFIG, ks=KS, seed=3)


def test_bad_points_are_refused(tmp_path):
    points, organ = planted()
    with pytest.raises(DataError, match="2 organs"):
        scan_k(points, organ[:2], tmp_path, config=CONFIG)
    points[3, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        scan_k(points, organ, tmp_path, config=CONFIG)
