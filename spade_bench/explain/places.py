"""The highest and lowest patches of a layer that lie apart, and what is seen there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.explain.layers import Layer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["APART", "UNKNOWN_MPP", "Crop", "far_apart", "highest", "outside", "read_crops",
           "read_squares", "with_highest"]  # fmt: skip

APART = 2
"""Patch sides between two patches of a slide that are listed."""

UNKNOWN_MPP = 0.25
"""Taken to open a slide that does not say its resolution, then forgotten."""

_CROP_PX = 300
_CROP_SHARE = 0.25  # of the patches of a slide that a crop may show
_CROP_SIDES = 2  # patches across a crop
_CROPS_APART = 1.25  # of their side, so that the frames on a map do not touch


@dataclass(frozen=True)
class Crop:
    """A square of a slide.

    Attributes:
        x: Level-0 column of its left edge.
        y: Level-0 row of its top edge.
        side: Its width in level-0 pixels.
        pixels: What is seen there, (px, px, 3) uint8 RGB.
        value: Value of the patch in its middle.
    """

    x: float
    y: float
    side: float
    pixels: NDArray[np.uint8]
    value: float


def far_apart(
    order: NDArray[np.int64], coords: NDArray[np.int64], distance: float, most: int
) -> NDArray[np.int64]:
    """Take patches in an order, each at a minimum distance from all that were taken before.

    Args:
        order: Numbers of the patches, the wanted ones first, (n,).
        coords: Level-0 (x, y) of every patch, (m, 2).
        distance: Two patches taken differ by at least this along x or along y, in level-0 pixels;
            squares of this width around them do not overlap.
        most: How many to take.

    Returns:
        Numbers of the patches taken, (k,) with k at most ``most``, in the same order.
    """
    import numpy as np

    left = np.asarray(order, dtype=np.int64)
    taken: list[int] = []
    while len(left) and len(taken) < most:
        taken.append(int(left[0]))
        away = np.abs(coords[left] - coords[left[0]]).max(axis=1) >= distance
        away[0] = False  # taken, whatever the distance
        left = left[away]
    return np.array(taken, dtype=np.int64)


def highest(layer: Layer, most: int, distance: float, *, lowest: bool = False) -> NDArray[np.int64]:
    """Return the numbers of the highest patches of a layer that lie apart, the highest first.

    Patches without a value are never taken. Of equal ones the first comes first.

    Args:
        layer: What to rank.
        most: How many to take.
        distance: See `far_apart`.
        lowest: Take the lowest instead, the lowest first.
    """
    import numpy as np

    values = layer.values if lowest else -layer.values
    order = np.argsort(values, kind="stable")  # NaN comes last
    order = order[np.isfinite(values[order])]
    if not distance:  # so that patches without a place can be ranked too
        return order[:most].astype(np.int64)
    return far_apart(order, layer.coords, distance, most)


def outside(coords: NDArray[np.int64], side: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Say which patches begin beyond the edges of a slide, (n,); reaching over one is no fault.

    Args:
        coords: Level-0 (x, y) of every patch, (n, 2).
        side: Their side in level-0 pixels.
        size: Level-0 width and height of the slide.
    """
    import numpy as np

    beyond: NDArray[np.bool_] = np.any((coords >= size) | (coords + side <= 0), axis=1)
    return beyond


def with_highest(layer: Layer, share: float, *, lowest: bool = False) -> Layer:
    """Return a layer with its highest values alone, the others NaN.

    Args:
        layer: The layer.
        share: Share of the patches with a value that keep it, rounded up; at least one does.
        lowest: Keep the lowest instead: those that the highest of the rest are not among.
    """
    import numpy as np

    order = np.argsort(-layer.values, kind="stable")  # NaN comes last
    known = int(np.isfinite(layer.values).sum())
    cut = max(1, math.ceil((1 - share if lowest else share) * known))
    kept = order[cut:known] if lowest else order[:cut]
    values = np.full(len(layer.values), np.nan)
    values[kept] = layer.values[kept]
    return replace(layer, values=values)


def read_crops(
    slide: str | Path, layer: Layer, most: int, *, side: float | None = None
) -> list[Crop]:
    """Read what is seen around the highest patches of a layer; the crops do not overlap.

    They are of the top quarter of the patches alone, and so there may be fewer: on a small slide
    the next that lies apart would be one that is hardly looked at.

    Args:
        slide: File of the slide.
        layer: What to rank.
        most: How many crops to read.
        side: Width of a crop in level-0 pixels; two patches by default.

    Raises:
        DataError: When the slide cannot be opened or decoded.
    """
    from spade_bench.slides.opening import open_slide

    width = float(side or _CROP_SIDES * layer.side)
    crops = []
    # The resolution plays no part here, so a slide that does not say it is welcome.
    with open_slide(Path(slide), assume_mpp=1.0) as opened:
        for row in highest(with_highest(layer, _CROP_SHARE), most, _CROPS_APART * width):
            x, y = layer.coords[row] + (layer.side - width) / 2
            x = min(max(float(x), 0.0), max(opened.width - width, 0.0))
            y = min(max(float(y), 0.0), max(opened.height - width, 0.0))
            pixels = opened.read(x, y, width, _CROP_PX)
            crops.append(Crop(x, y, width, pixels, float(layer.values[row])))
    return crops


def read_squares(
    slide: Path, squares: Sequence[tuple[float, float, float]], px: int, *, mpp: float | None = None
) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    """Read what some squares of a slide show, which is opened once.

    Args:
        slide: File of the slide; one that does not say its resolution is welcome.
        squares: Left, top and side of each in level-0 pixels.
        px: Side of what is read.
        mpp: Micrometres per pixel at level 0 where they are known from elsewhere.

    Yields:
        For each square, in order, (px, px, 3) uint8 RGB and its width in micrometres, None where
        the resolution is unknown.

    Raises:
        DataError: When the slide cannot be opened or decoded.
    """
    from spade_bench.slides.opening import open_slide

    with open_slide(slide, mpp=mpp, assume_mpp=UNKNOWN_MPP) as opened:
        known = None if opened.mpp_source == "assumed" else opened.mpp
        for x, y, side in squares:
            pixels = opened.read(float(x), float(y), float(side), px)
            yield pixels, None if known is None else side * known
