"""Figures of layers for a paper: one map of a slide, or several beside each other on one scale."""

from __future__ import annotations

import io
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
    View,
    cover_of,
    draw_layer,
    draw_outlines,
    draw_scale_bar,
    draw_slide,
    outline_hex,
    slide_background,
    view_of,
)
from spade_bench.files import atomic_path
from spade_bench.report.contactsheet import save_figure
from spade_bench.report.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spade_bench.explain.outlined.regionclasses import RegionClass
    from spade_bench.explain.places import Crop

__all__ = ["Background", "draw_layer", "overlay_figure", "panel_figure", "save_figure",
           "save_map", "slide_background"]  # fmt: skip

_INCH = 25.4  # mm
_WIDEST = 180.0  # mm: a page's two columns
_TALLEST_MAP = 120.0  # mm
_NARROWEST = 85.0  # mm: one column
_GAP, _CROP_GAP, _MARGIN, _LINE = 3.0, 1.0, 2.0, 3.2  # mm
_BAR = 16.0  # mm for the colour bar and its labels
_TALLEST_BAR = 50.0  # mm
_SMALL_FRAME = 8.0  # mm
_LETTER, _BOLD_LETTER = 1.25, 1.75  # mm that a letter of a text, and one of a title, takes
_OUTLINED, _SWATCH = 12.0, 7.0  # mm: the word before a legend of outlines, and a line in it
_ACROSS = 3  # panels in a row
_CROPS_ACROSS = 4
_TEXT_PT, _TITLE_PT = 6.5, 8.0
_PNG_DPI, _SHADES = 220, 4


def save_map(figure: Figure, path: Path) -> Path:
    """Write a figure of maps; a PNG at a third of the size that all its shades would take.

    The grain of tissue is what fills a PNG. It is written at 220 dots per inch, and every channel
    as a multiple of four, which no eye and no reading of the colour bar tells from the rest; the
    PDF has all shades at 300.

    Args:
        figure: The figure.
        path: Its file, such as `map.png` or `map.pdf`.

    Returns:
        The file.
    """
    import numpy as np
    from PIL import Image

    if path.suffix.lower() != ".png":
        return save_figure(figure, path)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_PNG_DPI, format="png", pil_kwargs={"compress_level": 0})
    with Image.open(drawn) as whole:
        pixels = np.asarray(whole.convert("RGB"))  # (h, w, 3)
    coarse = np.rint(pixels / _SHADES) * _SHADES  # 255 becomes 256, which is white
    with atomic_path(path) as temporary:
        Image.fromarray(np.minimum(coarse, 255).astype(np.uint8)).save(
            temporary, dpi=(_PNG_DPI, _PNG_DPI), compress_level=6
        )
    return path


def overlay_figure(
    layer: Layer,
    background: Background,
    title: str,
    *,
    style: str = SQUARES,
    outlined: Sequence[RegionClass] = (),
    crops: Sequence[Crop] = (),
    marks: Sequence[str] = (),
    subtitle: str = "",
) -> Figure:
    """Draw one layer over one slide: colours explained, a scale bar, crops below.

    Args:
        layer: What to draw.
        background: The slide.
        title: What the picture shows, such as the slide's name.
        style: `squares` or `borders`; see `draw_layer`.
        outlined: Regions, each class in its colour, which a legend explains.
        crops: What is seen at the highest places; numbered frames on the map say where.
        marks: What a reader must know, such as "simulated data".
        subtitle: What stands below the title, such as the case, the prediction and the truth.
    """
    return panel_figure(
        [layer], background, title, style=style, outlined=outlined, crops=[crops], marks=marks,
        slide=False, subtitle=subtitle,
    )  # fmt: skip


