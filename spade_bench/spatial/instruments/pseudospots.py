"""Pseudo-spots: a lattice laid over single transcripts or small bins, and the sums over its cells.

Sums go through an indicator matrix of bins x spots, so that every bin counts once. (`total[rows] +=
counts` would keep only the last of several bins of one spot.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

from spade_bench.errors import UserError

__all__ = ["Cells", "Pooling", "SpotGrid", "sum_bins"]

_ROW = math.sqrt(3) / 2  # distance of the rows of a hexagonal lattice, in pitches


@dataclass(frozen=True)
class Cells:
    """Which spot of a lattice each of n points belongs to.

    Attributes:
        row: (n,) int64 row of the lattice.
        column: (n,) int64 column of the lattice.
        inside: (n,) bool, whether the point lies in a spot; None where spots leave no gaps.
    """

    row: np.ndarray
    column: np.ndarray
    inside: np.ndarray | None = None


@dataclass(frozen=True)
class SpotGrid:
    """A lattice of spots in the frame of a section, µm.

    Where the pitch is the size of a spot, cells tile the section (squares or hexagons) and every
    transcript has its spot. Where it is larger, spots are squares or circles with gaps between
    them, as on a Visium slide (`SpotGrid(55, "hexagonal", 100)`), and what falls between is left
    out. The lattice starts at the origin of the section, so that a place keeps its spot whatever
    is filtered.

    Attributes:
        spot_um: Width of a spot in µm.
        shape: `square` or `hexagonal`.
        pitch_um: Distance between neighbouring centres in µm; `spot_um` when None.
    """

    spot_um: float = 100.0
    shape: Literal["square", "hexagonal"] = "square"
    pitch_um: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no lattice.

        Raises:
            UserError: Naming the setting.
        """
        if not (math.isfinite(self.spot_um) and self.spot_um > 0):
            raise UserError(f"spots of {self.spot_um} µm", where="spot_um", fix="Give µm above 0")
        if self.shape not in ("square", "hexagonal"):
            raise UserError(
                f"unknown lattice '{self.shape}'", where="spot_grid", fix="Use square or hexagonal"
            )
        if not (math.isfinite(self.pitch) and self.pitch >= self.spot_um):
            raise UserError(
                f"spots of {self.spot_um:g} µm do not fit a pitch of {self.pitch:g} µm",
                where="pitch_um",
                fix="Give a pitch that is no smaller than a spot",
            )

    @property
    def pitch(self) -> float:
        """Distance between neighbouring centres in µm."""
        return self.spot_um if self.pitch_um is None else self.pitch_um

    def cells(self, x: np.ndarray, y: np.ndarray) -> Cells:
        """Find the spot of each point.

        Args:
            x: (n,) horizontal positions in µm.
            y: (n,) vertical positions in µm.
        """
        gaps, pitch = self.pitch > self.spot_um, self.pitch
        if self.shape == "square":
            row, column = np.floor(y / pitch), np.floor(x / pitch)
            inside = None
            if gaps:
                across = np.maximum(
                    np.abs(x - (column + 0.5) * pitch), np.abs(y - (row + 0.5) * pitch)
                )
                inside = across <= self.spot_um / 2
            return Cells(row.astype(np.int64), column.astype(np.int64), inside)
        step = pitch * _ROW
        upper = np.floor(y / step)
        best = [self._nearest_of_row(x, y, upper), self._nearest_of_row(x, y, upper + 1)]
        lower = best[1][1] < best[0][1]  # of two as near, the upper one
        row = np.where(lower, upper + 1, upper).astype(np.int64)
        column = np.where(lower, best[1][0], best[0][0]).astype(np.int64)
        square = np.where(lower, best[1][1], best[0][1])
        return Cells(row, column, square <= (self.spot_um / 2) ** 2 if gaps else None)

    def centres(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return the centres of spots, (n, 2) as (x, y) in µm."""
        if self.shape == "square":
            return np.stack([(column + 0.5) * self.pitch, (row + 0.5) * self.pitch], axis=1)
        x = (column + 0.5 * (row % 2)) * self.pitch
        return np.stack([x, row * (self.pitch * _ROW)], axis=1)

    def names(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return a barcode for each spot, such as `s_100um_00012_00034`."""
        size = f"{self.spot_um:g}".zfill(3)
        return np.array(
            [f"s_{size}um_{r:05d}_{c:05d}" for r, c in zip(row.tolist(), column.tolist(),
                                                           strict=True)]
        )  # fmt: skip

    def _nearest_of_row(
        self, x: np.ndarray, y: np.ndarray, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Column of the nearest spot of a row, and its squared distance."""
        shift = 0.5 * (row % 2) * self.pitch
        column = np.rint((x - shift) / self.pitch)
        across = x - (column * self.pitch + shift)
        return column, across**2 + (y - row * (self.pitch * _ROW)) ** 2


@dataclass(frozen=True)
class Pooling:
    """Size and lattice of pseudo-spots; None takes what suits the technology.

    Attributes:
        spot_um: Width of a spot in µm: 100 for Xenium, 112 for Visium HD by default.
        shape: `square` or `hexagonal`.
        pitch_um: Distance between centres in µm; `spot_um` when None, which leaves no gaps.
        min_qv: Least quality value of a transcript of Xenium.
        bin_um: Which bins of Visium HD are pooled; None takes the coarsest that divide a spot.
    """

    spot_um: float | None = None
    shape: Literal["square", "hexagonal"] = "square"
    pitch_um: float | None = None
    min_qv: float = 20.0
    bin_um: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no lattice.

        Raises:
            UserError: Naming the setting.
        """
        self.grid(self.pitch_um if self.spot_um is None and self.pitch_um else 100.0)
        if not 0 <= self.min_qv <= 40:
            raise UserError(
                f"quality values lie between 0 and 40, not at {self.min_qv:g}", where="min_qv"
            )

    def grid(self, default_um: float) -> SpotGrid:
        """Return the lattice; spots are ``default_um`` wide unless a width is asked for."""
        spot = default_um if self.spot_um is None else self.spot_um
        return SpotGrid(spot, self.shape, self.pitch_um)


def sum_bins(counts: sp.csr_matrix, spot: np.ndarray, n_spots: int) -> sp.csr_matrix:
    """Sum bins over spots.

    Args:
        counts: (bins, genes) counts.
        spot: (bins,) spot of each bin; below 0 where a bin belongs to none.
        n_spots: Number of spots.

    Returns:
        (spots, genes) CSR float32.
    """
    used = np.flatnonzero(spot >= 0)
    ones = np.ones(len(used), dtype=np.float32)
    indicator = sp.csr_matrix((ones, (spot[used], used)), shape=(n_spots, len(spot)))
    return sp.csr_matrix(indicator @ counts, dtype=np.float32)
