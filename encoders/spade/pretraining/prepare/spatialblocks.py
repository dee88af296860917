"""Held-out blocks within a section: what a cohort of few patients can validate on.

A strip at one end of the section chooses the epoch and one at the other end is reported on. Spots
that lie near a strip belong to no split: expression and tissue change smoothly, and patches that
overlap show the same cells, so a neighbour in training would give a held-out spot away.

Source: spatial blocks with a buffer, Roberts et al., Ecography 40 (2017), 913-929.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade_bench.encoders.spade.streams import stream_seed

__all__ = ["GUARD_PITCHES", "MIN_SECTION_SPOTS", "section_blocks", "spot_pitch"]

GUARD_PITCHES = 2.0
"""Training spots lie at least this many spot distances from a held-out one, along x or y."""
MIN_SECTION_SPOTS = 50
"""A section with fewer spots than this trains as a whole: its strips would hold a handful."""


def section_blocks(
    xy: NDArray[np.float64],
    *,
    val: float,
    test: float,
    patch_side: float = 0.0,
    seed: int = 0,
    name: str = "",
) -> NDArray[np.str_]:
    """Split the spots of one section.

    Args:
        xy: Spot centres (n, 2), any unit of length.
        val: Share of the spots in the strip that chooses.
        test: Share in the strip that is reported on.
        patch_side: Side of a spot's patch in the same unit; training patches overlap no held-out
            one.
        seed: Seed of the direction.
        name: The section; each has a direction of its own.

    Returns:
        `train`, `val`, `test` or, for the guard, an empty string for each spot, (n,).
    """
    n = len(xy)
    split = np.full(n, "train", dtype="<U5")
    if n < MIN_SECTION_SPOTS or val + test <= 0:
        return split
    angle = np.random.default_rng(stream_seed(seed, 0, "blocks", name)).uniform(0, 2 * np.pi)
    along = xy @ np.array([np.cos(angle), np.sin(angle)])  # (n,)
    order = np.lexsort((xy[:, 1], xy[:, 0], along))
    split[order[: round(val * n)]] = "val"
    if (last := round(test * n)) > 0:
        split[order[n - last :]] = "test"
    held_out = split != "train"
    if held_out.any():
        guard = max(GUARD_PITCHES * spot_pitch(xy), patch_side)
        split[~held_out & (_distance(xy, xy[held_out]) < guard * (1 - 1e-3))] = ""
    return split


def spot_pitch(xy: NDArray[np.float64]) -> float:
    """Return the median distance of a spot to its nearest neighbour, in the unit of ``xy``."""
    from scipy.spatial import cKDTree

    return float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))


def _distance(xy: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance to the nearest of ``to``, (n,): the larger of that along x and along y.

    It is the one in which square patches of some side overlap when it is below that side.
    """
    from scipy.spatial import cKDTree

    found: NDArray[np.float64] = cKDTree(to).query(xy, p=np.inf)[0]
    return found
