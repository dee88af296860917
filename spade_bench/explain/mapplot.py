"""A plain picture of the map of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spade_bench.explain.slidemap import SlideMap

__all__ = ["draw_map"]

_COLOURS = "viridis"
_THUMBNAIL_PX = 2000


def draw_map(shown: SlideMap) -> Figure:
    """Draw the percentile of each patch over the slide, without smoothing.

    Returns:
        A figure; the slide lies below the patches where its file is known.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    from spade_bench.report.pictures import new_figure

    picture, width, height, mpp = _background(shown)
    figure = new_figure(8.0, max(3.0, 7.0 * height / width))
    axes = figure.add_subplot()
    if picture is not None:
        axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
    layer = shown.layers()[0]
    squares = [Rectangle((float(x), float(y)), layer.side, layer.side) for x, y in layer.coords]
    cover = 0.55 if picture is not None else 1.0
    drawn = PatchCollection(squares, cmap=_COLOURS, alpha=cover, linewidths=0)
    drawn.set_array(layer.values)
    drawn.set_clim(*layer.limits())
    axes.add_collection(drawn)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label=layer.legend)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    if mpp is not None:
        _scale_bar(axes, width, height, mpp)
    marks = "".join(f" ({mark})" for mark in shown.marks)
    axes.set_title(f"{shown.slide_id}, {layer.title}{marks}", fontsize=9)
    return figure


def _background(shown: SlideMap) -> tuple[Any, int, int, float | None]:
    """The slide as a picture, and its width, height and µm per pixel at level 0."""
    if shown.slide is None:
        right, bottom = (int(v) + shown.side for v in shown.coords.max(axis=0))
        return None, right, bottom, shown.mpp
    from spade_bench.slides.opening import open_slide

    with open_slide(shown.slide, assume_mpp=1.0) as slide:
        longer = max(slide.width, slide.height)
        picture = slide.thumbnail(slide.mpp * max(1.0, longer / _THUMBNAIL_PX))
        return picture, slide.width, slide.height, shown.mpp


def _scale_bar(axes: Any, width: int, height: int, mpp: float) -> None:
    """Draw a bar of a round length, about a fifth of the width, at the lower left."""
    import numpy as np

    wanted = width * mpp / 5
    step = 10.0 ** np.floor(np.log10(wanted))
    length = step * max(m for m in (1, 2, 5) if m * step <= wanted)
    y, left = height * 0.97, width * 0.03
    axes.plot([left, left + length / mpp], [y, y], color="black", linewidth=3)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    axes.annotate(text, (left, y), xytext=(0, 4), textcoords="offset points", fontsize=8)
