"""How much the maps of two encoders agree on a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.explain.slidemap import SlideMap

__all__ = ["Agreement", "agreement", "matching_patches"]

_FEWEST = 3  # two patches always agree, or never


@dataclass(frozen=True)
class Agreement:
    """Agreement of two maps of one slide.

    Attributes:
        slide_id: The slide.
        case_id: Its case.
        a: First encoder.
        b: Second encoder.
        spearman: Rank correlation of what the maps show; None where one of them is constant, or
            fewer than three patches have a partner.
        patches: Patches of the first map that have a partner.
        same_grid: Whether both maps have the same patches; else partners are nearest centres.
    """

    slide_id: str
    case_id: str
    a: str
    b: str
    spearman: float | None
    patches: int
    same_grid: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return dict(vars(self))


def agreement(a: SlideMap, b: SlideMap) -> Agreement:
    """Correlate the ranks that two maps of one slide give its patches.

    Raises:
        DataError: When they are of different slides, or no patches coincide.
    """
    import numpy as np
    from scipy.stats import spearmanr

    if a.slide_id != b.slide_id:
        raise DataError(f"Maps of '{a.slide_id}' and '{b.slide_id}' cannot be compared")
    of_a, of_b, same = matching_patches(a, b)
    if not len(of_a) and a.placed and b.placed:
        raise DataError(
            f"no patch of '{a.encoder}' lies where one of '{b.encoder}' does",
            where=a.slide_id,
            fix="Give features of both encoders that were extracted from the same slide",
        )
    x, y = a.shown[of_a], b.shown[of_b]
    varied = len(x) >= _FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0
    rho = float(spearmanr(x, y).statistic) if varied else None
    return Agreement(a.slide_id, a.case_id, a.encoder, b.encoder, rho, len(of_a), same)


def matching_patches(a: SlideMap, b: SlideMap) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Pair the patches of two maps of a slide.

    On the same grid a patch's partner is the patch in the same place; else it is the one whose
    centre is nearest, within half the side of the larger patch. Patches without a place are paired
    by the images that they were read from; where nobody knows these, none has a partner.

    Returns:
        Rows of the first map, their partners in the second, and whether the grids are the same.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    if not (a.placed and b.placed):
        row_of = {name: row for row, name in enumerate(b.images)}
        pairs = [(row, row_of[name]) for row, name in enumerate(a.images) if name in row_of]
        mine, theirs = np.array(pairs, dtype=np.int64).reshape(-1, 2).T  # (k,) each
        return mine, theirs, bool(a.images) and a.images == b.images
    if a.side == b.side:
        places = np.concatenate([a.coords, b.coords])  # (n + m, 2)
        numbers = np.unique(places, axis=0, return_inverse=True)[1].ravel()  # one per place
        of_a, of_b = np.split(numbers, [len(a.coords)])
        shared, mine, theirs = np.intersect1d(of_a, of_b, return_indices=True)
        if len(shared) * 2 >= min(len(a.coords), len(b.coords)):
            return mine, theirs, True
    reach = max(a.side, b.side) / 2
    tree = cKDTree(b.coords + b.side / 2)
    distance, nearest = tree.query(a.coords + a.side / 2, distance_upper_bound=reach * 1.0001)
    there = np.flatnonzero(np.isfinite(distance))
    return there.astype(np.int64), nearest[there].astype(np.int64), False
