"""A picture of what was taken from a slide: tissue bright, glass darker, patches outlined."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.files import atomic_path
from spade_bench.slides.opening import Slide
from spade_bench.slides.scalebar import bar_length
from spade_bench.slides.tissue import TissueMask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.ImageFont import FreeTypeFont

    Picture = NDArray[np.uint8]

__all__ = ["lettering", "preview_path", "preview_picture", "write_preview"]

_LONGEST, _LEAST = 1600, 1200  # px of the longer side
_GLASS = 0.82  # how bright glass stays
_LINE = (0, 105, 60)
_FAINTEST, _FULL_PX = 0.18, 30.0  # opacity of the grid; full opacity at patches of so many px
_TEXT_PX, _PAD = 17, 8
_NARROWEST, _LOWEST = 400, 120  # px: the title needs a width, and the bar must not hide a picture


def preview_path(folder: Path, slide_id: str) -> Path:
    """Return where the preview of a slide lies, beside the features folder."""
    return folder.parent / "visualization" / f"{slide_id}.jpg"


def preview_picture(slide: Slide, tissue: TissueMask) -> Picture:
    """Return a picture of a slide that is fine enough to look at, (h, w, 3) uint8 RGB.

    The thumbnail that the tissue was found on serves where it is 1200 px long; a small slide is
    read once more, as finely as its level 0 allows.

    Args:
        slide: The slide, open.
        tissue: Its tissue.

    Raises:
        DataError: When the slide cannot be decoded.
    """
    import numpy as np

    longest = max(tissue.thumbnail.shape[:2])
    if longest >= _LEAST or longest >= max(slide.width, slide.height):
        return np.asarray(tissue.thumbnail, dtype=np.uint8)
    return slide.thumbnail(slide.mpp * max(1.0, max(slide.width, slide.height) / _LONGEST))


def write_preview(
    folder: Path,
    slide: Slide,
    mask: NDArray[np.bool_],
    *,
    picture: Picture,
    patches: NDArray[Any],
    side: float,
) -> Path:
    """Write `visualization/{slide}.jpg` beside the features folder and return its path.

    Args:
        folder: The features folder.
        slide: The slide; it may be closed.
        mask: Its tissue, (h, w) bool.
        picture: What it looks like; see `preview_picture`.
        patches: Level-0 top-left corners of the patches taken, (n, 2).
        side: Their level-0 width.
    """
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((_LONGEST, _LONGEST))
    pixels = _shaded(image, mask)
    if len(patches):
        scale = (image.width / slide.width, image.height / slide.height)
        pixels = _outlined(pixels, patches, side, scale)
    share = f"{mask.mean():.0%} tissue"
    count = f"{len(patches)} patch{'' if len(patches) == 1 else 'es'} of {side * slide.mpp:.0f} µm"
    title = f"{slide.slide_id}: {count}, {share}, level 0 at {slide.mpp:.3g} µm/px"
    page = _titled(Image.fromarray(pixels), title, slide.mpp * slide.width / image.width)
    path = preview_path(folder, slide.slide_id)
    with atomic_path(path) as temporary:
        page.save(temporary, quality=88, subsampling=0)  # thin lines keep their colour
    return path


@cache
def lettering(size: int) -> FreeTypeFont:
    """Return matplotlib's font, which has the letters of most scripts; ``size`` in pixels."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def _shaded(image: Any, mask: NDArray[np.bool_]) -> Picture:
    """Darken the glass a little, (h, w, 3)."""
    import numpy as np
    from PIL import Image

    tissue = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    light = np.where(tissue[..., None], 1.0, _GLASS)
    return np.asarray(np.asarray(image) * light, dtype=np.uint8)


def _outlined(
    pixels: Picture, patches: NDArray[Any], side: float, scale: tuple[float, float]
) -> Picture:
    """Draw thin lines between patches, paler the smaller patches are, and a line around them.

    Lines a pixel wide around patches of five pixels would hide what is below.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    tall, wide = pixels.shape[:2]
    grid, covered = Image.new("L", (wide, tall)), Image.new("L", (wide, tall))
    draw, fill = ImageDraw.Draw(grid), ImageDraw.Draw(covered)
    low = np.rint(patches * np.array(scale)).astype(int)
    # Neighbours share their border, so that lines stay a pixel wide.
    high = np.maximum(np.rint((patches + side) * np.array(scale)).astype(int), low)
    for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True):
        draw.rectangle([left, top, right, bottom], outline=255)
        fill.rectangle([left, top, right, bottom], fill=255)
    inside = np.asarray(covered) > 0  # (h, w)
    inner = np.pad(inside, 1)
    inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:] & inside
    cover = np.where(np.asarray(grid) > 0, np.clip(side * scale[0] / _FULL_PX, _FAINTEST, 1.0), 0.0)
    cover[inside & ~inner] = 1.0
    return np.asarray(pixels + cover[..., None] * (np.array(_LINE) - pixels), dtype=np.uint8)


def _titled(image: Any, title: str, mpp: float) -> Any:
    """Put a title above a picture and a scale bar on it."""
    import textwrap

    from PIL import Image, ImageDraw

    font = lettering(_TEXT_PX)
    wide = max(image.width, _NARROWEST)
    letters = int((wide - 2 * _PAD) / font.getlength("n"))
    lines = textwrap.wrap(title, letters)
    head = len(lines) * (_TEXT_PX + 4) + 2 * _PAD
    foot = 0 if image.height >= _LOWEST else _TEXT_PX + 12 + 3 * _PAD
    page = Image.new("RGB", (wide, head + image.height + foot), "white")
    page.paste(image, (0, head))
    draw = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        draw.text((_PAD, _PAD + row * (_TEXT_PX + 4)), line, fill="black", font=font)
    length, words = bar_length(image.width * mpp)
    long, left, bottom = length / mpp, 2 * _PAD, page.height - 2 * _PAD
    ground = [left - _PAD, bottom - _TEXT_PX - 12, left + max(long, font.getlength(words)) + _PAD]
    draw.rectangle([*ground, bottom + _PAD], fill="white")
    draw.rectangle([left, bottom - 3, left + long, bottom], fill="black")
    draw.text((left, bottom - _TEXT_PX - 8), words, fill="black", font=font)
    return page
