"""Layers drawn over the picture of a slide, with whatever a reader needs to place them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.explain.colours import layer_colours
from spade_bench.explain.layers import Layer
from spade_bench.explain.places import UNKNOWN_MPP, outside
from spade_bench.explain.raster import rasterise, rasterise_borders
from spade_bench.slides.scalebar import bar_length

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.explain.outlined.regionclasses import RegionClass

    Floats = NDArray[np.float64]

__all__ = [
    "BORDERS",
    "SQUARES",
    "STYLES",
    "Background",
    "View",
    "cover_of",
    "draw_layer",
    "draw_outlines",
    "draw_scale_bar",
    "draw_slide",
    "outline_hex",
    "slide_background",
    "view_of",
]  # fmt: skip

SQUARES, BORDERS = "squares", "borders"
STYLES = (SQUARES, BORDERS)

View = tuple[float, float, float, float]
"""Left, top, right and bottom of what is shown, in level-0 pixels."""

_THUMBNAIL_PX = 2000  # of the longer side
_COVER = 0.6  # how much of the tissue a square hides
_DARKEST = 0.3  # grey of black tissue below squares
_MARGIN = 0.03  # of the longer side of the patches' extent, around them
_PALE = 600  # of 765, the sum of the three colours of white
_TEXT_PT, _BAR_PT = 6.5, 2.0


@dataclass(frozen=True)
class Background:
    """What lies below a map.

    Attributes:
        picture: The whole slide, (h, w, 3) uint8 RGB; None where its file is not at hand.
        width: Width of the slide at level 0 in pixels.
        height: Height of the slide at level 0 in pixels.
        mpp: Micrometres per pixel at level 0; None where unknown.
    """

    picture: NDArray[np.uint8] | None
    width: int
    height: int
    mpp: float | None = None

    @classmethod
    def of(cls, layer: Layer, mpp: float | None = None) -> Background:
        """Return the background of a slide whose file is not at hand: as large as its patches."""
        right, bottom = (int(edge) + layer.side for edge in layer.coords.max(axis=0))
        return cls(None, right, bottom, mpp)


def slide_background(
    path: str | Path, longest_px: int = _THUMBNAIL_PX, *, mpp: float | None = None
) -> Background:
    """Read the picture of a slide.

    Args:
        path: File of the slide.
        longest_px: Longer side of the picture in pixels, never more than at level 0.
        mpp: Micrometres per pixel at level 0 where they are known from elsewhere.

    Raises:
        DataError: When the slide cannot be opened or decoded.
    """
    from spade_bench.slides.opening import open_slide

    with open_slide(Path(path), mpp=mpp, assume_mpp=UNKNOWN_MPP) as slide:
        coarser = max(1.0, max(slide.width, slide.height) / longest_px)
        picture = slide.thumbnail(slide.mpp * coarser)
        known = None if slide.mpp_source == "assumed" else slide.mpp
        return Background(picture, slide.width, slide.height, known)


def draw_layer(
    axes: Any,
    layer: Layer,
    background: Background,
    *,
    limits: tuple[float, float] | None = None,
    style: str = SQUARES,
    view: View | None = None,
) -> None:
    """Draw a layer over its slide on axes in level-0 pixels, without smoothing.

    The tissue below squares is grey, so that every colour is a value; it shows through them.

    Args:
        axes: Axes of matplotlib.
        layer: What to draw; patches without a value are left out.
        background: The slide.
        limits: Values at both ends of the colours; the layer's own by default.
        style: `squares`, or `borders` for the borders of the patches only.
        view: What is shown; the extent of the patches by default.

    Raises:
        DataError: When a patch lies outside the slide.
    """
    import numpy as np

    _check_inside(layer, background)
    if background.picture is not None:
        below = _greyed(background.picture) if style == SQUARES else background.picture
        _draw_picture(axes, below, background)
    raster = rasterise_borders(layer) if style == BORDERS else rasterise(layer)
    known = np.isfinite(raster.values)  # (h, w)
    colours = layer_colours(layer, raster.values[known], limits)  # (m, 3)
    pixels = np.zeros((*raster.values.shape, 4), dtype=np.uint8)  # (h, w, 4)
    pixels[known, :3] = np.rint(255 * np.nan_to_num(colours))
    opaque = ~np.isnan(colours[:, 0])  # (m,)
    pixels[known, 3] = np.rint(255 * cover_of(background, style) * opaque)
    axes.imshow(
        pixels,
        extent=raster.extent,
        interpolation="nearest",
        zorder=2,
    )
    _show(axes, view or view_of([layer], background))


def cover_of(background: Background, style: str) -> float:
    """Return how much of what lies below a patch's colour hides, in 0..1."""
    return _COVER if style == SQUARES and background.picture is not None else 1.0


