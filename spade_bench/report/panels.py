"""Pictures of a panel an encoder, and the line that says what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spade_bench.files import file_name
from spade_bench.report.series import Series

__all__ = ["MAX_PANELS", "described", "panels", "picture_name"]

MAX_PANELS = 8
_ACROSS = 4


def panels(count: int, height: float) -> tuple[Any, list[Any]]:
    """Make a figure with axes for at most `MAX_PANELS` panels, in reading order.

    Args:
        count: Number of panels wanted.
        height: Height of a row in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = min(count, MAX_PANELS)
    across = min(count, _ACROSS)
    down = -(-count // across)
    width = max(5.0, 3.4 * across)
    figure = Figure(figsize=(width, height * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
    for spare in axes[count:]:
        spare.remove()
    for one in axes[:count]:
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return figure, axes[:count]


def picture_name(*words: str) -> str:
    """File name of a picture of a task, head, protocol and condition, without spaces."""
    return f"{file_name('-'.join(words).replace(' ', '_'))}.png"


def described(own: Sequence[Series]) -> str:
    """Task, head, protocol, condition and shots of a picture, and marks that must be seen."""
    first = own[0]
    shots = {one.k_shot for one in own} - {None}
    words = [first.task, first.head, first.protocol, *first.condition]
    words += [f"tested on {first.tested_on}"] if first.tested_on else []
    words += [f"k={'/'.join(map(str, sorted(k for k in shots if k is not None)))}"] if shots else []
    flags = {flag for one in own for flag in one.flags}
    marks = [("simulated", "simulated data"), ("leaky-splits", "leaky splits")]
    told = [text for flag, text in marks if flag in flags]
    hidden = len(own) - MAX_PANELS
    told += [f"{hidden} more encoder(s) not drawn"] if hidden > 0 else []
    return ", ".join(words) + (f" ({'; '.join(told)})" if told else "")
