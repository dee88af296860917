"""Patches painted onto a grid of pixels: overlaps averaged, NaN where there is no patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.explain.layers import CATEGORY, Layer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Boxes = NDArray[np.int64]

__all__ = ["Raster", "rasterise", "rasterise_borders"]

_LONGEST = 2000  # px of a raster of patches on no regular grid: 170 mm of print at 300 dpi
_OFF_GRID = 1.0  # level-0 px by which rounding may move a patch
_MOST_CELLS = 4  # pixels across a patch of a regular grid, where patches overlap


@dataclass(frozen=True)
class Raster:
    """Values on a grid of square pixels over a part of a slide.

    Attributes:
        values: (h, w); NaN where there is no patch.
        left: Level-0 column of the left edge.
        top: Level-0 row of the top edge.
        pixel: Width of a pixel in level-0 pixels, as (across, down).
        exact: Whether every patch covers whole pixels, to a level-0 pixel.
    """

    values: Floats
    left: float
    top: float
    pixel: tuple[float, float]
    exact: bool

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge in level-0 pixels, as `imshow` takes them."""
        tall, wide = self.values.shape
        right, bottom = self.left + wide * self.pixel[0], self.top + tall * self.pixel[1]
        return self.left, right, bottom, self.top


def rasterise(layer: Layer, *, regular: bool = True) -> Raster:
    """Paint the values of a layer.

    Patches of a regular grid take one pixel each (or as many as their overlap needs), so a hundred
    thousand of them cost as much as a small picture. Others are painted on a fine grid, where their
    edges are off by less than a pixel of it. Where patches overlap, their mean stands; of
    categories the one that most patches have, the first of several.

    Args:
        layer: What is drawn; patches without a value leave no trace.
        regular: Whether to look for a regular grid.
    """
    import numpy as np

    known = np.isfinite(layer.values) & ((layer.scale != CATEGORY) | (layer.values >= 0))
    coords, values = layer.coords[known], layer.values[known]
    if not len(values):
        return Raster(np.full((1, 1), np.nan), 0.0, 0.0, (1.0, 1.0), True)
    lattice = _lattice(coords, layer.side) if regular else None
    place, boxes, shape = lattice or _fine(coords, layer.side)
    if layer.scale == CATEGORY:
        painted = _most_frequent(values, boxes, shape)
    else:
        painted = _mean(values, boxes, shape)
    left, top, pixel = place
    return Raster(painted, left, top, pixel, lattice is not None)


def rasterise_borders(layer: Layer) -> Raster:
    """Paint the borders of the patches only, the highest values last, so that tissue is seen.

    Args:
        layer: What is drawn; patches without a value leave no trace.
    """
    import numpy as np

    known = np.isfinite(layer.values) & ((layer.scale != CATEGORY) | (layer.values >= 0))
    coords, values = layer.coords[known], layer.values[known]
    if not len(values):
        return rasterise(layer)
    (left, top, pixel), boxes, shape = _fine(coords, layer.side)
    painted = np.full(shape, np.nan)
    thick = max(1, round(layer.side / pixel[0] / 20))
    for row in np.argsort(values, kind="stable"):
        x0, y0, x1, y1 = boxes[row]
        value = values[row]
        painted[y0 : y0 + thick, x0:x1] = value
        painted[max(y0, y1 - thick) : y1, x0:x1] = value
        painted[y0:y1, x0 : x0 + thick] = value
        painted[y0:y1, max(x0, x1 - thick) : x1] = value
    return Raster(painted, left, top, pixel, False)


_Place = tuple[float, float, tuple[float, float]]


def _lattice(
    coords: NDArray[np.int64], side: float
) -> tuple[_Place, Boxes, tuple[int, int]] | None:
    """The boxes of patches that lie on a regular grid, in its cells; None where they do not."""
    import numpy as np

    axes = [_steps(coords[:, axis], side) for axis in (0, 1)]
    if axes[0] is None or axes[1] is None:
        return None
    (columns, step_x, across), (rows, step_y, down) = axes[0], axes[1]
    boxes = np.stack([columns, rows, columns + across, rows + down], axis=1)  # (n, 4)
    shape = (int(boxes[:, 3].max()), int(boxes[:, 2].max()))
    place = (float(coords[:, 0].min()), float(coords[:, 1].min()), (step_x, step_y))
    return place, boxes, shape


