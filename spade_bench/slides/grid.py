"""A regular grid of patches over the tissue of a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Grid", "make_grid"]

_MOST_AVOIDED = 0.05


@dataclass(frozen=True)
class Grid:
    """The patches of one slide.

    Attributes:
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) int64 as (x, y), row by row.
        side: Width and height of a patch in level-0 pixels.
        tissue: Share of tissue in each patch, (n,).
    """

    coords: np.ndarray
    side: float
    tissue: np.ndarray


def make_grid(
    width: int,
    height: int,
    side: float,
    mask: np.ndarray,
    *,
    overlap: float = 0.0,
    min_tissue: float = 0.25,
    avoid: np.ndarray | None = None,
) -> Grid:
    """Lay whole patches side by side from the top-left corner and keep those on tissue.

    Args:
        width: Level-0 width of the slide.
        height: Level-0 height of the slide.
        side: Level-0 width of a patch; may be fractional, positions do not drift.
        mask: Tissue mask over the whole slide, (h, w) bool.
        overlap: Share of a patch that its neighbour covers too, in 0..1.
        min_tissue: Least share of tissue in a patch.
        avoid: Mask of what no patch may hold more than 5% of (pen marks), (h, w) bool.

    Raises:
        DataError: When the slide is smaller than one patch, or no patch has enough tissue.
    """
    import numpy as np

    if side > min(width, height) + 0.5:
        raise DataError(
            f"is too small: {width} x {height} px, where one patch takes {side:.0f} px",
            fix="Leave it out, or give a finer --mpp",
        )
    step = side * (1.0 - overlap)
    columns = np.arange(int((width - side + 0.5) // step) + 1) * step
    rows = np.arange(int((height - side + 0.5) // step) + 1) * step
    x, y = (axis.ravel() for axis in np.meshgrid(columns, rows))  # (n,) each, row by row
    tissue = _share(mask, x / width, y / height, side / width, side / height)
    keep = tissue >= max(min_tissue, np.finfo(float).tiny)
    if avoid is not None:
        keep &= _share(avoid, x / width, y / height, side / width, side / height) <= _MOST_AVOIDED
    if not keep.any():
        raise DataError(f"has no tissue: none of {len(x)} patches reaches {min_tissue:.0%}")
    coords = np.rint(np.stack([x, y], axis=1)[keep]).astype(np.int64)
    return Grid(coords, side, tissue[keep])


def _share(mask: np.ndarray, x: np.ndarray, y: np.ndarray, w: float, h: float) -> np.ndarray:
    """Share of tissue in boxes given in fractions of the slide, by an integral image, (n,)."""
    import numpy as np

    tall, wide = mask.shape
    total = np.zeros((tall + 1, wide + 1))
    total[1:, 1:] = mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    x0 = np.clip(np.rint(x * wide).astype(int), 0, wide - 1)
    y0 = np.clip(np.rint(y * tall).astype(int), 0, tall - 1)
    x1 = np.clip(np.rint((x + w) * wide).astype(int), x0 + 1, wide)
    y1 = np.clip(np.rint((y + h) * tall).astype(int), y0 + 1, tall)
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return np.asarray(inside / ((x1 - x0) * (y1 - y0)))
