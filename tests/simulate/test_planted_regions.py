"""The regions of a simulated study: they lie where the texture is, and change nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from spade_bench.regions.outlines import SlideRegions
from spade_bench.regions.regionfiles import find_regions, read_regions
from spade_bench.simulate import simulate, slides
from spade_bench.simulate.plantedregions import (
    TUMOUR,
    planted_masks,
    planted_regions,
    write_planted,
)
from spade_bench.simulate.studysettings import ORGANS, PROGRAMMES, Size
from spade_bench.simulate.tissuemap import Tissue, draw_case, grow_tissue
from spade_bench.slides.opening import open_slide

Study = tuple[Path, dict[str, Any]]


def grown(seed: int = 0) -> Tissue:
    rng = np.random.default_rng(seed)
    return grow_tissue(ORGANS[0], draw_case(ORGANS[0], rng), 500.0, rng)


def on_pixels(regions: SlideRegions | None, side: int) -> NDArray[np.bool_]:
    """Which pixels lie inside, (side, side)."""
    if regions is None:
        return np.zeros((side, side), dtype=bool)
    y, x = (np.indices((side, side)) + 0.5).reshape(2, -1)
    return np.asarray(shapely.contains_xy(regions.outline, x, y)).reshape(side, side)


@pytest.mark.parametrize("side_px", [200, 1000, 1063])
def test_regions_are_the_cells_of_the_tissue(side_px: int) -> None:
    tissue = grown()
    regions = planted_regions(tissue, "s", side_px)
    masks = planted_masks(tissue)
    assert set(regions.labels) == {name for name, mask in masks.items() if mask.any()}
    n = len(tissue.cover)
    at = ((np.arange(n) + 0.5) * side_px / n).astype(int)  # middle of each cell
    for name in regions.labels:
        inside = on_pixels(regions.called([name]), side_px)
        assert np.array_equal(inside[np.ix_(at, at)], masks[name]), name
        assert inside.mean() == pytest.approx(masks[name].mean(), rel=0.05)
    for index, programme in enumerate(PROGRAMMES):
        mask = masks[programme.name]
        assert not (mask & ~masks[TUMOUR]).any()
        assert (tissue.drawn[index][mask] > 0.5).all()
        assert (tissue.drawn[index][masks[TUMOUR] & ~mask] <= 0.5).all()


def test_a_programme_that_is_not_drawn_has_no_region(tmp_path: Path) -> None:
    tissue = grown()
    drawn = tissue.drawn.copy()
    drawn[0] = 0.0
    regions = planted_regions(replace(tissue, drawn=drawn), "s", 1000)
    assert PROGRAMMES[0].name not in regions.labels
    bare = replace(tissue, cover=np.zeros_like(tissue.cover))
    write_planted(tmp_path / "s.geojson", bare, 1000)
    assert list(tmp_path.iterdir()) == []


def small_holes(slide: Path) -> tuple[NDArray[np.int64], float]:
    """Pixel (x, y) of each white hole of the size of a mucin vacuole, (n, 2); µm per pixel."""
    with open_slide(slide) as opened:
        pixels, mpp = opened.thumbnail(opened.mpp).astype(float), opened.mpp
    spread = pixels.max(axis=2) - pixels.min(axis=2)  # (h, w), small where it is white
    numbers, n = ndimage.label(spread < 0.35 * np.quantile(spread, 0.8))
    area = np.bincount(numbers.ravel())[1:] * mpp**2  # µm²
    centres = np.array(ndimage.center_of_mass(numbers > 0, numbers, np.arange(1, n + 1)))
    fits = (area > 15) & (area < 150)  # a lumen of a gland has a thousand or more
    return centres[fits][:, ::-1].astype(np.int64), mpp


def test_vacuoles_lie_in_the_regions_of_mapk(study: Study) -> None:
    """Counted in the images alone: `mapk` is drawn as vacuoles, so they crowd in its regions."""
    folder = study[0]
    found = find_regions(folder / "regions")
    assert set(found) == {path.stem for path in (folder / "slides").glob("*.tif")}
    within, beside, areas = 0, 0, np.zeros(2)
    for slide, path in found.items():
        holes, mpp = small_holes(folder / "slides" / f"{slide}.tif")
        with open_slide(folder / "slides" / f"{slide}.tif") as opened:
            size = opened.width, opened.height
        regions = read_regions(path, size=size)
        mapk, tumour = regions.called(["mapk"]), regions.called([TUMOUR])
        inside, of_tumour = on_pixels(mapk, size[0]), on_pixels(tumour, size[0])
        at = inside[holes[:, 1], holes[:, 0]]
        within += int(at.sum())
        beside += int((of_tumour[holes[:, 1], holes[:, 0]] & ~at).sum())
        areas += np.array([inside.sum(), (of_tumour & ~inside).sum()]) * mpp**2
    assert within > 500
    assert within / areas[0] > 2.5 * beside / areas[1]


@pytest.mark.slow
def test_regions_change_no_other_byte(
    study: Study, mini: Size, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them, every file of the slide cohort is what it is with them."""
    monkeypatch.setattr(slides, "write_planted", lambda *_: None)
    simulate(tmp_path / "bare", 3, mini)

    def prints(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.suffix != ".h5ad")
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }

    bare, whole = prints(tmp_path / "bare"), prints(study[0])
    assert {name for name in whole if name not in bare} == {
        f"regions/{slide}.geojson" for slide in find_regions(study[0] / "regions")
    }
    assert bare == {name: value for name, value in whole.items() if name in bare}
