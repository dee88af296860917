"""A small picture of what was taken from a slide: tissue bright, glass dark, patches outlined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.files import atomic_path
from spade_bench.slides.opening import Slide
from spade_bench.slides.tissue import TissueMask

if TYPE_CHECKING:
    import numpy as np

__all__ = ["write_preview"]

_SIDE = 1200  # px of the longer side
_LINE = (0, 170, 60)


def write_preview(
    folder: Path, slide: Slide, tissue: TissueMask, coords: np.ndarray, side: float
) -> Path:
    """Write `visualization/{slide}.jpg` beside the features folder and return its path.

    Args:
        folder: The features folder.
        slide: The slide; it may be closed.
        tissue: Its tissue.
        coords: Level-0 top-left corners of the patches taken, (n, 2).
        side: Their level-0 width.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    pixels = np.where(tissue.mask[..., None], tissue.thumbnail, tissue.thumbnail // 3 * 2)
    image = Image.fromarray(pixels.astype(np.uint8))
    image.thumbnail((_SIDE, _SIDE))
    draw = ImageDraw.Draw(image)
    across, down = image.width / slide.width, image.height / slide.height
    for x, y in coords:
        left, top = x * across, y * down
        right, bottom = (x + side) * across - 1, (y + side) * down - 1
        draw.rectangle([left, top, max(left, right), max(top, bottom)], outline=_LINE)
    path = folder.parent / "visualization" / f"{slide.slide_id}.jpg"
    with atomic_path(path) as temporary:
        image.save(temporary, quality=85)
    return path
