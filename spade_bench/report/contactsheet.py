"""Contact sheets: many small pictures on one page, each with what is known of it below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.files import atomic_path
from spade_bench.report.drawing.look import UNDATED
from spade_bench.report.pictures import new_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

__all__ = ["Tile", "TileGroup", "save_figure", "sheet_figure"]

_INCH, _POINT = 25.4, 25.4 / 72  # mm
_WIDTH, _MARGIN, _GAP = 180.0, 2.0, 0.8  # mm
_TITLE_PT, _HEADING_PT, _CAPTION_PT = 8.0, 7.0, 5.0
_LEADING = 1.25  # of the size of the letters
_LETTER = 0.62  # of the size of the letters: what one takes in a line, on average
_DPI = 300
_PER_MM = _DPI / _INCH


@dataclass(frozen=True)
class Tile:
    """A small picture.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, shown as large as a square allows.
        lines: What stands below it, line by line; too long ones are cut in the middle.
        frame: Colour of its frame; None for none.
    """

    pixels: NDArray[np.uint8]
    lines: tuple[str, ...]
    frame: str | None = None


@dataclass(frozen=True)
class TileGroup:
    """Tiles under one heading."""

    heading: str
    tiles: Sequence[Tile]


def sheet_figure(
    title: str,
    groups: Sequence[TileGroup],
    *,
    across: int = 10,
    bar: tuple[float, str] | None = None,
    marks: Sequence[str] = (),
) -> Figure:
    """Lay out tiles on a page 180 mm wide and as tall as they need.

    Args:
        title: What the sheet shows.
        groups: The tiles.
        across: Tiles in a row.
        bar: Length of a scale bar as a share of a tile's width, and its words; drawn once, for
            tiles that are all of one scale.
        marks: What a reader must know, such as "simulated data".
    """
    import numpy as np
    from PIL import Image

    tile = (_WIDTH - 2 * _MARGIN - (across - 1) * _GAP) / across
    lines = max((len(one.lines) for group in groups for one in group.tiles), default=0)
    row = tile + 0.4 + lines * _line(_CAPTION_PT) + _GAP
    head = _broken(title, _WIDTH - 2 * _MARGIN - (2 * tile if bar else 0), _TITLE_PT * 1.1)
    top = _MARGIN + (head.count("\n") + 1) * _line(_TITLE_PT) + 1.0
    heights = [
        _line(_HEADING_PT) + 1.0 + -(-len(group.tiles) // across) * row + 1.5 for group in groups
    ]
    height = top + sum(heights) + _MARGIN + (_line(_HEADING_PT) if marks else 0)
    figure = new_figure(_WIDTH / _INCH, height / _INCH)
    figure.set_layout_engine("none")
    page = figure.add_axes((0, 0, 1, 1))  # in mm, from the top left
    page.set_axis_off()
    page.text(_MARGIN, _MARGIN, head, va="top", fontsize=_TITLE_PT, fontweight="bold")
    if bar is not None:
        _draw_bar(page, tile, *bar)
    canvas = Image.new("RGB", (round(_WIDTH * _PER_MM), round(height * _PER_MM)), "white")
    for group, tall in zip(groups, heights, strict=True):
        page.text(_MARGIN, top, group.heading, va="top", fontsize=_HEADING_PT)
        for at, one in enumerate(group.tiles):
            down, right = divmod(at, across)
            left = _MARGIN + right * (tile + _GAP)
            corner = (left, top + _line(_HEADING_PT) + 1.0 + down * row)
            _place_tile(canvas, one.pixels, corner, tile)
            _write_below(page, one, corner, tile)
        top += tall
    page.text(_MARGIN, height - _MARGIN, "; ".join(marks), va="bottom", fontsize=_HEADING_PT,
              fontstyle="italic")  # fmt: skip
    # One picture below all text: matplotlib takes long over a hundred small ones.
    page.imshow(np.asarray(canvas), extent=(0, _WIDTH, height, 0), interpolation="antialiased",
                zorder=0)  # fmt: skip
    page.set_xlim(0, _WIDTH)
    page.set_ylim(height, 0)
    page.set_aspect("auto")
    return figure


def save_figure(figure: Figure, path: Path, *, dpi: int = _DPI) -> Path:
    """Write a figure as the suffix of its path says; a PDF holds its fonts, and no date.

    Args:
        figure: The figure.
        path: Its file, such as `map.png` or `map.pdf`.
        dpi: Pixels per inch of its pictures.

    Returns:
        The file.
    """
    suffix = path.suffix.lower().removeprefix(".")
    packed = {"png": {"compress_level": 4}, "jpg": {"quality": 88}}
    more: dict[str, Any] = {"pil_kwargs": packed[suffix]} if suffix in packed else {}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata=UNDATED.get(suffix), **more)
    return path


def _place_tile(
    canvas: PILImage, pixels: NDArray[np.uint8], corner: tuple[float, float], side: float
) -> None:
    """Paste a picture into the middle of a square, whose upper left corner is given in mm."""
    from PIL import Image

    tall, wide = pixels.shape[:2]
    scale = side * _PER_MM / max(tall, wide)
    size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    free = [side * _PER_MM - length for length in size]
    place = [round(edge * _PER_MM + rest / 2) for edge, rest in zip(corner, free, strict=True)]
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    canvas.paste(picture, (place[0], place[1]))


def _write_below(page: Any, tile: Tile, corner: tuple[float, float], side: float) -> None:
    """Draw the frame and the lines of a tile."""
    from matplotlib.patches import Rectangle

    if tile.frame is not None:
        page.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=tile.frame, linewidth=1))
    letters = int(side / (_CAPTION_PT * _POINT * _LETTER))
    words = "\n".join(_shortened(line, letters) for line in tile.lines)
    page.text(corner[0], corner[1] + side + 0.4, words, va="top", fontsize=_CAPTION_PT,
              linespacing=1.1)  # fmt: skip


def _draw_bar(page: Any, tile: float, share: float, words: str) -> None:
    """Draw the scale bar at the upper right."""
    right, y = _WIDTH - _MARGIN, _MARGIN + 1.0
    page.plot([right - share * tile, right], [y, y], color="black", linewidth=2.0,
              solid_capstyle="butt")  # fmt: skip
    page.text(right, y + 0.8, words, va="top", ha="right", fontsize=_HEADING_PT)


def _line(points: float) -> float:
    """Height of a line of text in mm."""
    return points * _LEADING * _POINT


def _broken(words: str, width: float, points: float) -> str:
    """Break words into lines that fit a width in mm."""
    import textwrap

    letters = int(width / (points * _POINT * _LETTER))
    return "\n".join(textwrap.wrap(words, max(12, letters)))


def _shortened(words: str, letters: int) -> str:
    """Cut what is too long in its middle: names of slides differ at both ends."""
    if len(words) <= letters:
        return words
    end = (letters - 2) // 2
    return f"{words[: letters - 2 - end]}..{words[-end:]}" if end else words[:letters]
