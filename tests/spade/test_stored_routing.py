"""`encode --with-routing`: what is stored, who reads it, and when a file is made again."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import run_main

import spade_bench as sb
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.routing import ROUTINGS
from spade_bench.errors import ConfigError, DataError, UserError
from spade_bench.features.bags import read_bag, write_features
from spade_bench.features.routinggroup import (
    ALL_UP_TO,
    GROUP,
    LARGEST,
    has_routing,
    read_routing,
    routing_of,
)
from spade_bench.types import Bag, EncoderCard

D, P, K = 6, 8, 3


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save_model(folder: Path, n_experts: int = K, per_expert: int = 2) -> Path:
    rng = np.random.default_rng(0)
    n = n_experts * per_expert
    table = Experts(
        rng.normal(size=(n, D)).astype(np.float32), np.arange(n) % n_experts, ("",) * n, n_experts
    )
    pairs = {e: ExpertPair.create(D, 4, P, seed=0, expert=e) for e in range(n_experts)}
    info = ModelInfo(base_encoder="base", tau=0.5, pretrained_on=("HEST-1k",))
    SpadeModel(info, table, ["A", "B", "C", "D"], pairs).save(folder)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_model(tmp_path / "spade")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for i, n in enumerate((30, 20)):
        write_features(
            tmp_path / "features_base" / f"S{i}.h5",
            rng.normal(size=(n, D)),
            rng.integers(0, 5000, size=(n, 2)),
            slide_id=f"S{i}",
            encoder="base",
            attrs={"mpp": 0.5, "patch_size_level0": 448},
        )
    return tmp_path / "features_base"


def brute_force(model: SpadeModel, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest expert and distance in float64, one patch at a time."""
    expert, distance = [], []
    for row in x.astype(np.float64):
        d = np.linalg.norm(model.experts.centroids.astype(np.float64) - row, axis=1)
        expert.append(model.experts.centroid_expert[d.argmin()])
        distance.append(d.min())
    return np.array(expert), np.array(distance)


@pytest.mark.parametrize("mode", ROUTINGS)
def test_what_is_stored_is_what_routes(weights, base, tmp_path, mode):
    sb.encode(base, "spade", out=tmp_path, weights=weights, routing=mode, with_routing=True)
    model = SpadeModel.load(weights, device="cpu")
    x = read_bag(base / "S0.h5").features
    found = read_routing(tmp_path / "features_spade" / "S0.h5")
    expert, distance = brute_force(model, x)
    np.testing.assert_array_equal(found.expert, expert)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-4)
    used = model.route(x, "mean" if mode == "concat" else mode)
    np.testing.assert_allclose(found.weights, used, atol=3e-4)
    np.testing.assert_allclose(np.asarray(found.weights, float).sum(axis=1), 1, atol=2e-3)
    safe = np.where(used > 0, used, 1).astype(float)
    np.testing.assert_allclose(found.entropy, -(used * np.log(safe)).sum(axis=1), atol=1e-5)
    assert (found.mode, found.n_experts) == (mode, K)
    if mode == "soft":  # with K experts of several centroids the two may differ, but rarely
        assert (used.argmax(axis=1) == expert).mean() > 0.8
    if mode == "hard":
        np.testing.assert_array_equal(used.argmax(axis=1), expert)


def test_shares_sum_to_one(weights):
    x = np.random.default_rng(5).normal(size=(200, D)).astype(np.float32)
    routing = sb.encode(Bag("S", x), "spade", weights=weights, with_routing=True).routing
    assert routing.shares().sum() == pytest.approx(1)
    np.testing.assert_array_equal(
        routing.shares(), [(routing.expert == e).mean() for e in range(K)]
    )


def test_of_many_experts_the_largest_weights_are_kept(tmp_path):
    many = ALL_UP_TO + 8
    model = SpadeModel.load(save_model(tmp_path / "many", many, 1), device="cpu")
    x = np.random.default_rng(2).normal(size=(25, D)).astype(np.float32)
    weights = model.route(x)
    found = routing_of(weights, *model.nearest(x))
    assert found.weights.shape == found.kept.shape == (25, LARGEST)
    order = np.argsort(-weights, axis=1)[:, :LARGEST]
    np.testing.assert_array_equal(found.kept, order)
    for expert in range(many):
        kept = (order == expert).any(axis=1)
        expected = np.where(kept, weights[:, expert], 0)
        np.testing.assert_allclose(found.weight_of(expert), expected, atol=3e-4)
    # The entropy is that of all weights, those that were not kept included.
    whole = weights.astype(float)
    np.testing.assert_allclose(found.entropy, -(whole * np.log(whole)).sum(axis=1), atol=1e-5)
    path = write_features(tmp_path / "S.h5", x, slide_id="S", encoder="e", routing=found)
    np.testing.assert_array_equal(read_routing(path).kept, order)


