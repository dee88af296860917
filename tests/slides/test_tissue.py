"""Tissue detection on made-up slides whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spade_bench.slides.opening import open_slide
from spade_bench.slides.tissue import find_tissue, tissue_mask


def _slide(seed: int, glass: int = 242) -> np.ndarray:
    """Noisy glass, (300, 400, 3) uint8."""
    rng = np.random.default_rng(seed)
    return (glass + rng.integers(-4, 5, (300, 400, 3))).astype(np.uint8)


@pytest.mark.parametrize("colour", [(200, 120, 170), (90, 60, 130), (225, 170, 200)])
def test_finds_a_stained_area(colour: tuple[int, int, int]) -> None:
    image = _slide(0)
    image[80:220, 100:300] = np.array(colour) + np.random.default_rng(1).integers(
        -15, 16, (140, 200, 3)
    )
    mask = tissue_mask(image, 8.0)
    truth = np.zeros((300, 400), bool)
    truth[80:220, 100:300] = True
    overlap = (mask & truth).sum() / (mask | truth).sum()
    assert overlap > 0.95


def test_glass_alone_is_no_tissue() -> None:
    for seed in range(5):
        assert not tissue_mask(_slide(seed), 8.0).any()
    assert not tissue_mask(np.full((50, 50, 3), 255, np.uint8), 8.0).any()


def test_tissue_from_edge_to_edge_is_all_tissue() -> None:
    rng = np.random.default_rng(0)
    image = np.array([190, 110, 165]) + rng.integers(-40, 41, (300, 400, 3))
    assert tissue_mask(image.astype(np.uint8), 8.0).mean() > 0.99


def test_black_borders_bled_stain_and_dust_are_left_out() -> None:
    image = _slide(0)
    image[:, :40] = 3  # scanner border
    image[50:250, 200:380] = (246, 228, 240)  # pale pink halo
    image[100:200, 240:340] = (150, 80, 140)
    image[20:22, 100:102] = (150, 80, 140)  # dust
    mask = tissue_mask(image, 8.0)
    assert not mask[:, :40].any()
    assert not mask[50:90, 200:380].any()
    assert not mask[10:30, 90:110].any()
    assert mask[105:195, 245:335].all()


def test_glass_under_stain_that_bled_is_no_tissue_however_pink() -> None:
    """As measured on a real section: saturated beyond the threshold's range, but even."""
    rng = np.random.default_rng(0)
    image = _slide(0).astype(float)
    y, x = np.mgrid[:300, :400]
    bled = np.exp(-((x - 280) ** 2 + (y - 150) ** 2) / (2 * 60**2))[..., None]  # fades outwards
    image += bled * (np.array([233.0, 175.0, 214.0]) - 242)  # saturation 0.25 in the middle
    image[100:200, 100:240] = np.array([190, 130, 180]) + rng.integers(-40, 41, (100, 140, 1))
    mask = tissue_mask(image.astype(np.uint8), 8.0)
    assert mask[105:195, 105:235].all()
    assert not mask[:, 255:].any()


def test_real_glass_under_stain_is_left_out(shared_data: Path) -> None:
    with open_slide(shared_data / "hest_her2st" / "wsis" / "SPA139.tif") as slide:
        found = find_tissue(slide)
    down, across = (int(level0 / slide.width * found.mask.shape[1]) for level0 in (6170, 5890))
    assert found.thumbnail[down, across].min() > 170  # pink glass right below the section
    assert not found.mask[down - 3 : down + 4, across - 3 : across + 4].any()


def test_small_holes_are_filled_and_large_ones_kept() -> None:
    image = _slide(0)
    image[50:250, 50:350] = (150, 80, 140)
    image[100:103, 100:103] = 242
    image[150:210, 200:290] = 242
    mask = tissue_mask(image, 8.0)
    assert mask[100:103, 100:103].all()
    assert not mask[160:200, 210:280].any()
