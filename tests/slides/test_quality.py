"""Pen marks and blur: found where they are, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from spade_bench.slides.grid import make_grid
from spade_bench.slides.opening import open_slide
from spade_bench.slides.quality import ink_mask, sharp
from spade_bench.slides.tissue import find_tissue

INKS = {
    "green": (40, 140, 70),
    "blue": (40, 80, 170),
    "cyan": (60, 150, 170),
    "black": (30, 32, 35),
}
STAINS = [(200, 120, 170), (90, 60, 130), (225, 170, 200), (170, 40, 60), (230, 120, 120)]


def _section(colour: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = 243 + rng.integers(-3, 4, (200, 300, 3))
    image[40:160, 60:240] = np.array(colour) + rng.integers(-15, 16, (120, 180, 3))
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("ink", INKS)
def test_ink_is_found_where_it_is(ink: str) -> None:
    image = _section((200, 120, 170))
    image[20:180, 100:112] = INKS[ink]
    mask = ink_mask(image, 8.0)
    assert mask[25:175, 101:111].all()
    assert not mask[:, :85].any()
    assert not mask[:, 127:].any()


@pytest.mark.parametrize("stain", STAINS)
def test_stain_is_no_ink(stain: tuple[int, int, int]) -> None:
    assert not ink_mask(_section(stain), 8.0).any()


def test_patches_on_ink_are_left_out_of_the_grid() -> None:
    ink = np.zeros((40, 40), bool)
    ink[:, 12:14] = True  # x 120..140 of 400
    grid = make_grid(400, 400, 100, np.ones((40, 40), bool), avoid=ink)
    assert np.unique(grid.coords[:, 0]).tolist() == [0, 200, 300]


def test_blurred_patches_are_told_from_sharp_ones() -> None:
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(8, 224, 224)), (0, 4, 4)) > 0
    images = np.where(blobs, 90.0, 220.0)[..., None].repeat(3, axis=-1)
    blurred = ndimage.gaussian_filter(images, (0, 4, 4, 0))
    assert sharp(images.astype(np.uint8)).all()
    assert not sharp(blurred.astype(np.uint8)).any()


def test_real_sections_are_sharp_and_free_of_ink(shared_data: Path) -> None:
    for name in ("hest_her2st/wsis/SPA145.tif", "wsi_fixtures/cmu-1-small-region.svs"):
        with open_slide(shared_data / name) as slide:
            tissue = find_tissue(slide)
            mpp = slide.width * slide.mpp / tissue.mask.shape[1]
            assert not (ink_mask(tissue.thumbnail, mpp) & tissue.mask).any()
            grid = make_grid(slide.width, slide.height, slide.side(224, 0.5), tissue.mask)
            some = grid.coords[:: max(len(grid.coords) // 8, 1)]
            images = np.stack([slide.read(x, y, grid.side, 224) for x, y in some])
        assert sharp(images).all()
        assert not sharp(ndimage.gaussian_filter(images, (0, 4, 4, 0))).any()