def panel_figure(
    layers: Sequence[Layer],
    background: Background,
    title: str,
    *,
    slide: bool = True,
    style: str = SQUARES,
    outlined: Sequence[RegionClass] = (),
    crops: Sequence[Sequence[Crop]] = (),
    marks: Sequence[str] = (),
    subtitle: str = "",
) -> Figure:
    """Draw several layers of one slide beside each other, all on one scale of colours.

    Args:
        layers: What to draw, such as the attention of a base encoder and that of SPADE.
        background: The slide.
        title: What the picture shows.
        slide: Whether the slide alone is the first panel, where its picture is at hand.
        style: `squares` or `borders`; see `draw_layer`.
        outlined: Regions, on every panel; each class in its colour, which a legend explains.
        crops: What is seen at the highest places of each layer, in the order of the layers.
        marks: What a reader must know, such as "simulated data".
        subtitle: What stands below the title.

    Returns:
        A figure of at most 180 mm across.

    Raises:
        UserError: When the layers cannot share a scale.
        DataError: When a patch lies outside the slide.
    """
    limits = _common_limits(layers)
    view = view_of(layers, background)
    alone = slide and background.picture is not None
    titles = ["H&E"] * alone + [layer.title for layer in layers]
    plan = _Plan.of(titles, view, (title, subtitle, "; ".join(marks)), _key_width(layers[0]),
                    crops=max(map(len, crops), default=0),
                    outlines=[one.name for one in outlined])  # fmt: skip
    figure = new_figure(plan.width / _INCH, plan.height / _INCH)
    figure.set_layout_engine("none")
    plan.write(figure)
    panels = [plan.axes(figure, at) for at in range(len(titles))]
    if alone:
        draw_slide(panels[0], background, view)
    for at, layer in enumerate(layers):
        axes = panels[at + alone]
        draw_layer(axes, layer, background, limits=limits, style=style, view=view)
        if at < len(crops):
            _draw_crops(figure, axes, crops[at], plan, background.mpp)
    for axes, words in zip(panels, plan.titles, strict=True):
        axes.set_title(words, fontsize=_TEXT_PT, loc="left", pad=2.0, linespacing=1.1)
        draw_outlines(axes, outlined)
    if background.mpp is not None:
        draw_scale_bar(panels[0], view, background.mpp)
    _explain_colours(figure, plan, layers, limits, cover_of(background, style))
    _explain_outlines(figure, plan, outlined)
    return figure


