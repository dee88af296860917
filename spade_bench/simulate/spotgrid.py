"""Where a section's spots lie and what drives their expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from spade_bench.simulate.tissuemap import CELL_UM, Tissue

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

__all__ = ["SPOT_DISTANCE_UM", "SPOT_UM", "Spots", "place_spots"]

SPOT_UM = 55.0
SPOT_DISTANCE_UM = 100.0
_MARGIN_UM = 60.0  # a 112 um patch around the centre stays on the image


@dataclass(frozen=True)
class Spots:
    """n spots of one section.

    Attributes:
        barcodes: (n,) unique names.
        array: (n, 2) row and column on the hexagonal array; columns of a row differ by two.
        centre_um: (n, 2) as (x, y) in micrometres.
        drivers: (n, n_drivers), see ``Tissue.expression_drivers``.
    """

    barcodes: list[str]
    array: NDArray[np.int64]
    centre_um: NDArray[np.float64]
    drivers: NDArray[np.float64]


def place_spots(tissue: Tissue, rng: Generator) -> Spots:
    """Put spots on a hexagonal array (Visium: 55 um wide, 100 um apart) wherever tissue lies."""
    side = tissue.cover.shape[0] * CELL_UM
    step = SPOT_DISTANCE_UM / 2
    rows = int((side - 2 * _MARGIN_UM) / (step * np.sqrt(3))) + 1
    columns = int((side - 2 * _MARGIN_UM) / step) + 1
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    array = np.stack([row, column], axis=-1)[(row + column) % 2 == 0]
    centre = np.stack([array[:, 1] * step, array[:, 0] * step * np.sqrt(3)], axis=1) + _MARGIN_UM
    cover = _average(tissue.cover[None], centre, SPOT_UM)[:, 0]
    keep = cover > 0.9
    array, centre = array[keep], centre[keep]
    letters = np.array(list("ACGT"))[rng.integers(0, 4, (len(centre), 16))]
    return Spots(
        barcodes=[f"{''.join(word)}-1" for word in letters],
        array=array,
        centre_um=centre,
        drivers=_average(tissue.expression_drivers(), centre, SPOT_UM),
    )


def _average(
    maps: NDArray[np.float64], centre: NDArray[np.float64], width: float
) -> NDArray[np.float64]:
    """Average coarse (k, h, w) maps over a disc-like window at (n, 2) places; return (n, k)."""
    sigma = width / 4 / CELL_UM
    soft = ndimage.gaussian_filter(maps, (0, sigma, sigma), mode="nearest")
    place = centre[:, ::-1].T / CELL_UM - 0.5
    return np.stack(
        [ndimage.map_coordinates(grid, place, order=1, mode="nearest") for grid in soft], axis=1
    )
