"""Pictures of a report: how a figure is set up, what it is called, and the loop that draws all."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say, track
from spade_bench.files import atomic_path, file_name, hash_obj
from spade_bench.report.series import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MAX_PANELS", "Picture", "described", "draw_pictures", "new_figure", "panels",
           "picture_name"]  # fmt: skip

MAX_PANELS = 8
_ACROSS = 4
_DPI = 130


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn.

    Attributes:
        kind: What it is, such as `learning curve`.
        words: What it shows, such as task, head and protocol; they make the name of its file.
        draw: Makes the figure.
    """

    kind: str
    words: tuple[str, ...]
    draw: Callable[[], Figure]


def draw_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write each picture as a PNG, and say how many of each kind there are.

    Args:
        pictures: What to draw.
        folder: Folder of the pictures.

    Returns:
        The files, in the order of the pictures.
    """
    names = [picture_name(*picture.words) for picture in pictures]
    paths = []
    for picture, name in track(
        zip(pictures, names, strict=True), "Drawing", len(pictures), "pictures"
    ):
        path = folder / (name if names.count(name) == 1 else _marked(name, picture.words))
        figure = picture.draw()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=_DPI)
        paths.append(path)
    kinds = [picture.kind for picture in pictures]
    counts = {kind: kinds.count(kind) for kind in kinds}
    parts = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items()]
    if parts:
        say(f"{', '.join(parts)} in {folder}")
    return paths


def picture_name(*words: str) -> str:
    """Return the file name of a picture, without spaces.

    Words with spaces get a mark: `a b` and `a_b` are two names.
    """
    text = "-".join(words)
    name = f"{file_name(text.replace(' ', '_'))}.png"
    return _marked(name, words) if " " in text else name


def _marked(name: str, words: Sequence[str]) -> str:
    """Put a hash of the words at the end of a name, unless it is there."""
    mark = hash_obj(words)[:8]
    stem = name.removesuffix(".png")
    return name if stem.endswith(mark) else f"{stem}-{mark}.png"


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that can be saved without a screen, and that a notebook shows; in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    # Without pyplot nothing else would tell a notebook how a figure looks.
    setattr(figure, "_repr_png_", partial(_as_png, figure))  # noqa: B010
    return figure


def _as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI, format="png")
    return buffer.getvalue()


def panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    """Make a figure with axes for at most `MAX_PANELS` panels, in reading order.

    Args:
        count: Number of panels wanted.
        height: Height of a row in inches.
    """
    count = min(count, MAX_PANELS)
    across = min(count, _ACROSS)
    down = -(-count // across)
    figure = new_figure(max(5.0, 3.4 * across), height * down)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
    for spare in axes[count:]:
        spare.remove()
    for one in axes[:count]:
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return figure, axes[:count]


def described(shown: Sequence[Series]) -> str:
    """Task, head, protocol, condition and shots of a picture, and marks that must be seen."""
    first = shown[0]
    shots = {one.k_shot for one in shown} - {None}
    words = [first.task, first.head, first.protocol, *first.condition]
    words += [f"tested on {first.tested_on}"] if first.tested_on else []
    words += [f"k={'/'.join(map(str, sorted(k for k in shots if k is not None)))}"] if shots else []
    flags = {flag for one in shown for flag in one.flags}
    known = [("simulated", "simulated data"), ("leaky-splits", "leaky splits")]
    marks = [text for flag, text in known if flag in flags]
    hidden = len(shown) - MAX_PANELS
    marks += [f"{hidden} more encoder(s) not drawn"] if hidden > 0 else []
    return ", ".join(words) + (f" ({'; '.join(marks)})" if marks else "")
