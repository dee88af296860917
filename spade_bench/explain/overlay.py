"""Figures of layers for a paper: one map of a slide, or several beside each other on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import UserError
from spade_bench.explain.colours import category_colours, colour_map
from spade_bench.explain.layers import CATEGORY, SHARE, Layer
from spade_bench.explain.mapdrawing import (
    SQUARES,
    Background,
    Outline,
    View,
    draw_layer,
    draw_outline,
    draw_scale_bar,
    draw_slide,
    slide_background,
    view_of,
)
from spade_bench.files import atomic_path
from spade_bench.report.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spade_bench.explain.places import Crop

__all__ = ["Background", "draw_layer", "overlay_figure", "panel_figure", "save_figure",
           "slide_background"]  # fmt: skip

_INCH = 25.4  # mm
_WIDEST = 180.0  # mm: a page's two columns
_TALLEST_MAP = 120.0  # mm
_NARROWEST = 85.0  # mm: one column
_GAP, _CROP_GAP, _MARGIN, _LINE = 3.0, 1.0, 2.0, 3.2  # mm
_BAR = 17.0  # mm for the colour bar and its labels, or the legend of categories
_ACROSS = 3  # panels in a row
_CROPS_ACROSS = 4
_TEXT_PT, _TITLE_PT = 6.5, 8.0
_DPI = 300


def overlay_figure(
    layer: Layer,
    background: Background,
    title: str,
    *,
    style: str = SQUARES,
    outline: Outline = (),
    crops: Sequence[Crop] = (),
    marks: Sequence[str] = (),
) -> Figure:
    """Draw one layer over one slide: colours explained, a scale bar, crops below.

    Args:
        layer: What to draw.
        background: The slide.
        title: What the picture shows, such as the slide's name.
        style: `squares` or `borders`; see `draw_layer`.
        outline: Rings drawn in black, those of holes too.
        crops: What is seen at the highest places; numbered frames on the map say where.
        marks: What a reader must know, such as "simulated data".
    """
    return panel_figure(
        [layer], background, title, style=style, outline=outline, crops=[crops], marks=marks,
        slide=False,
    )  # fmt: skip


def panel_figure(
    layers: Sequence[Layer],
    background: Background,
    title: str,
    *,
    slide: bool = True,
    style: str = SQUARES,
    outline: Outline = (),
    crops: Sequence[Sequence[Crop]] = (),
    marks: Sequence[str] = (),
) -> Figure:
    """Draw several layers of one slide beside each other, all on one scale of colours.

    Args:
        layers: What to draw, such as the attention of a base encoder and that of SPADE.
        background: The slide.
        title: What the picture shows.
        slide: Whether the slide alone is the first panel, where its picture is at hand.
        style: `squares` or `borders`; see `draw_layer`.
        outline: Rings drawn in black on every panel.
        crops: What is seen at the highest places of each layer, in the order of the layers.
        marks: What a reader must know, such as "simulated data".

    Returns:
        A figure of at most 180 mm across.

    Raises:
        UserError: When the layers cannot share a scale.
        DataError: When a patch lies outside the slide.
    """
    limits = _common_limits(layers)
    view = view_of(layers, background)
    alone = slide and background.picture is not None
    plan = _Plan.of(len(layers) + alone, view, max(map(len, crops), default=0), bool(marks))
    figure = new_figure(plan.width / _INCH, plan.height / _INCH)
    figure.set_layout_engine("none")
    figure.text(_MARGIN / plan.width, 1 - _MARGIN / plan.height, title, va="top",
                fontsize=_TITLE_PT, fontweight="bold")  # fmt: skip
    if marks:
        figure.text(_MARGIN / plan.width, _MARGIN / plan.height, "; ".join(marks), va="bottom",
                    fontsize=_TEXT_PT, fontstyle="italic")  # fmt: skip
    first = None
    if alone:
        first = plan.axes(figure, 0)
        draw_slide(first, background, view)
        _title(first, "H&E", plan)
        draw_outline(first, outline)
    for at, layer in enumerate(layers):
        axes = plan.axes(figure, at + alone)
        draw_layer(axes, layer, background, limits=limits, style=style, view=view)
        draw_outline(axes, outline)
        _title(axes, layer.title, plan)
        first = first or axes
        if at < len(crops):
            _draw_crops(figure, axes, crops[at], plan, background.mpp)
    if background.mpp is not None:
        draw_scale_bar(first, view, background.mpp)
    _explain_colours(figure, plan, layers, limits)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as the suffix of its path says; fonts are embedded in a PDF.

    Args:
        figure: The figure.
        path: Its file, such as `map.png` or `map.pdf`.

    Returns:
        The file.
    """
    from matplotlib import rc_context

    # Type 42 is TrueType: text that can be searched and edited, which journals ask for.
    with atomic_path(path) as temporary, rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        figure.savefig(temporary, dpi=_DPI, metadata=_without_date(path))
    return path


