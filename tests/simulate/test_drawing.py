"""Drawing: shapes with known areas, and programmes that show as they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray

from spade_bench.simulate.drawing import draw_section
from spade_bench.simulate.scanner import draw_look, draw_site, scan
from spade_bench.simulate.stamps import Ellipses, add_ellipses
from spade_bench.simulate.studysettings import NICHES, ORGANS, PROGRAMMES, Nuisance
from spade_bench.simulate.textures import Textures
from spade_bench.simulate.tiff import write_pyramid
from spade_bench.simulate.tissuemap import Tissue, draw_case, grow_tissue, smooth_fields

TEXTURES = Textures(np.random.default_rng(0))
ORGAN = ORGANS[0]


def _tissue(seed: int = 0) -> Tissue:
    rng = np.random.default_rng(seed)
    return grow_tissue(ORGAN, draw_case(ORGAN, rng), 500.0, rng)


def _flat(niche: str, level: float, programme: str) -> Tissue:
    """Tissue of a single niche with one programme set and the others in the middle."""
    tissue = _tissue()
    niches, drawn = np.full_like(tissue.niches, 0.01), np.full_like(tissue.drawn, 0.3)
    niches[NICHES.index(niche)] = 0.96
    drawn[[p.name for p in PROGRAMMES].index(programme)] = level
    return replace(tissue, niches=niches, drawn=drawn)


def _draw(tissue: Tissue, mpp: float = 0.5) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return draw_section(tissue, mpp, TEXTURES, np.random.default_rng(7))


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_ellipses_have_the_area_they_claim(mpp: float) -> None:
    canvas = np.zeros((400, 400), np.float32)
    side = 400 * mpp
    shapes = Ellipses(
        np.array([[side * 0.3, side * 0.3], [side * 0.7, side * 0.6]]),
        np.array([9.0, 14.0]),
        np.array([6.0, 4.0]),
        np.array([0.4, 2.0]),
    )
    add_ellipses(canvas, shapes.with_strength(np.ones(2)), mpp)
    expected = np.pi * (9 * 6 + 14 * 4)
    assert canvas.sum() * mpp**2 == pytest.approx(expected, rel=0.03)
    rows, columns = np.nonzero(canvas[:200] > 0.5)
    assert rows.mean() * mpp == pytest.approx(side * 0.3, abs=1.0)
    assert columns.mean() * mpp == pytest.approx(side * 0.3, abs=1.0)


def test_ellipses_over_the_edge_are_cut() -> None:
    canvas = np.zeros((50, 50), np.float32)
    corner = Ellipses(np.zeros((1, 2)), np.array([10.0]), np.array([10.0]), np.zeros(1))
    add_ellipses(canvas, corner.with_strength(np.ones(1)), 1.0)
    assert canvas.sum() == pytest.approx(np.pi * 100 / 4, rel=0.1)
    assert canvas[20:, 20:].max() == 0


def test_what_is_drawn_depends_on_the_drawn_programmes_only() -> None:
    tissue = _tissue()
    first = _draw(tissue)
    other = _draw(replace(tissue, molecular=1 - tissue.molecular))
    assert np.array_equal(first[0], other[0])
    assert np.array_equal(first[1], other[1])
    changed = _draw(replace(tissue, drawn=1 - tissue.drawn))
    assert not np.array_equal(first[0], changed[0])


def test_the_same_tissue_looks_alike_at_other_pixel_sizes() -> None:
    fine, coarse = _draw(_tissue(), 0.4), _draw(_tissue(), 0.55)
    for a, b in zip(fine, coarse, strict=True):
        assert a.mean() == pytest.approx(b.mean(), rel=0.03)


def test_nothing_is_drawn_outside_the_tissue() -> None:
    haematoxylin, eosin = _draw(_tissue())
    assert max(haematoxylin[:20, :20].max(), eosin[:20, :20].max()) < 0.02
    assert eosin[450:550, 450:550].mean() > 0.1


def test_programmes_show_as_documented() -> None:
    low, high = _draw(_flat("solid", 0.05, "mapk")), _draw(_flat("solid", 0.95, "mapk"))
    assert _holes(high) > _holes(low) + 0.05  # mucin vacuoles
    low, high = _draw(_flat("gland", 0.05, "secretory")), _draw(_flat("gland", 0.95, "secretory"))
    assert _holes(high) > 1.4 * _holes(low)  # wide lumens
    low, high = (_draw(_flat("solid", level, "mesenchymal")) for level in (0.05, 0.95))
    assert high[1].mean() > 1.15 * low[1].mean()  # fibres
    low, high = _draw(_flat("solid", 0.05, "cycling")), _draw(_flat("solid", 0.95, "cycling"))
    assert high[0].mean() > 1.3 * low[0].mean()  # large, dark, crowded nuclei


def _holes(dyes: tuple[NDArray[np.float32], NDArray[np.float32]]) -> float:
    """Share of the middle of a section where a lumen or a vacuole took the dye away."""
    middle = slice(250, 750)
    return float(((dyes[0] + dyes[1])[middle, middle] < 0.2).mean())


def test_fields_have_unit_variance() -> None:
    fields = smooth_fields(400, 12, np.random.default_rng(0))
    assert fields.mean() == pytest.approx(0.0, abs=0.05)
    assert fields.std(axis=0).mean() == pytest.approx(1.0, abs=0.05)


def test_visibility_is_the_correlation_of_drawn_and_molecular() -> None:
    rng = np.random.default_rng(0)
    cases = [draw_case(ORGAN, rng) for _ in range(4000)]
    molecular = np.stack([case.molecular for case in cases])
    drawn = np.stack([case.drawn for case in cases])
    for i, programme in enumerate(PROGRAMMES):
        seen = np.corrcoef(molecular[:, i], drawn[:, i])[0, 1]
        assert seen == pytest.approx(programme.visibility, abs=0.02)
        assert drawn[:, i].std() == pytest.approx(programme.case_sd, rel=0.05)


def test_stain_and_scanner_change_colours_and_not_the_tissue() -> None:
    dyes = _draw(_tissue())
    images = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        site = draw_site("S", Nuisance(), rng)
        images.append(scan(*dyes, replace(site, mpp=0.5), draw_look(site, Nuisance(), rng), rng))
    assert all(image.shape == (1000, 1000, 3) and image.dtype == np.uint8 for image in images)
    means = np.stack([image.reshape(-1, 3).mean(0) for image in images])
    assert means.std(axis=0).max() > 3
    grey = np.stack([image.mean(axis=2)[::5, ::5].ravel() for image in images])
    assert np.corrcoef(grey).min() > 0.9


@pytest.mark.parametrize("shape", [(700, 513), (256, 256), (1, 3)])
def test_pyramids_read_back(tmp_path: Path, shape: tuple[int, int]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([y % 256, x % 256, (y + x) // 8 % 256], axis=-1).astype(np.uint8) // 2 + 60
    path = tmp_path / "a.tif"
    write_pyramid(path, image, 0.4987, quality=95, description="a test")
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (shape[1], shape[0])
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.4987, rel=1e-6)
        assert slide.properties["tiff.ImageDescription"] == "a test"
        back = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        assert np.abs(back.astype(int) - image).mean() < 4
        for level, downsample in enumerate(slide.level_downsamples):
            assert downsample == pytest.approx(2**level, rel=0.02)
    assert list(tmp_path.iterdir()) == [path]
