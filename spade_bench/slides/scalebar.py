"""The length of a scale bar: round, and in words."""

from __future__ import annotations

import math

__all__ = ["bar_length"]


def bar_length(across_um: float, share: float = 0.25) -> tuple[float, str]:
    """Return the longest round length that takes at most a share of a picture, and its words.

    Args:
        across_um: Width of the picture in µm, above zero.
        share: Largest share of it that the bar may take.

    Returns:
        The length in µm (1, 2 or 5 times a power of ten), and `200 µm` or `2 mm`.
    """
    wanted = across_um * share
    step = 10.0 ** math.floor(math.log10(wanted))
    length = step * max(factor for factor in (1, 2, 5) if factor * step <= wanted * (1 + 1e-9))
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
