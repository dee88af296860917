"""Patches: fitting images, and the patch round each spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from PIL import Image

from spade_bench.errors import DataError
from spade_bench.slides.patches import fit_patch, open_spots, read_patch, spot_patches
from spade_bench.spatial import StSample, read_hest

Writer = Callable[..., Path]


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_is_untouched() -> None:
    image = _noise(224, 224)
    assert fit_patch(image, 224, crop_pct=0.875) is image


def test_crop_share_decides_between_cropping_and_resizing() -> None:
    image = _noise(256, 256)
    assert np.array_equal(fit_patch(image, 224, crop_pct=0.875), image[16:240, 16:240])
    whole = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.array_equal(fit_patch(image, 224, interpolation="bilinear"), np.asarray(whole))


def test_the_shorter_side_is_fitted_and_the_centre_kept() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    assert (fit_patch(image, 50)[:, 1:-1] > 250).all()


def test_known_resolution_scales_before_cropping() -> None:
    image = np.kron(_noise(300, 300), np.ones((2, 2, 1), np.uint8))
    got = fit_patch(image, 224, scale=0.5, interpolation="bilinear").astype(int)
    assert got.shape == (224, 224, 3)
    with pytest.raises(DataError, match="150 px at this resolution"):
        fit_patch(_noise(300, 300), 224, scale=0.5)


def test_transparency_is_white_and_damage_is_named(tmp_path: Path) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[4:, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    got = read_patch(tmp_path / "a.png")
    assert (got[:4] == 255).all()
    assert (got[4:] == 0).all()
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"b\.png: not a readable image"):
        read_patch(tmp_path / "b.png")


def _sample(folder: Path, centres: np.ndarray, image: Path | None, **fields: object) -> StSample:
    names = [f"spot{i}" for i in range(len(centres))]
    data = anndata.AnnData(X=np.ones((len(centres), 3), np.float32))
    data.obs_names, data.var_names = names, ["A", "B", "C"]
    data.obsm["spatial"] = centres
    folder.mkdir(parents=True, exist_ok=True)
    data.write_h5ad(folder / "s.h5ad")
    return StSample("s", h5ad=folder / "s.h5ad", image=image, **fields)  # type: ignore[arg-type]


def test_patches_are_centred_on_their_spots(tmp_path: Path, write_slide: Writer) -> None:
    pixels = _noise(600, 800)
    path = write_slide(tmp_path / "s.tif", pixels, mpp=0.25)
    centres = np.array([[300.0, 250.0], [400.4, 300.6], [-5.0, 10.0], [10.0, 599.0]])
    sample = _sample(tmp_path / "st", centres, path, pixel_size_um=0.5)
    batches = list(spot_patches(sample, px=64, batch_size=2))
    images = np.concatenate([batch[0] for batch in batches])
    barcodes = [name for batch in batches for name in batch[1]]
    coords = np.concatenate([batch[2] for batch in batches])
    assert barcodes == ["spot0", "spot1", "spot3"]  # spot2 lies off the image
    assert coords[:2].tolist() == [[268, 218], [368, 268]]
    assert np.array_equal(images[0], pixels[218:282, 268:332])
    assert (images[2][:, :20] == 255).all()  # over the left edge


def test_resolution_of_the_sample_wins_and_scales(tmp_path: Path, write_slide: Writer) -> None:
    path = write_slide(tmp_path / "s.tif", _noise(600, 800), mpp=0.25)
    centres = np.array([[300.0, 250.0]])
    with_size = open_spots(_sample(tmp_path / "a", centres, path, pixel_size_um=1.0), px=64)
    assert with_size.side == 32
    without = open_spots(_sample(tmp_path / "b", centres, path), px=64)
    assert without.side == 128
    assert without.coords.tolist() == [[236, 186]]


def test_spots_all_off_the_image_are_refused(tmp_path: Path, write_slide: Writer) -> None:
    path = write_slide(tmp_path / "s.tif", _noise(200, 300))
    sample = _sample(tmp_path / "a", np.array([[900.0, 10.0], [10.0, 900.0]]), path)
    with pytest.raises(DataError, match=r"none of 2 spots lies on the image \(300 x 200"):
        open_spots(sample)
    with pytest.raises(DataError, match="has no image to cut"):
        open_spots(_sample(tmp_path / "b", np.zeros((1, 2)), None))


def test_patch_file_is_used_where_it_fits(tmp_path: Path, write_slide: Writer) -> None:
    images = np.stack([_noise(64, 64, seed) for seed in range(3)])
    with h5py.File(tmp_path / "p.h5", "w") as file:
        img = file.create_dataset("img", data=images)
        img.attrs.update({"pixel_size": 0.5, "patch_size": 64, "patch_size_src": 128.0})
        file["coords"] = np.array([[5, 6], [7, 8], [9, 10]])
        file["barcode"] = np.array([[b"spot2"], [b"spot0"], [b"spot1"]])
    path = write_slide(tmp_path / "s.tif", _noise(600, 800))
    centres = np.array([[300.0, 250.0]] * 3)
    sample = _sample(tmp_path / "st", centres, path, patches=tmp_path / "p.h5")
    got, barcodes, coords = next(spot_patches(sample, px=64))
    assert barcodes == ("spot2", "spot0", "spot1")
    assert np.array_equal(got, images)
    assert coords[0].tolist() == [5, 6]
    cut = open_spots(sample, px=32)  # another size: cut from the image
    assert cut.rows is None
    with h5py.File(tmp_path / "p.h5", "a") as file:
        del file["barcode"]
    with pytest.raises(DataError, match="patch file lacks barcode"):
        open_spots(sample, px=64)


def test_cut_patches_agree_with_published_ones(shared_data: Path) -> None:
    """HEST's own patches of SPA141 against those cut here from the section."""
    from dataclasses import replace

    sample = next(s for s in read_hest(shared_data / "hest_her2st") if s.sample_id == "SPA141")
    theirs = open_spots(sample)
    ours = open_spots(replace(sample, patches=None))
    assert set(ours.barcodes) == set(theirs.barcodes)
    assert ours.side == pytest.approx(theirs.side, rel=1e-6)
    where = {barcode: row for row, barcode in enumerate(ours.barcodes)}
    rows = [where[barcode] for barcode in theirs.barcodes[:12]]
    every = [where[barcode] for barcode in theirs.barcodes]
    assert np.array_equal(ours.coords[every], theirs.coords)
    want = theirs.read(0, 12).astype(float)
    got = np.concatenate([ours.read(row, row + 1) for row in rows]).astype(float)
    assert np.abs(got - want).mean() < 1.8
    assert np.abs(got.mean(axis=(1, 2)) - want.mean(axis=(1, 2))).max() < 0.5