def test_a_file_without_routing_is_completed_and_one_with_it_serves_both(weights, base, tmp_path):
    def encode(**more):
        return sb.encode(base, "spade", out=tmp_path, weights=weights, **more)

    path = tmp_path / "features_spade" / "S0.h5"
    assert set(encode().written) == {"S0", "S1"}
    assert not has_routing(path)
    before = read_bag(path).features
    assert set(encode(with_routing=True).written) == {"S0", "S1"}
    assert has_routing(path)
    np.testing.assert_array_equal(read_bag(path).features, before)
    stamp = path.stat().st_mtime_ns
    assert set(encode(with_routing=True).skipped) == {"S0", "S1"}
    assert set(encode().skipped) == {"S0", "S1"}  # and nothing is taken away
    assert path.stat().st_mtime_ns == stamp
    assert set(encode(with_routing=True, routing="hard").written) == {"S0", "S1"}
    assert read_routing(path).mode == "hard"


def test_readers_that_do_not_ask_see_the_same_bag(weights, base, tmp_path):
    for name, asked in (("with", True), ("without", False)):
        sb.encode(base, "spade", out=tmp_path / name, weights=weights, with_routing=asked)
    a, b = (read_bag(tmp_path / n / "features_spade" / "S0.h5") for n in ("with", "without"))
    np.testing.assert_array_equal(a.features, b.features)
    assert (a.routing, a.identity, a.encoder) == (None, b.identity, b.encoder)
    assert read_routing(tmp_path / "without" / "features_spade" / "S0.h5") is None
    assert read_routing(base / "S0.h5") is None


def test_a_file_encoded_from_one_with_routing_carries_nothing_of_it(weights, base, tmp_path):
    sb.encode(base, "spade", out=tmp_path, weights=weights, with_routing=True)
    sb.encode(tmp_path / "features_spade", Copies(), out=tmp_path / "again")
    with h5py.File(next((tmp_path / "again").rglob("S0.h5"))) as file:
        assert GROUP not in file
        assert not {"schema", "n_experts", "mode"} & set(file["features"].attrs)


class Copies:
    """An encoder of features that returns them."""

    dim = P
    card = EncoderCard(
        name="copies", input="features", dim=P, description="As they are.", upstream="any",
        licence="MIT", pretrained_on=(),
    )  # fmt: skip

    def encode(self, features):
        return features


def test_an_encoder_without_experts_says_so(base, tmp_path):
    with pytest.raises(ConfigError, match="sends patches to no experts"):
        sb.encode(base, "mean-pool", out=tmp_path, with_routing=True)
    bag = read_bag(base / "S0.h5")
    with pytest.raises(ConfigError, match="mixture of experts such as spade"):
        sb.encode(bag, "mean-pool", with_routing=True)


def test_an_array_has_no_place_for_routing(weights):
    with pytest.raises(UserError, match="no place for routing"):
        sb.encode(np.zeros((2, D), np.float32), "spade", weights=weights, with_routing=True)


def test_an_anndata_gets_columns(weights, base):
    data = read_bag(base / "S0.h5").to_anndata()
    data.obs["mine"] = range(data.n_obs)
    out = sb.encode(data, "spade", weights=weights, with_routing=True)
    bag = sb.encode(read_bag(base / "S0.h5"), "spade", weights=weights, with_routing=True)
    np.testing.assert_array_equal(out.obs["expert"].astype(int), bag.routing.expert)
    np.testing.assert_array_equal(out.obs["expert_distance"], bag.routing.distance)
    assert list(out.obs["mine"]) == list(range(data.n_obs))
    assert "expert" not in sb.encode(data, "spade", weights=weights).obs


def shorten(group: h5py.Group) -> None:
    for name in ("expert", "distance", "entropy", "weights"):
        values = group[name][:-1]
        del group[name]
        group[name] = values


