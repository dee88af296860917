"""The colours of layers: one choice for pictures, pages and QuPath."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spade_bench.explain.layers import CATEGORY, SHARE, SIGNED, VALUE, Layer

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

__all__ = ["category_colours", "colour_map", "layer_colours", "outline_colours"]

# Even in lightness, and told apart by readers who see two of the three basic colours.
_MAPS = {SHARE: "viridis", VALUE: "cividis"}
# Blue, white, vermilion: the ends differ for every reader, and zero is no colour at all.
_SIGNED = ("#08306b", "#2b7bba", "#9ecae1", "#ffffff", "#fdb97d", "#e4580b", "#7f2704")
# Okabe and Ito's eight without black, which outlines are drawn in, and yellow last: it is faint.
_CATEGORIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
# The same for lines on maps: what differs most from viridis and from grey tissue comes first.
_OUTLINES = ("#d55e00", "#56b4e9", "#cc79a7", "#e69f00", "#009e73", "#0072b2", "#f0e442")


def colour_map(scale: str) -> Colormap:
    """Return the colours of a scale of numbers.

    Args:
        scale: `share`, `value` or `signed`; see `layers.SCALES`.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    if scale == SIGNED:
        return LinearSegmentedColormap.from_list("signed", _SIGNED)
    return colormaps[_MAPS[scale]]


def category_colours(count: int) -> NDArray[np.float64]:
    """Return a colour per category, (count, 3) in 0..1.

    The first seven are told apart without colour vision's red or green; further ones are lighter
    or darker shades, so that a legend beside them is needed to read more than about fourteen.
    """
    return _shaded(_CATEGORIES, count)


def outline_colours(count: int) -> NDArray[np.int64]:
    """Return a colour per class of outlines, (count, 3) in 0..255: black, then colours."""
    import numpy as np

    colours = np.concatenate([np.zeros((1, 3)), _shaded(_OUTLINES, max(0, count - 1))])
    whole: NDArray[np.int64] = np.rint(255 * colours[:count]).astype(np.int64)
    return whole


def _shaded(names: Sequence[str], count: int) -> NDArray[np.float64]:
    """Colours, then darker and paler shades of them, (count, 3) in 0..1."""
    import numpy as np
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv, to_rgb

    basic = rgb_to_hsv(np.array([to_rgb(one) for one in names]))  # (7, 3)
    rounds = []
    for turn in range(-(-count // len(basic))):
        shade = basic.copy()
        if turn % 2:  # darker
            shade[:, 2] *= 0.55 * 0.8 ** (turn // 2)
        elif turn:  # paler
            shade[:, 1] *= 0.45 * 0.7 ** (turn // 2 - 1)
            shade[:, 2] = 1.0 - 0.25 * (1.0 - shade[:, 2])
        rounds.append(hsv_to_rgb(shade))
    return np.concatenate(rounds)[:count] if count else np.empty((0, 3))


def layer_colours(
    layer: Layer,
    values: NDArray[np.float64] | None = None,
    limits: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """Return the colours of a layer's values, without transparency.

    Args:
        layer: What is drawn.
        values: Values of any shape instead of the layer's own; NaN for none.
        limits: Values at both ends of the colours; the layer's own by default.

    Returns:
        RGB in 0..1, (..., 3); NaN where there is no value, or no category.
    """
    import numpy as np

    given = np.asarray(layer.values if values is None else values, dtype=np.float64)
    known = np.isfinite(given)
    colours = np.full((*given.shape, 3), np.nan)
    if layer.scale == CATEGORY:
        known &= given >= 0
        palette = category_colours(max(len(layer.names), int(given[known].max(initial=-1)) + 1))
        colours[known] = palette[given[known].astype(np.int64)]
        return colours
    low, high = limits or layer.limits()
    share = np.clip((given[known] - low) / (high - low), 0.0, 1.0)
    colours[known] = colour_map(layer.scale)(share)[:, :3]
    return colours
