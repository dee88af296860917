"""Extraction end to end with a small encoder whose features are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from spade_bench.errors import UserError
from spade_bench.extraction import (
    EncoderSource,
    Settings,
    extract_hest,
    extract_patch_folders,
    extract_slides,
    group_patches,
)
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.spatial import StSample
from spade_bench.types import EncoderCard, LoadOptions, Normalisation

Writer = Callable[..., Path]
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class MeanColour:
    """Mean colour of each patch, and how often it was called."""

    def __init__(self, revision: str = "1") -> None:
        self.card = EncoderCard(
            "mean", "image", 3, "mean colour", patch_px=32, mpp=0.5, normalisation=HALF,
            crop_pct=0.875, revision=revision,
        )  # fmt: skip
        self.sizes: list[int] = []

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (32, 32, 3)
        self.sizes.append(len(images))
        return torch.as_tensor(np.asarray(images)).float().mean(dim=(1, 2))


def _section(seed: int = 0) -> np.ndarray:
    """Glass with a purple rectangle whose colour drifts, (300, 500, 3) uint8."""
    rng = np.random.default_rng(seed)
    pixels = 243 + rng.integers(-3, 4, (300, 500, 3))
    ramp = np.linspace(0, 60, 320)[None, :, None]
    pixels[60:260, 100:420] = np.array([150, 80, 150]) + ramp + rng.integers(-9, 10, (200, 320, 1))
    return pixels.astype(np.uint8)


@pytest.fixture
def slides(tmp_path: Path, write_slide: Writer) -> Path:
    for k in range(3):
        write_slide(tmp_path / "slides" / f"s{k}.tif", _section(k))
    return tmp_path / "slides"


def test_slides_become_bags_of_their_own_pixels(slides: Path, tmp_path: Path) -> None:
    encoder = MeanColour()
    done = extract_slides(slides, encoder, tmp_path / "out", settings=Settings(batch_size=7))
    assert done.failed == {}
    assert max(encoder.sizes) <= 7
    assert done.folder == tmp_path / "out" / "20x_32px_0px_overlap" / "features_mean"
    bags = find_bags(tmp_path / "out", "mean")
    assert list(bags) == ["s0", "s1", "s2"]
    for k, path in enumerate(bags.values()):
        bag = read_bag(path)
        assert bag.coords is not None
        assert (bag.patch_size_level0, bag.mpp) == (32, 0.5)
        assert done.done[f"s{k}"] == len(bag.features) > 40
        pixels = _section(k).astype(float)
        want = [pixels[y : y + 32, x : x + 32].mean(axis=(0, 1)) for x, y in bag.coords]
        assert np.abs(bag.features - np.array(want)).max() < 1e-3
        inside = bag.coords[(bag.coords >= (96, 64)).all(1) & (bag.coords < (384, 224)).all(1)]
        assert len(inside) == 9 * 5  # every patch on the rectangle is there
    assert (tmp_path / "out" / "20x_32px_0px_overlap" / "visualization" / "s0.jpg").is_file()


def test_batches_and_workers_do_not_change_features(slides: Path, tmp_path: Path) -> None:
    found = []
    for name, settings in (("a", Settings(batch_size=1, workers=1)), ("b", Settings(workers=5))):
        extract_slides(slides, MeanColour(), tmp_path / name, settings=settings)
        found.append({k: read_bag(p) for k, p in find_bags(tmp_path / name).items()})
    for slide, bag in found[0].items():
        assert np.array_equal(bag.features, found[1][slide].features)


def test_finished_slides_are_kept_and_stale_ones_redone(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_slides(slides, MeanColour(), out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    encoder = MeanColour()
    again = extract_slides(slides, encoder, out, settings=Settings(batch_size=3, workers=1))
    assert len(again.skipped) == 3
    assert encoder.sizes == []
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    agreed = LoadOptions(options={"trust_remote_code": True})  # no other features for it
    consenting = EncoderSource(MeanColour(), agreed)
    assert len(extract_slides(slides, consenting, out).skipped) == 3
    next(out.rglob("s1.h5")).write_bytes(b"torn")
    assert list(extract_slides(slides, MeanColour(), out).done) == ["s1"]
    assert len(extract_slides(slides, MeanColour("2"), out).done) == 3
    stricter = Settings(min_tissue=0.9)
    assert len(extract_slides(slides, MeanColour("2"), out, settings=stricter).done) == 3


def test_bad_slides_cost_one_line_each(
    slides: Path, tmp_path: Path, write_slide: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    (slides / "broken.svs").write_bytes(b"no slide")
    write_slide(slides / "tiny.tif", _section()[:16, :16])
    write_slide(slides / "nompp.tif", _section(), mpp=None)
    write_slide(slides / "coarse.tif", _section(), mpp=4.0)
    write_slide(slides / "glass.tif", np.full((200, 200, 3), 245, np.uint8))
    done = extract_slides(slides, MeanColour(), tmp_path / "out")
    assert list(done.done) == ["s0", "s1", "s2"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert len(lines) == len(done.failed) == 5
    for name, reason in {
        "broken": "cannot be opened",
        "tiny": "is too small",
        "nompp": "--assume-mpp",
        "coarse": "too coarse: 4 µm/px",
        "glass": "no tissue",
    }.items():
        assert reason in done.failed[name]
        assert done.failed[name].startswith(name)
    assert "5 failed" in done.line()
    assumed = extract_slides(
        slides, MeanColour(), tmp_path / "out", settings=Settings(assume_mpp=0.5)
    )
    assert list(assumed.done) == ["nompp"]
    assert len(assumed.skipped) == 3  # slides that know their resolution are not made again


def test_a_bug_in_an_encoder_is_not_hidden_as_a_bad_slide(slides: Path, tmp_path: Path) -> None:
    class Broken(MeanColour):
        def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        extract_slides(slides, Broken(), tmp_path / "out")

    class Infinite(MeanColour):
        def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
            return super().encode(images) / 0

    done = extract_slides(slides, Infinite(), tmp_path / "out")
    assert "patches have features that are not finite" in done.failed["s0"]
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_shards_share_the_work(slides: Path, tmp_path: Path) -> None:
    parts = [
        extract_slides(slides, MeanColour(), tmp_path / "out", settings=Settings(shard=(i, 2)))
        for i in range(2)
    ]
    assert [list(part.done) for part in parts] == [["s0", "s2"], ["s1"]]


def test_overlap_and_resolution_change_the_grid(slides: Path, tmp_path: Path) -> None:
    plain = extract_slides(slides, MeanColour(), tmp_path)
    half = extract_slides(slides, MeanColour(), tmp_path, settings=Settings(overlap=16))
    assert half.folder.parent.name == "20x_32px_16px_overlap"
    assert half.done["s0"] > 3 * plain.done["s0"]
    coarse = extract_slides(slides, MeanColour(), tmp_path, settings=Settings(mpp=1.0))
    assert coarse.folder.parent.name == "10x_32px_0px_overlap"
    assert read_bag(coarse.folder / "s0.h5").patch_size_level0 == 64


def test_spots_carry_barcodes(tmp_path: Path, write_slide: Writer) -> None:
    var = pd.DataFrame(index=["A", "B"])
    data = anndata.AnnData(X=np.ones((20, 2), np.float32), var=var)
    centres = np.stack([np.arange(20) * 12.0 + 120, np.full(20, 150.0)], axis=1)
    data.obsm["spatial"] = centres
    data.obs_names = [f"b{i}" for i in range(20)]
    data.write_h5ad(tmp_path / "x.h5ad")
    image = write_slide(tmp_path / "x.tif", _section())
    sample = StSample("x", h5ad=tmp_path / "x.h5ad", image=image, pixel_size_um=0.5)
    missing = StSample("y", h5ad=tmp_path / "x.h5ad", image=tmp_path / "none.tif")
    done = extract_hest([missing, sample], MeanColour(), tmp_path / "out")
    assert (list(done.done), list(done.failed)) == (["x"], ["y"])
    bag = read_bag(done.folder / "x.h5")
    assert bag.barcodes == tuple(data.obs_names)
    assert bag.coords is not None
    assert np.array_equal(bag.coords, centres.astype(int) - 16)
    with h5py.File(done.folder / "x.h5") as file:
        assert file["barcode"].shape == (20,)


def test_patch_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, 36, 36, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        path = tmp_path / "p" / "s" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    groups, _ = group_patches(tmp_path / "p")
    done = extract_patch_folders(groups, MeanColour(), tmp_path / "out")
    bag = read_bag(done.folder / "s.h5")
    assert np.allclose(bag.features, images[:, 2:34, 2:34].mean(axis=(1, 2)), atol=1e-3)
    assert bag.mpp is None
    (tmp_path / "p" / "t").mkdir()
    (tmp_path / "p" / "t" / "0.png").write_bytes(b"bad")
    groups, _ = group_patches(tmp_path / "p")
    done = extract_patch_folders(groups, MeanColour(), tmp_path / "out")
    assert done.skipped == ("s",)
    assert done.failed["t"] == "t: 0.png: not a readable image (unknown format)."


def test_settings_and_encoders_that_cannot_work_are_refused(slides: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--min-tissue"):
        extract_slides(slides, MeanColour(), tmp_path, settings=Settings(min_tissue=2))
    with pytest.raises(UserError, match="--assume-mpp"):
        extract_slides(slides, MeanColour(), tmp_path, settings=Settings(assume_mpp=-1))
    features = MeanColour()
    features.card = EncoderCard("f", "features", 3, "of features")
    with pytest.raises(UserError, match="encodes features, not images"):
        extract_slides(slides, features, tmp_path)


def test_a_named_encoder_is_loaded_only_when_needed(slides: Path, tmp_path: Path) -> None:
    from spade_bench import plugins

    plugins.install()
    options = LoadOptions(device="cpu")
    found = extract_slides(slides, "random-lite0", tmp_path / "out", options=options)
    assert list(found.done) == ["s0", "s1", "s2"]
    assert read_bag(found.folder / "s0.h5").features.shape == (found.done["s0"], 1280)
    absent = LoadOptions(device="cpu", weights=tmp_path / "none.bin")
    with pytest.raises(UserError, match="no such weights"):
        extract_slides(slides, "resnet50", tmp_path / "out", options=absent)
