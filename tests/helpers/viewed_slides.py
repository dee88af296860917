"""Slides with layers for the tests of the viewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely

from spade_bench.explain.layers import CATEGORY, SIGNED, VALUE, Layer
from spade_bench.explain.outlined.regionclasses import RegionKey
from spade_bench.explain.viewer.slideview import SlideView, TopPatch
from spade_bench.regions.outlines import Region

SIDE = 100


def coloured_slide(width: int = 1300, height: int = 900, seed: int = 0) -> np.ndarray:
    """A slide with tissue of many colours in its left half and glass in its right, (h, w, 3)."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 245, dtype=np.uint8)
    coarse = rng.integers(60, 200, (height // 50 + 1, width // 100 + 1, 3), dtype=np.uint8)
    tissue = coarse.repeat(50, axis=0).repeat(50, axis=1)[:height, : width // 2]
    pixels[:, : tissue.shape[1]] = tissue
    return pixels


def patch_places(columns: int, rows: int, side: int = SIDE) -> np.ndarray:
    """Places of patches side by side, (n, 2), row by row."""
    x, y = np.meshgrid(np.arange(columns) * side, np.arange(rows) * side)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)


def view_of_slide(
    folder: Path, write_slide: Callable[..., Path], slide_id: str = "slide-1"
) -> SlideView:
    """A slide with layers of every scale on two grids, a region with a hole, and top patches."""
    path = write_slide(folder / f"{slide_id}.tif", coloured_slide())
    coords = patch_places(6, 8)
    rng = np.random.default_rng(1)
    share = (rng.permutation(len(coords)) + 0.5) / len(coords)
    signed = rng.normal(0, 0.01, len(coords))
    signed[5] = np.nan
    category = rng.integers(-1, 3, len(coords)).astype(float)
    free = coords[::2] + rng.integers(0, 40, (len(coords) // 2, 2))  # on no regular grid
    layers = [
        Layer("base.shown", "Base: attention", "percentile within the slide", coords, SIDE, share),
        Layer("base.cancer", "Base: towards cancer", "contribution", coords, SIDE, signed, SIGNED),
        Layer("spade.expert", "SPADE: expert", "expert of a patch", coords, SIDE, category,
              CATEGORY, ("One", "Two", "Three")),
        Layer("spade.gene", "SPADE: EPCAM", "predicted", free, 60, rng.gamma(2, 1, len(free)),
              VALUE),
    ]  # fmt: skip
    order = np.argsort(-share)
    top = [TopPatch("base.shown", rank, float(share[row]), *map(int, coords[row]))
           for rank, row in enumerate(order[:5], start=1)]  # fmt: skip
    top += [TopPatch("base.shown", rank, float(share[row]), *map(int, coords[row]), lowest=True)
            for rank, row in enumerate(order[::-1][:5], start=1)]  # fmt: skip
    shape = shapely.box(100, 100, 500, 500).difference(shapely.box(200, 200, 300, 300))
    tumour = Region(shape, label="Tumour")
    return SlideView(slide_id, path, layers, RegionKey.of([tumour]).classes([tumour]), top,
                     ("Simulated data",), None, {"Case": "case-1"})  # fmt: skip