@dataclass(frozen=True)
class _Plan:
    """Where everything lies, in millimetres.

    Attributes:
        width: Width of the figure.
        height: Height of the figure.
        map_width: Width of a map.
        map_height: Height of a map.
        crop: Width of a crop.
        cell: Height of a panel with its title and crops.
        across: Panels in a row.
        title: Title of the figure, on as many lines as it takes.
        titles: Titles of the panels, on two lines at most.
        subtitle: What stands below the title, on three lines at most.
        foot: Marks at the foot, on three lines at most.
        outlines: Names of the outlined classes in the legend above the foot, on one line each.
        columns: Names of outlined classes beside each other.
    """

    width: float
    height: float
    map_width: float
    map_height: float
    crop: float
    cell: float
    across: int
    title: str
    titles: tuple[str, ...]
    subtitle: str
    foot: str
    outlines: tuple[str, ...]
    columns: int

    @classmethod
    def of(
        cls,
        titles: Sequence[str],
        view: View,
        words: tuple[str, str, str],
        key: float,
        *,
        crops: int,
        outlines: Sequence[str],
    ) -> _Plan:
        """Make the maps as large as the page allows.

        Args:
            titles: Titles of the panels.
            view: What each shows.
            words: Title and subtitle of the figure, and what stands at its foot.
            key: Room for the meaning of the colours in mm.
            crops: Most crops of a panel.
            outlines: Names of the outlined classes.
        """
        left, top, right, bottom = view
        shape = (bottom - top) / (right - left)
        across = min(len(titles), _ACROSS)
        taken = 2 * _MARGIN + across * _GAP + key
        wide = min((_WIDEST - taken) / across, _TALLEST_MAP / shape)
        width = min(_WIDEST, max(_NARROWEST, wide * across + taken))
        wrapped = [_wrapped(one, wide / _LETTER, 2) for one in titles]
        lines = max(one.count("\n") + 1 for one in wrapped)
        above = _wrapped(words[0], (width - 2 * _MARGIN) / _BOLD_LETTER, 3)
        below, foot = (_wrapped(said, (width - 2 * _MARGIN) / _LETTER, 3) for said in words[1:])
        crop = (wide - (_CROPS_ACROSS - 1) * _CROP_GAP) / _CROPS_ACROSS
        cell = lines * _LINE + wide * shape + -(-crops // _CROPS_ACROSS) * (crop + _CROP_GAP)
        down = -(-len(titles) // across)
        height = 2 * _MARGIN + _head(above, below) + down * cell + (down - 1) * _GAP
        height += (foot.count("\n") + 1) * _LINE + _CROP_GAP if foot else 0.0
        names = tuple(_wrapped(name, (width - 2 * _MARGIN - _SWATCH) / _LETTER, 1)
                      for name in outlines)  # fmt: skip
        longest = _SWATCH + max(map(len, names), default=0) * _LETTER
        columns = max(1, min(len(names), int((width - 2 * _MARGIN - _OUTLINED) / longest)))
        height += -(-len(names) // columns) * _LINE + _CROP_GAP if names else 0.0
        return cls(width, height, wide, wide * shape, crop, cell, across, above, tuple(wrapped),
                   below, foot, names, columns)  # fmt: skip

    def write(self, figure: Figure) -> None:
        """Write title and subtitle at the head, and marks at the foot."""
        left, top = _MARGIN / self.width, 1 - _MARGIN / self.height
        below = top - _head(self.title, "") / self.height
        more: dict[str, Any] = {"va": "top", "linespacing": 1.1}
        figure.text(left, top, self.title, fontsize=_TITLE_PT, fontweight="bold", **more)
        figure.text(left, below, self.subtitle, fontsize=_TEXT_PT, **more)
        more["va"] = "bottom"
        figure.text(left, _MARGIN / self.height, self.foot, fontsize=_TEXT_PT, fontstyle="italic",
                    **more)  # fmt: skip

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
        lines = max(words.count("\n") + 1 for words in self.titles)
        left = _MARGIN + column * (self.map_width + _GAP)
        head = _head(self.title, self.subtitle)
        return left, _MARGIN + head + row * (self.cell + _GAP) + lines * _LINE

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


def _wrapped(words: str, letters: float, most: int) -> str:
    """Break words into lines of so many letters; what does not fit ends in dots."""
    import textwrap

    return "\n".join(
        textwrap.wrap(words, max(12, int(letters)), max_lines=most, placeholder=" ...")
    )


def _head(title: str, subtitle: str) -> float:
    """Height of the title and the subtitle of a figure in mm."""
    below = (subtitle.count("\n") + 1) * _LINE + 0.6 if subtitle else 0.0
    return (title.count("\n") + 1) * 1.2 * _LINE + 1.0 + below


def _key_width(layer: Layer) -> float:
    """Width of the colour bar and its labels in mm, or of the legend of categories."""
    if layer.scale != CATEGORY:
        return _BAR
    letters = max((len(name) for name in (*layer.names, layer.legend)), default=0)
    return min(6.0 + letters * _LETTER, _WIDEST / 4)


def _draw_crops(
    figure: Figure, axes: Any, crops: Sequence[Crop], places: _Plan, mpp: float | None
) -> None:
    """Draw crops below their map and a numbered frame for each on it."""
    import numpy as np
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    ground = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
    label: dict[str, Any] = {"fontsize": _TEXT_PT - 0.5, "zorder": 6, "bbox": ground, "va": "top"}
    for at, crop in enumerate(crops):
        frame = Rectangle((crop.x, crop.y), crop.side, crop.side, fill=False, zorder=5)
        # Dashes on white, which no outline of a region has.
        frame.set(edgecolor="black", linewidth=0.9, linestyle=(0, (4, 2)))
        frame.set_path_effects([withStroke(linewidth=1.7, foreground="white")])
        axes.add_patch(frame)
        # In a small frame a number would hide what is framed.
        small = crop.side / np.ptp(axes.get_xlim()) * places.map_width < _SMALL_FRAME
        corner = (crop.x + crop.side if small else crop.x, crop.y)
        axes.annotate(str(at + 1), corner, xytext=(1.6, 1.0 if small else -1.6),
                      textcoords="offset points", **label)  # fmt: skip
        inset = places.crop_axes(figure, axes, at)
        inset.imshow(crop.pixels, interpolation="antialiased", extent=(0, crop.side, crop.side, 0))
        inset.set_axis_off()
        inset.text(0.03, 0.97, str(at + 1), transform=inset.transAxes, **label)
        if at == 0 and mpp is not None:
            draw_scale_bar(inset, (0.0, 0.0, crop.side, crop.side), mpp, share=0.5)


def _explain_outlines(figure: Figure, plan: _Plan, outlined: Sequence[RegionClass]) -> None:
    """Say above the foot which class has which outline."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import Normal, Stroke

    if not outlined:
        return
    foot = (plan.foot.count("\n") + 1) * _LINE + _CROP_GAP if plan.foot else 0.0
    bottom = (_MARGIN + foot) / plan.height
    rows = -(-len(plan.outlines) // plan.columns)
    top = bottom + rows * _LINE / plan.height
    figure.text(_MARGIN / plan.width, top, "Outlined:", fontsize=_TEXT_PT, va="top")
    edge = [Stroke(linewidth=1.8, foreground="0.75"), Normal()]
    handles = [
        Line2D([], [], color=outline_hex(one), linewidth=1.2, label=name, path_effects=edge)
        for one, name in zip(outlined, plan.outlines, strict=True)
    ]
    figure.legend(
        handles=handles, fontsize=_TEXT_PT, frameon=False, loc="upper left", ncols=plan.columns,
        borderpad=0, borderaxespad=0, handlelength=1.4, handletextpad=0.5, labelspacing=0.25,
        columnspacing=1.2,
        bbox_to_anchor=((_MARGIN + _OUTLINED) / plan.width, top + 0.2 / plan.height),
    )  # fmt: skip


def _explain_colours(
    figure: Figure,
    plan: _Plan,
    layers: Sequence[Layer],
    limits: tuple[float, float],
    cover: float,
) -> None:
    """Draw a colour bar right of the first row, or a legend of the categories.

    The colours are those of squares on glass, as pale as on the map.
    """
    import numpy as np
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Patch

    left = _MARGIN + plan.across * (plan.map_width + _GAP)
    _, top = plan.corner(0)
    legends = "\n".join(dict.fromkeys(layer.legend for layer in layers))
    if layers[0].scale == CATEGORY:
        names = layers[0].names
        shades = cover * category_colours(len(names)) + (1 - cover)
        handles = [
            Patch(facecolor=tuple(shade), edgecolor="0.4", linewidth=0.3, label=name)
            for shade, name in zip(shades, names, strict=True)
        ]
        figure.legend(
            handles=handles, title=legends, fontsize=_TEXT_PT - 0.5, title_fontsize=_TEXT_PT,
            frameon=False, loc="upper left", borderpad=0, handlelength=1.0, handleheight=1.0,
            alignment="left", borderaxespad=0, labelspacing=0.35,
            bbox_to_anchor=(left / plan.width, 1 - top / plan.height),
        )  # fmt: skip
        return
    tall = min(plan.map_height, _TALLEST_BAR)
    box = plan.box(figure, left, top + (plan.map_height - tall) / 2, 3.0, tall)
    colours = colour_map(layers[0].scale)(np.linspace(0, 1, 256))[:, :3]
    shown = ListedColormap(cover * colours + (1 - cover))
    extend = "neither" if layers[0].scale == SHARE else "both"
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), shown), cax=box, extend=extend)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=_TEXT_PT - 0.5, width=0.4, length=2)
    bar.set_label(_wrapped(legends, tall / _LETTER, 3), fontsize=_TEXT_PT)
