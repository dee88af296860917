"""What is drawn on a slide: a value per patch, and how it is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CATEGORY", "SCALES", "SHARE", "SIGNED", "VALUE", "Layer", "percentiles"]

SHARE, SIGNED, VALUE, CATEGORY = "share", "signed", "value", "category"
SCALES = (SHARE, SIGNED, VALUE, CATEGORY)


@dataclass(frozen=True)
class Layer:
    """One value per patch of one slide.

    Pictures, the viewer and GeoJSON all draw layers and know nothing of where they come from.

    Attributes:
        key: Name in files, such as `uni.attention` or `spade.expert`.
        title: What a person reads, such as "UNI: attention".
        legend: What the colours mean, such as "percentile within the slide".
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
        side: Side of a patch in level-0 pixels.
        values: The values, (n,); of a category the index of its name, -1 for none.
        scale: `share` (0 to 1), `signed` (zero in the middle), `value`, or `category`.
        names: Names of the categories.
        ranked: Where ``values`` are the percentiles of other values: those, (n,), for whoever
            points at a patch.
    """

    key: str
    title: str
    legend: str
    coords: NDArray[np.int64]
    side: int
    values: NDArray[np.float64]
    scale: str = SHARE
    names: tuple[str, ...] = ()
    ranked: NDArray[np.float64] | None = None

    def limits(self) -> tuple[float, float]:
        """Return the values at both ends of the colours; those of `signed` lie about zero."""
        import numpy as np

        if self.scale == SHARE:
            return 0.0, 1.0
        if self.scale == CATEGORY:
            return 0.0, float(max(1, len(self.names) - 1))
        finite = self.values[np.isfinite(self.values)]
        if not len(finite):
            return 0.0, 1.0
        if self.scale == SIGNED:
            # One odd patch would leave all others white.
            reach = float(np.quantile(np.abs(finite), 0.99)) or 1.0
            return -reach, reach
        low, high = (float(v) for v in np.quantile(finite, (0.01, 0.99)))
        return (low, high) if high > low else (low, low + 1.0)


def percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of patches with a smaller value, ties counted half, (n,) in 0..1."""
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(values)  # (n,), from 1, ties averaged
    return (ranks - 0.5) / len(ranks)
