"""`encode` carries everything through, skips what is done, and refuses foreign features."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from spade_bench.cli.encode import encode
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.errors import ConfigError, DataError, WeightsError, machine_fault
from spade_bench.features.bags import find_bags, read_bag, write_features
from spade_bench.registry import encoders
from spade_bench.types import FeatureEncoder, LoadOptions

D, G, P, K = 12, 9, 8, 3
LAYOUT = "20x_224px_0px_overlap"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no workspace file of the developer's is picked up


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write a small model and return its folder."""
    rng = np.random.default_rng(0)
    table = Experts(rng.normal(size=(K, D)).astype(np.float32), np.arange(K), ("",) * K, K)
    pairs = {e: ExpertPair.create(D, G, P, seed=0, expert=e) for e in range(K)}
    info = ModelInfo(base_encoder="base", tau=0.5, pretrained_on=("HEST-1k",))
    model = SpadeModel(info, table, [f"G{i}" for i in range(G)], pairs)
    model.save(tmp_path / "spade")
    return tmp_path / "spade"


def write_bag(root: Path, slide: str, n: int = 20, *, encoder: str = "base", seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    return write_features(
        root / LAYOUT / f"features_{encoder}" / f"{slide}.h5",
        rng.normal(size=(n, D)),
        rng.integers(0, 5000, size=(n, 2)),
        slide_id=slide,
        encoder=encoder,
        barcodes=[f"spot{i}" for i in range(n)],
        attrs={"mpp": 0.5, "patch_size_level0": 448, "level0_width": 9000, "patch_size": 224},
    )


def load(weights: Path, **options) -> FeatureEncoder:
    return encoders.get("spade").load(LoadOptions(weights=weights, device="cpu", options=options))


def test_the_registry_loads_a_folder_and_its_card_says_what_it_is(weights):
    encoder = load(weights)
    assert isinstance(encoder, FeatureEncoder)
    assert (encoder.card.dim, encoder.card.upstream) == (P, "base")
    assert encoder.card.pretrained_on == ("HEST-1k",)
    assert load(weights, routing="concat").dim == K * P


@pytest.mark.parametrize("routing", ["soft", "hard", "mean", "random", "concat"])
def test_features_are_those_of_the_model(weights, tmp_path, routing):
    write_bag(tmp_path / "base", "A")
    encode(tmp_path / "base", tmp_path / "out", weights=weights, routing=routing_of(routing))
    written = read_bag(tmp_path / "out" / LAYOUT / "features_spade" / "A.h5")
    x = read_bag(tmp_path / "base" / LAYOUT / "features_base" / "A.h5").features
    expected = SpadeModel.load(weights, device="cpu").encode(x, routing)
    np.testing.assert_allclose(written.features, expected, rtol=1e-5, atol=1e-5)


def routing_of(name: str):
    from spade_bench.cli.encode import Routing

    return Routing(name)


def test_tau_reaches_the_model(weights, tmp_path):
    write_bag(tmp_path / "base", "A")
    encode(tmp_path / "base", tmp_path / "a", weights=weights, tau=5.0)
    encode(tmp_path / "base", tmp_path / "b", weights=weights)
    a, b = (read_bag(next((tmp_path / n).rglob("A.h5"))).features for n in "ab")
    x = read_bag(next((tmp_path / "base").rglob("A.h5"))).features
    model = SpadeModel.load(weights, device="cpu")
    np.testing.assert_allclose(a, model.encode(x, tau=5.0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(b, model.encode(x, tau=0.5), rtol=1e-5, atol=1e-5)
    assert np.abs(a - b).max() > 1e-3


def test_batches_do_not_change_the_result(weights):
    x = np.random.default_rng(1).normal(size=(50, D)).astype(np.float16)
    whole, parts = load(weights).encode(x), load(weights, batch=7).encode(x)
    assert whole.dtype == np.float32
    assert whole.shape == (50, P)
    np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-6)


def test_coordinates_barcodes_and_attributes_are_carried_through(weights, tmp_path):
    source = write_bag(tmp_path / "base", "A")
    encode(tmp_path / "base", tmp_path / "out", weights=weights)
    before, after = read_bag(source), read_bag(next((tmp_path / "out").rglob("A.h5")))
    np.testing.assert_array_equal(before.coords, after.coords)
    assert after.barcodes == before.barcodes
    assert after.slide_id == "A"
    assert (after.mpp, after.patch_size_level0, after.encoder) == (0.5, 448, "spade")
    with h5py.File(next((tmp_path / "out").rglob("A.h5"))) as file:
        assert file["coords"].attrs["level0_width"] == 9000
        assert file["features"].attrs["upstream"] == "base"
        assert file["features"].attrs["recipe_routing"] == "soft"
        assert file["features"].chunks is None


@pytest.mark.parametrize("start", [".", LAYOUT, f"{LAYOUT}/features_base"])
def test_the_layout_is_the_same_wherever_the_search_starts(weights, tmp_path, start):
    write_bag(tmp_path / "base", "A")
    encode(tmp_path / "base" / start, tmp_path / "out", weights=weights)
    assert [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.h5")] \
        == [f"{LAYOUT}/features_spade/A.h5"]  # fmt: skip


def test_plain_arrays_are_taken_too(weights, tmp_path):
    (tmp_path / "bags" / "siteA").mkdir(parents=True)
    np.save(tmp_path / "bags" / "siteA" / "case1.npy", np.zeros((4, D), dtype=np.float32))
    encode(tmp_path / "bags", tmp_path / "out", weights=weights)
    assert read_bag(tmp_path / "out" / "features_spade" / "siteA" / "case1.h5").coords is None


def test_finished_bags_are_skipped_and_changed_ones_encoded_again(weights, tmp_path, capsys):
    for slide in "AB":
        write_bag(tmp_path / "base", slide)
    encode(tmp_path / "base", tmp_path / "out", weights=weights)
    first = {p.stem: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.h5")}
    write_bag(tmp_path / "base", "B", seed=5)
    encode(tmp_path / "base", tmp_path / "out", weights=weights)
    assert "1 bags encoded, 1 already there" in capsys.readouterr().out
    second = {p.stem: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.h5")}
    assert first["A"] == second["A"]
    assert first["B"] != second["B"]
    encode(tmp_path / "base", tmp_path / "out", weights=weights, tau=2.0)
    assert "2 bags encoded, 0 already there" in capsys.readouterr().out


def test_features_of_another_encoder_are_refused(weights, tmp_path):
    write_bag(tmp_path / "other", "A", encoder="uni")
    with pytest.raises(DataError, match="'base', only of uni"):
        encode(tmp_path / "other", tmp_path / "out", weights=weights)
    assert not (tmp_path / "out").exists()


def test_the_base_features_are_picked_among_several_encoders(weights, tmp_path):
    write_bag(tmp_path / "all", "A", encoder="uni", seed=1)
    write_bag(tmp_path / "all", "A", encoder="base", seed=2)
    encode(tmp_path / "all", tmp_path / "all", weights=weights)  # beside them
    assert set(find_bags(tmp_path / "all", "spade")) == {"A"}
    x = read_bag(tmp_path / "all" / LAYOUT / "features_base" / "A.h5").features
    expected = SpadeModel.load(weights, device="cpu").encode(x)
    written = read_bag(tmp_path / "all" / LAYOUT / "features_spade" / "A.h5").features
    np.testing.assert_allclose(written, expected, rtol=1e-5, atol=1e-5)


def test_a_bad_file_gives_its_line_and_the_rest_go_on(weights, tmp_path, capsys):
    write_bag(tmp_path / "base", "A")
    folder = tmp_path / "base" / LAYOUT / "features_base"
    (folder / "broken.h5").write_bytes(b"not hdf5")
    write_features(folder / "narrow.h5", np.zeros((3, 4)), slide_id="narrow", encoder="base")
    nan = np.full((3, D), np.nan)
    write_features(folder / "nan.h5", nan, slide_id="nan", encoder="base")
    with pytest.raises(DataError, match="3 feature files could not be encoded"):
        encode(tmp_path / "base", tmp_path / "out", weights=weights)
    assert [p.stem for p in (tmp_path / "out").rglob("*.h5")] == ["A"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 3
    for line, name in zip(sorted(lines), ("broken", "nan", "narrow"), strict=False):
        assert any(name in other for other in lines), line


def test_a_slide_without_patches_stays_one(weights, tmp_path):
    folder = tmp_path / "base" / LAYOUT / "features_base"
    write_features(folder / "E.h5", np.empty((0, D)), np.empty((0, 2)), slide_id="E",
                   encoder="base")  # fmt: skip
    encode(tmp_path / "base", tmp_path / "out", weights=weights)
    assert read_bag(next((tmp_path / "out").rglob("E.h5"))).features.shape == (0, P)


def test_mistakes_are_explained(weights, tmp_path):
    write_bag(tmp_path / "base", "A")
    with pytest.raises(WeightsError, match="no weights of its own"):
        encode(tmp_path / "base", tmp_path / "out")
    with pytest.raises(WeightsError, match=r"spade.json"):
        encode(tmp_path / "base", tmp_path / "out", weights=tmp_path / "base")
    with pytest.raises(ConfigError, match="tau"):
        encode(tmp_path / "base", tmp_path / "out", weights=weights, tau=-1.0)
    with pytest.raises(ConfigError, match=r"Unknown option 'routng'.*'routing'"):
        load(weights, routng="soft")
    with pytest.raises(ConfigError, match=r"unknown routing 'sotf'.*'soft'"):
        load(weights, routing="sotf")
    with pytest.raises(ConfigError, match="encodes images"):
        encode(tmp_path / "base", tmp_path / "out", encoder="efficientnet-lite0")


def test_the_workspace_fills_in_the_weights(weights, tmp_path):
    (tmp_path / "spade-bench.yaml").write_text(
        "device: cpu\nencoders:\n  spade: {weights: spade, options: {routing: hard}}\n"
    )
    write_bag(tmp_path / "base", "A")
    encode(tmp_path / "base", tmp_path / "out")
    with h5py.File(next((tmp_path / "out").rglob("A.h5"))) as file:
        assert file["features"].attrs["recipe_routing"] == "hard"


@pytest.mark.parametrize("name", ["spade", "mean-pool"])
def test_a_place_that_cannot_be_written_is_said_once(weights, tmp_path, name, capsys):
    for slide in "ABC":
        write_bag(tmp_path / "base", slide)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match=r"directory|exists") as caught:
        encode(
            tmp_path / "base",
            tmp_path / "out",
            encoder=name,
            weights=weights if name == "spade" else None,
        )
    assert machine_fault(caught.value) is not None
    assert "warning" not in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "a file"