def replaced(group: h5py.Group, name: str, values: object) -> None:
    if name in group:
        del group[name]
    group[name] = values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.attrs.__setitem__("schema", "spade-bench/routing/9"), "schema"),
        (lambda g: g.__delitem__("distance"), "lacks 'distance'"),
        (lambda g: g["expert"].__setitem__(0, K), "does not fit"),
        (lambda g: g.attrs.__setitem__("n_experts", 2), "does not fit"),
        (shorten, "speaks of"),
        (lambda g: g.attrs.__delitem__("n_experts"), "does not say the number of experts"),
        (lambda g: g.attrs.__setitem__("n_experts", "many"), "does not say the number of experts"),
        (lambda g: g.attrs.__setitem__("n_experts", 0), "does not say the number of experts"),
        (lambda g: replaced(g, "kept", np.zeros(30, np.int16)), r"damaged: 'kept' has the shape"),
        (lambda g: replaced(g, "kept", np.zeros((30, K))), "damaged: 'kept' holds float64"),
        (lambda g: replaced(g, "weights", np.ones(30)), "damaged: 'weights' has the shape"),
        (
            lambda g: replaced(g, "expert", np.zeros((30, 1), int)),
            "damaged: 'expert' has the shape",
        ),
        (lambda g: replaced(g, "entropy", np.float32(1)), "damaged: 'entropy' has the shape"),
        (lambda g: replaced(g, "expert", np.zeros(30)), "damaged: 'expert' holds float64"),
        (lambda g: replaced(g, "distance", [b"far"] * 30), "damaged: 'distance' holds"),
        (lambda g: replaced(g, "weights", np.full((30, K), 1j)), "'weights' holds complex128"),
        *(
            (lambda g, n=n: g[n].__setitem__(0, np.nan), f"damaged: '{n}' holds NaN")
            for n in ("distance", "entropy", "weights")
        ),
    ],
)
def test_routing_that_does_not_fit_is_named_and_made_again(weights, base, tmp_path, change, words):
    def encode():
        return sb.encode(base, "spade", out=tmp_path, weights=weights, with_routing=True)

    encode()
    path = tmp_path / "features_spade" / "S0.h5"
    with h5py.File(path, "r+") as file:
        change(file[GROUP])
    with pytest.raises(DataError, match=words) as caught:
        read_routing(path)
    assert "--with-routing" in str(caught.value)
    read_bag(path)  # the features themselves are sound
    assert set(encode().written) == {"S0"}
    assert read_routing(path) is not None


def test_a_slide_without_patches_is_left_alone(weights, tmp_path):
    root = tmp_path / "features_base"
    write_features(root / "E.h5", np.empty((0, D)), slide_id="E", encoder="base")
    write_features(root / "F.h5", np.ones((3, D)), slide_id="F", encoder="base")
    for _ in range(2):
        done = sb.encode(root, "spade", out=tmp_path, weights=weights, with_routing=True)
        assert done.failed == ()
    assert set(done.skipped) == {"E", "F"}


def test_the_command_line_stores_it(weights, base, tmp_path):
    arguments = ["encode", "--weights", "spade", "--features", "features_base", "--out", "."]
    assert run_main(*arguments, "--with-routing") == 0
    assert has_routing(tmp_path / "features_spade" / "S1.h5")


@pytest.mark.parametrize("mode", ROUTINGS)
def test_the_file_says_whether_the_nearest_expert_is_where_patches_went(weights, base, mode):
    code = run_main("encode", "--weights", weights, "--features", base, "--out", "out",
                    "--routing", mode, "--with-routing", "--device", "cpu")  # fmt: skip
    assert code == 0
    path = next(Path("out").rglob("S0.h5"))
    routing = read_routing(path)
    used = np.asarray(routing.weights, dtype=np.float32)
    leads = (used.argmax(axis=1) == routing.expert) & (np.sort(used)[:, -1] > np.sort(used)[:, -2])
    with h5py.File(path, "r") as file:
        stored = float(file[GROUP].attrs["nearest_leads"])
    assert stored == pytest.approx(leads.mean())
    expected = {"hard": (1, 1), "mean": (0, 0), "concat": (0, 0), "random": (0, 0.7)}
    low, high = expected.get(mode, (0.5, 1))
    assert low <= stored <= high
