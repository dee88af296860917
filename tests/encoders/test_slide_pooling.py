"""Slide encoders without weights: pooling, layout, refusals, and a run on their vectors."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from spade_bench.cli.encode import encode
from spade_bench.doctor import check_encoder
from spade_bench.errors import ConfigError, DataError
from spade_bench.features.bags import find_bags, read_bag, write_features
from spade_bench.features.slidevectors import check_patches, patch_px, write_slide_vector
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions

D = 7
POOLS = {"mean-pool": np.mean, "std-pool": np.std, "max-pool": np.max}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_bag(root: Path, slide: str, n: int, encoder: str = "uni", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)).astype(np.float32)
    write_features(
        root / "20x_256px_0px_overlap" / f"features_{encoder}" / f"{slide}.h5",
        x,
        rng.integers(0, 5000, size=(n, 2)),
        slide_id=slide,
        encoder=encoder,
        attrs={"mpp": 0.5, "patch_size_level0": 512, "patch_size": 256},
    )
    return x


@pytest.mark.parametrize("name", POOLS)
def test_pooling_equals_numpy_in_any_order(name: str) -> None:
    encoder = encoders.get(name).load(LoadOptions(device="cpu"))
    rng = np.random.default_rng(1)
    x = (100 + rng.normal(size=(5000, D))).astype(np.float32)
    want = POOLS[name](x.astype(np.float64), axis=0)
    found = encoder.encode_slide(x)
    assert found.dtype == np.float32
    assert found.shape == (D,)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    np.testing.assert_allclose(encoder.encode_slide(x[rng.permutation(5000)]), found, rtol=1e-6)
    with pytest.raises(DataError, match="cannot be pooled"):
        encoder.encode_slide(x[:0])
    with pytest.raises(ConfigError, match="no weights"):
        encoders.get(name).load(LoadOptions(weights=Path("x")))


def test_encode_writes_tridents_slide_layout_and_skips_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = {s: write_bag(tmp_path / "in", s, n, seed=n) for s, n in (("a", 9), ("b", 1))}
    out = tmp_path / "out"
    encode(tmp_path / "in", out, encoder="mean-pool", device="cpu")
    for slide, x in bags.items():
        with h5py.File(out / "slide_features_mean-pool" / f"{slide}.h5") as file:
            assert file["features"].shape == (D,)
            np.testing.assert_allclose(file["features"][()], x.mean(axis=0), atol=1e-6)
            assert file["features"].attrs["encoder"] == "mean-pool"
            assert file["features"].attrs["upstream"] == "uni"
            assert file["coords"].shape == (len(x), 2)
    assert "2 slides encoded, 0 already there" in capsys.readouterr().out
    encode(tmp_path / "in", out, encoder="mean-pool", device="cpu")
    assert "0 slides encoded, 2 already there" in capsys.readouterr().out


def test_vectors_are_bags_of_one_row_and_never_mixed_with_patches(tmp_path: Path) -> None:
    x = write_bag(tmp_path, "a", 9)
    encode(tmp_path, tmp_path, encoder="mean-pool", device="cpu")
    assert read_bag(find_bags(tmp_path)["a"]).features.shape == (9, D)  # patches, as before
    assert read_bag(find_bags(tmp_path, "uni")["a"]).features.shape == (9, D)
    vector = find_bags(tmp_path, "mean-pool")["a"]
    alone = find_bags(tmp_path / "slide_features_mean-pool")["a"]
    assert vector == alone
    bag = read_bag(vector)
    assert bag.encoder == "mean-pool"
    assert bag.coords is None
    np.testing.assert_allclose(bag.features, x.mean(axis=0, keepdims=True), atol=1e-6)
    # TRIDENT's own file: bare, without attributes; the folder names the encoder.
    other = tmp_path / "slide_features_titan" / "a.h5"
    other.parent.mkdir()
    with h5py.File(other, "w") as file:
        file["features"] = np.ones(768, dtype=np.float32)
    assert read_bag(find_bags(tmp_path, "titan")["a"]).features.shape == (1, 768)


def test_a_bad_bag_does_not_stop_the_others(tmp_path: Path) -> None:
    write_bag(tmp_path / "in", "good", 4)
    path = tmp_path / "in" / "20x_256px_0px_overlap" / "features_uni" / "bad.h5"
    x = np.full((3, D), np.nan, dtype=np.float32)
    write_features(path, x, slide_id="bad", encoder="uni")
    with pytest.raises(DataError, match="1 feature files could not be encoded"):
        encode(tmp_path / "in", tmp_path / "out", encoder="max-pool", device="cpu")
    assert [p.stem for p in (tmp_path / "out").rglob("*.h5")] == ["good"]


def test_patches_of_another_encoder_or_size_are_refused(tmp_path: Path) -> None:
    write_bag(tmp_path, "a", 4)
    path = find_bags(tmp_path)["a"]
    bag, px = read_bag(path), patch_px(path)
    assert px == 256

    def card(upstream: str, side: int, mpp: float) -> EncoderCard:
        return EncoderCard(
            "s", "features", 5, "", level="slide", upstream=upstream, patch_px=side, mpp=mpp
        )

    assert check_patches(card("uni_v1", 256, 0.5), bag, px) == ()  # TRIDENT's name of it
    assert check_patches(card("any", 128, 1.0), bag, px) == ()  # the same field of view
    with pytest.raises(DataError, match=r"takes features of 'virchow', these are of 'uni'"):
        check_patches(card("virchow", 256, 0.5), bag, px)
    with pytest.raises(DataError, match=r"needs patches of 256 µm .* these are 128 µm") as caught:
        check_patches(card("uni", 512, 0.5), bag, px)
    assert "--mpp 1" in str(caught.value)
    assert check_patches(card("uni", 256, 0.5), bag, None) == ("the size of its patches",)


def test_a_vector_must_be_one_and_finite(tmp_path: Path) -> None:
    for vector in (np.ones((1, 3)), np.ones(0), np.array([1.0, np.nan])):
        with pytest.raises(DataError):
            write_slide_vector(tmp_path / "x.h5", vector, slide_id="x", encoder="e")
    assert not list(tmp_path.iterdir())


def test_the_checks_know_slide_encoders() -> None:
    findings = check_encoder("mean-pool", LoadOptions(device="cpu"))
    assert {f.check for f in findings} >= {"shape", "dtype", "independence of the patches' order"}
    assert not [f for f in findings if f.status == "fail"]