def draw_slide(axes: Any, background: Background, view: View) -> None:
    """Draw the slide alone, in its own colours; nothing where its picture is not at hand."""
    if background.picture is not None:
        _draw_picture(axes, background.picture, background)
    _show(axes, view)


def draw_outlines(axes: Any, outlined: Sequence[RegionClass]) -> None:
    """Draw each class of regions in its colour.

    A thin white edge keeps a line visible on dark tissue; a dark one does where the line is pale.
    The border that a class shares with one that lies in it is that of the larger one.
    """
    for one in sorted(outlined, key=lambda one: one.area):
        dark = sum(one.colour) < _PALE
        for ring in one.rings:
            axes.plot(*ring.T, color="white" if dark else "black", linewidth=1.8,
                      solid_joinstyle="round", zorder=3)  # fmt: skip
            axes.plot(*ring.T, color=outline_hex(one), linewidth=1.0, solid_joinstyle="round",
                      zorder=4)  # fmt: skip


def outline_hex(one: RegionClass) -> str:
    """Return the colour of a class of regions as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*one.colour)


def draw_scale_bar(axes: Any, view: View, mpp: float, share: float = 0.25) -> None:
    """Draw a bar of a round length at the lower left, its length above it, on a pale ground.

    Args:
        axes: Axes of matplotlib in level-0 pixels.
        view: What they show.
        mpp: Micrometres per pixel at level 0.
        share: Largest share of the width that the bar may take.
    """
    left, top, right, bottom = view
    length, words = bar_length((right - left) * mpp, share)
    x, y = left + 0.03 * (right - left), bottom - 0.03 * max(right - left, bottom - top)
    # Butt ends, or the line's caps would make the bar longer than it says.
    axes.plot([x, x + length / mpp], [y, y], color="black", linewidth=_BAR_PT,
              solid_capstyle="butt", zorder=6)  # fmt: skip
    ground = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
    axes.annotate(words, (x, y), xytext=(0, _BAR_PT / 2 + 1.5), textcoords="offset points",
                  va="bottom", fontsize=_TEXT_PT, zorder=6, bbox=ground)  # fmt: skip


def view_of(layers: Sequence[Layer], background: Background) -> View:
    """Return the extent of the patches of some layers and a margin, within the slide."""
    low = [min(int(layer.coords[:, axis].min()) for layer in layers) for axis in (0, 1)]
    high = [
        max(int(layer.coords[:, axis].max()) + layer.side for layer in layers) for axis in (0, 1)
    ]
    margin = _MARGIN * max(high[0] - low[0], high[1] - low[1])
    margin = max(margin, max(layer.side for layer in layers) / 2)
    left, top = (max(0.0, edge - margin) for edge in low)
    right, bottom = (
        min(background.width, high[0] + margin),
        min(background.height, high[1] + margin),
    )
    return left, top, float(right), float(bottom)


def _check_inside(layer: Layer, background: Background) -> None:
    """Refuse a layer of another slide: patches beyond the edges.

    Raises:
        DataError: Naming the patch that lies farthest out.
    """
    size = (background.width, background.height)
    # A patch that reaches over the edge is white there; one that begins outside is misplaced.
    beyond = outside(layer.coords, layer.side, size)  # (n,)
    if beyond.any():
        x, y = layer.coords[beyond][0]
        raise DataError(
            f"A patch at ({x}, {y}) lies outside the slide of {size[0]} x {size[1]} px",
            where=layer.title,
            fix="Give the slide that the features were extracted from",
        )


def _draw_picture(axes: Any, picture: NDArray[Any], background: Background) -> None:
    extent = (0, background.width, background.height, 0)
    axes.imshow(picture, extent=extent, interpolation="antialiased", zorder=1)


def _greyed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The lightness of a picture, (h, w, 3), without its darkest part."""
    import numpy as np

    grey = picture @ np.array([0.299, 0.587, 0.114])  # (h, w)
    lifted = 255 * _DARKEST + grey * (1 - _DARKEST)
    return np.repeat(lifted.astype(np.uint8)[..., None], 3, axis=-1)


def _show(axes: Any, view: View) -> None:
    left, top, right, bottom = view
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
        spine.set_color("0.6")