def _steps(
    positions: NDArray[np.int64], side: float
) -> tuple[NDArray[np.int64], float, int] | None:
    """Number of the cell of each position, the width of a cell, and how many a patch takes.

    Positions were rounded to whole pixels, so the width of a cell is measured over all of them.
    """
    import numpy as np

    places, which = np.unique(positions, return_inverse=True)
    if len(places) == 1:
        return np.zeros(len(positions), dtype=np.int64), float(side), 1
    gaps = np.diff(places)
    cells = np.concatenate([[0], np.cumsum(np.rint(gaps / gaps.min()))]).astype(np.int64)
    step = float(places[-1] - places[0]) / float(cells[-1])
    if np.abs(places - places[0] - cells * step).max() > _OFF_GRID:
        return None
    # Patches that stand far apart leave cells between them, which are no patch's own.
    apart = max(1, round(step / side)) if step > side else 1
    step, cells = step / apart, cells * apart
    taken = round(side / step)
    if not 1 <= taken <= _MOST_CELLS or abs(side - taken * step) > _OFF_GRID:
        return None
    return cells[which.ravel()], step, taken


def _fine(coords: NDArray[np.int64], side: float) -> tuple[_Place, Boxes, tuple[int, int]]:
    """The boxes of any patches in pixels of a fine grid."""
    import numpy as np

    left, top = (float(v) for v in coords.min(axis=0))
    right, bottom = (float(v) + side for v in coords.max(axis=0))
    pixel = max(1.0, max(right - left, bottom - top) / _LONGEST)
    low = np.rint((coords - [left, top]) / pixel).astype(np.int64)  # (n, 2)
    high = np.rint((coords + side - [left, top]) / pixel).astype(np.int64)
    boxes = np.concatenate([low, np.maximum(high, low + 1)], axis=1)  # (n, 4)
    shape = (int(boxes[:, 3].max()), int(boxes[:, 2].max()))
    return (left, top, (pixel, pixel)), boxes, shape


def _sum(values: Floats, boxes: Boxes, shape: tuple[int, int]) -> Floats:
    """Add each value to all pixels of its box, (h, w).

    Four corners a box, then two running sums: the cost does not depend on how large patches are.
    """
    import numpy as np

    total = np.zeros((shape[0] + 1, shape[1] + 1))
    x0, y0, x1, y1 = boxes.T
    for x, y, sign in ((x0, y0, 1), (x1, y1, 1), (x0, y1, -1), (x1, y0, -1)):
        np.add.at(total, (y, x), sign * values)
    return np.asarray(total.cumsum(axis=0).cumsum(axis=1)[:-1, :-1])


def _mean(values: Floats, boxes: Boxes, shape: tuple[int, int]) -> Floats:
    """The mean value of the boxes over each pixel, (h, w); NaN where there is none."""
    import numpy as np

    wide, tall = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    if (wide == 1).all() and (tall == 1).all():  # nothing is summed, so nothing is rounded
        flat = boxes[:, 1] * shape[1] + boxes[:, 0]
        count = np.bincount(flat, minlength=shape[0] * shape[1])
        total = np.bincount(flat, weights=values, minlength=shape[0] * shape[1])
        count, total = count.reshape(shape), total.reshape(shape)
    else:
        count = np.rint(_sum(np.ones(len(values)), boxes, shape)).astype(np.int64)
        middle = float(values.mean())  # running sums lose less about zero
        total = _sum(values - middle, boxes, shape) + middle * count
    mean = np.full(shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _most_frequent(values: Floats, boxes: Boxes, shape: tuple[int, int]) -> Floats:
    """The category of most boxes over each pixel, (h, w); NaN where there is none."""
    import numpy as np

    winner, most = np.full(shape, np.nan), np.zeros(shape)
    for category in np.unique(values):
        mine = boxes[values == category]
        count = np.rint(_sum(np.ones(len(mine)), mine, shape))
        better = count > most
        winner[better], most[better] = category, count[better]
    return winner