def _without_date(path: Path) -> dict[str, Any]:
    """Metadata that make the same figure the same file."""
    if path.suffix == ".png":
        return {"Software": None}
    return {"CreationDate": None} if path.suffix == ".pdf" else {"Date": None}


@dataclass(frozen=True)
class _Plan:
    """Where everything lies, in millimetres.

    Attributes:
        width: Width of the figure.
        height: Height of the figure.
        map_width: Width of a map.
        map_height: Height of a map.
        crop: Width of a crop.
        crop_rows: Rows of crops below a map.
        across: Panels in a row.
        below: Room at the foot for marks.
    """

    width: float
    height: float
    map_width: float
    map_height: float
    crop: float
    crop_rows: int
    across: int
    below: float

    @classmethod
    def of(cls, panels: int, view: View, crops: int, marked: bool) -> _Plan:
        """Make the maps as large as the page allows."""
        left, top, right, bottom = view
        shape = (bottom - top) / (right - left)
        across = min(panels, _ACROSS)
        room = _WIDEST - 2 * _MARGIN - _GAP - _BAR - (across - 1) * _GAP
        wide = min(room / across, _TALLEST_MAP / shape)
        width = max(_NARROWEST, wide * across + _WIDEST - room)
        crop_rows = -(-crops // _CROPS_ACROSS)
        crop = (wide - (_CROPS_ACROSS - 1) * _CROP_GAP) / _CROPS_ACROSS
        below = _LINE + _CROP_GAP if marked else 0.0
        cell = 2 * _LINE + wide * shape + crop_rows * (crop + _CROP_GAP)
        down = -(-panels // across)
        height = 2 * _MARGIN + 1.5 * _LINE + down * cell + (down - 1) * _GAP + below
        return cls(width, height, wide, wide * shape, crop, crop_rows, across, below)

    def axes(self, figure: Figure, panel: int) -> Any:
        """Make the axes of a panel."""
        left, top = self.corner(panel)
        return self.box(figure, left, top, self.map_width, self.map_height)

    def crop_axes(self, figure: Figure, axes: Any, at: int) -> Any:
        """Make the axes of a crop below a map."""
        row, column = divmod(at, _CROPS_ACROSS)
        place, step = axes.get_position(original=True), self.crop + _CROP_GAP
        left = place.x0 * self.width + column * step
        top = (1 - place.y0) * self.height + _CROP_GAP + row * step
        return self.box(figure, left, top, self.crop, self.crop)

    def corner(self, panel: int) -> tuple[float, float]:
        """Left and top of a panel's map."""
        row, column = divmod(panel, self.across)
        cell = 2 * _LINE + self.map_height + self.crop_rows * (self.crop + _CROP_GAP)
        left = _MARGIN + column * (self.map_width + _GAP)
        return left, _MARGIN + 1.5 * _LINE + row * (cell + _GAP) + 2 * _LINE

    def box(self, figure: Figure, left: float, top: float, width: float, height: float) -> Any:
        """Make axes at a place that is counted from the top left."""
        bottom = self.height - top - height
        return figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )


def _common_limits(layers: Sequence[Layer]) -> tuple[float, float]:
    """The values at both ends of the colours of all layers.

    Raises:
        UserError: When there is no layer, or they are of different scales or categories.
    """
    if not layers:
        raise UserError("There is nothing to draw", fix="Give at least one layer")
    scales = sorted({layer.scale for layer in layers})
    if len(scales) > 1:
        raise UserError(
            f"Layers of different scales ({', '.join(scales)}) cannot share colours",
            fix="Draw them in figures of their own",
        )
    if len({layer.names for layer in layers}) > 1:
        raise UserError(
            "Layers of different categories cannot share colours",
            fix="Draw them in figures of their own",
        )
    limits = [layer.limits() for layer in layers]
    return min(low for low, _ in limits), max(high for _, high in limits)


def _title(axes: Any, words: str, plan: _Plan) -> None:
    """Write what a panel shows above it, on two lines at most."""
    import textwrap

    fits = max(12, int(plan.map_width / 1.15))  # a character takes about 1.15 mm
    lines = textwrap.wrap(words, fits, max_lines=2, placeholder=" ...")
    axes.set_title("\n".join(lines), fontsize=_TEXT_PT, loc="left", pad=2.0)


def _draw_crops(
    figure: Figure, axes: Any, crops: Sequence[Crop], places: _Plan, mpp: float | None
) -> None:
    """Draw crops below their map and a numbered frame for each on it."""
    from matplotlib.patches import Rectangle

    ground = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
    label: dict[str, Any] = {"fontsize": _TEXT_PT - 0.5, "zorder": 6, "bbox": ground, "va": "top"}
    for at, crop in enumerate(crops):
        frame = Rectangle((crop.x, crop.y), crop.side, crop.side, fill=False, zorder=5)
        frame.set(edgecolor="black", linewidth=0.9)
        axes.add_patch(frame)
        axes.annotate(str(at + 1), (crop.x, crop.y), xytext=(1.6, -1.6),
                      textcoords="offset points", **label)  # fmt: skip
        inset = places.crop_axes(figure, axes, at)
        inset.imshow(crop.pixels, interpolation="antialiased", extent=(0, crop.side, crop.side, 0))
        inset.set_axis_off()
        inset.text(0.03, 0.97, str(at + 1), transform=inset.transAxes, **label)
        if at == 0 and mpp is not None:
            draw_scale_bar(inset, (0.0, 0.0, crop.side, crop.side), mpp, share=0.5)


def _explain_colours(
    figure: Figure, plan: _Plan, layers: Sequence[Layer], limits: tuple[float, float]
) -> None:
    """Draw a colour bar right of the first row, or a legend of the categories."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    left = _MARGIN + plan.across * (plan.map_width + _GAP)
    _, top = plan.corner(0)
    legends = list(dict.fromkeys(layer.legend for layer in layers))
    if layers[0].scale == CATEGORY:
        names = layers[0].names
        handles = [
            Patch(color=tuple(colour), label=name)
            for colour, name in zip(category_colours(len(names)), names, strict=True)
        ]
        figure.legend(handles=handles, title=legends[0], fontsize=_TEXT_PT - 0.5,
                      title_fontsize=_TEXT_PT, frameon=False, loc="upper left", borderpad=0,
                      handlelength=1.0, handleheight=1.0,
                      bbox_to_anchor=(left / plan.width, 1 - top / plan.height))  # fmt: skip
        return
    tall = min(plan.map_height, 45.0)
    box = plan.box(figure, left, top + (plan.map_height - tall) / 2, 3.0, tall)
    colours = ScalarMappable(Normalize(*limits), colour_map(layers[0].scale))
    extend = "neither" if layers[0].scale == SHARE else "both"
    bar = figure.colorbar(colours, cax=box, extend=extend)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=_TEXT_PT - 0.5, width=0.4, length=2)
    bar.set_label("\n".join(legends), fontsize=_TEXT_PT)
