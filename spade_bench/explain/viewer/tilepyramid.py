"""A slide cut into JPEG tiles at halved sizes, in the layout of DeepZoom.

OpenSlide's `DeepZoomGenerator` reads every level from the file; a slide without a pyramid of its
own would be read whole for each small picture of it. Here every pixel is read once: four tiles are
made, and the one above them is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.console import Progress
from spade_bench.slides.opening import Slide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

__all__ = ["TILE", "Square", "TileLevel", "count_tiles", "write_tiles"]

TILE = 512  # px
_QUALITY = 82
_WHITE = 235  # glass is at least this bright in every channel
_SPECKS = 0.0005  # share of darker pixels in a tile that still counts as glass
_PATCH_PX = 224  # tiles around a patch end where it is at least this wide
_AROUND = 0.25  # of a patch's side, on each side of it


@dataclass(frozen=True)
class Square:
    """A square of the slide in level-0 pixels: left, top, width."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class TileLevel:
    """The tiles of one size.

    Attributes:
        folder: Number of the level as DeepZoom counts, from 1 x 1 px; the name of its folder.
        downsample: Level-0 pixels per pixel.
        width: Width of the whole slide in this size.
        height: Height of the whole slide in this size.
        tiles: The tiles that were written, row times tiles across plus column; glass is left out.
    """

    folder: int
    downsample: int
    width: int
    height: int
    tiles: tuple[int, ...]


def count_tiles(width: int, height: int, longest_px: int) -> int:
    """Return how many tiles the largest whole picture of a slide takes."""
    down = _downsample(width, height, longest_px)
    return math.ceil(width / down / TILE) * math.ceil(height / down / TILE)


def write_tiles(
    slide: Slide, folder: Path, longest_px: int, details: Sequence[Square], bar: Progress
) -> list[TileLevel]:
    """Write the tiles of a slide as `folder/LEVEL/COLUMN_ROW.jpg`.

    Args:
        slide: The slide.
        folder: An empty folder.
        longest_px: Longer side of the largest picture of the whole slide, at most.
        details: Squares that get finer tiles too, down to about 224 px each.
        bar: Moves by one per tile of the largest picture.

    Returns:
        The levels, the finest first.

    Raises:
        DataError: When the slide cannot be decoded.
    """
    writer = _Writer(slide, folder, bar)
    finest = _downsample(slide.width, slide.height, longest_px)
    coarsest = _downsample(slide.width, slide.height, TILE)
    writer.tile(coarsest, 0, 0, finest)
    for down in sorted(_finer(details, finest)):
        for column, row in sorted(_touched(details, down, slide.width, slide.height)):
            writer.save(writer.read(down, column, row), down, column, row)
    return [writer.level(down) for down in sorted(writer.written)]


def _downsample(width: int, height: int, longest_px: int) -> int:
    """The smallest power of two that makes a slide no longer than asked for."""
    down = 1
    while math.ceil(max(width, height) / down) > longest_px:
        down *= 2
    return down


def _finer(details: Sequence[Square], finest: int) -> list[int]:
    """Downsamples below that of the whole picture at which squares get tiles of their own."""
    if not details:
        return []
    smallest = min(square.side for square in details)
    downs = [2**power for power in range(finest.bit_length() - 1)]
    # Finer than what an encoder sees of a patch would be many files for little.
    return [down for down in downs if smallest / down < 2 * _PATCH_PX]


def _touched(details: Sequence[Square], down: int, width: int, height: int) -> set[tuple[int, int]]:
    """Column and row of each tile that shows a part of a square or of what lies around it."""
    touched = set()
    span = TILE * down
    for square in details:
        margin = _AROUND * square.side
        left, top = max(square.x - margin, 0), max(square.y - margin, 0)
        right = min(square.x + square.side + margin, width)
        bottom = min(square.y + square.side + margin, height)
        for row in range(int(top // span), math.ceil(bottom / span)):
            touched |= {(c, row) for c in range(int(left // span), math.ceil(right / span))}
    return touched


class _Writer:
    """Reads, halves and writes tiles; the tiles of a level are named by its downsample."""

    def __init__(self, slide: Slide, folder: Path, bar: Progress) -> None:
        self._slide = slide
        self._folder = folder
        self._bar = bar
        self._top = math.ceil(math.log2(max(slide.width, slide.height, 1)))
        self.written: dict[int, set[int]] = {}

    def size(self, down: int) -> tuple[int, int]:
        """Width and height of the whole slide at a downsample."""
        return math.ceil(self._slide.width / down), math.ceil(self._slide.height / down)

    def level(self, down: int) -> TileLevel:
        """What was written at a downsample."""
        return TileLevel(self._number(down), down, *self.size(down),
                         tuple(sorted(self.written[down])))  # fmt: skip

    def tile(self, down: int, column: int, row: int, finest: int) -> Pixels:
        """Write a tile and all finer ones that it shows; (h, w, 3) uint8."""
        import numpy as np
        from PIL import Image

        if down == finest:
            pixels = self.read(down, column, row)
            self._bar.advance()
        else:
            width, height = self.size(down // 2)
            across = range(2 * column, min(2 * column + 2, math.ceil(width / TILE)))
            rows = range(2 * row, min(2 * row + 2, math.ceil(height / TILE)))
            four = [[self.tile(down // 2, c, r, finest) for c in across] for r in rows]
            both = np.concatenate([np.concatenate(line, axis=1) for line in four])
            pixels = np.asarray(Image.fromarray(both).reduce(2))  # means, at odd edges of one pixel
        self.save(pixels, down, column, row)
        return pixels

    def read(self, down: int, column: int, row: int) -> Pixels:
        """Read a tile from the slide, (h, w, 3) uint8; smaller at its right and lower edges."""
        span = TILE * down
        pixels: Pixels = self._slide.read(column * span, row * span, span, TILE)
        width, height = self.size(down)
        return pixels[: min(TILE, height - row * TILE), : min(TILE, width - column * TILE)]

    def save(self, pixels: Pixels, down: int, column: int, row: int) -> None:
        """Write a tile unless it shows nothing but glass; the picture of one tile always."""
        import numpy as np
        from PIL import Image

        width, height = self.size(down)
        darkest = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
        dark = (darkest < _WHITE).mean()
        if dark <= _SPECKS and max(width, height) > TILE:
            return
        folder = self._folder / str(self._number(down))
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{column}_{row}.jpg", quality=_QUALITY)
        written = self.written.setdefault(down, set())
        written.add(row * math.ceil(width / TILE) + column)

    def _number(self, down: int) -> int:
        return self._top - (down.bit_length() - 1)
