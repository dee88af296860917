"""What a TIFF holds: how many images, and whether they are colour (tifffile reads the tags)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["TiffImage", "tiff_images"]

_REDUCED, _MASK = 1, 4  # bits of the tag NewSubfileType
_CHANNELS = 4  # red, green, blue, transparency


@dataclass(frozen=True)
class TiffImage:
    """One image of a TIFF: a section, a macro image, a label.

    Attributes:
        page: Number of its first page, from 0.
        width: In pixels.
        height: In pixels.
        not_rgb: What it holds where that is not RGB, such as `16-bit greyscale`.
    """

    page: int
    width: int
    height: int
    not_rgb: str | None = None


def tiff_images(path: Path) -> tuple[TiffImage, ...]:
    """List the images of a TIFF; levels of a pyramid and masks are none of their own.

    An OME-TIFF says which of its pages are images; elsewhere every page is one that is not marked
    as a smaller copy.

    Returns:
        The images in the order of the file; nothing where it is not a TIFF or its tags are damaged.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            if file.is_ome:
                return tuple(_image(series.keyframe, _channels(series)) for series in file.series)
            return tuple(
                _image(page, 1)
                for number, page in enumerate(file.pages)
                if not number or not int(page.aspage().subfiletype) & (_REDUCED | _MASK)
            )
    except (tifffile.TiffFileError, OSError, ValueError, TypeError, KeyError, IndexError,
            AttributeError, struct.error):  # fmt: skip
        return ()  # whoever decodes it says what is wrong with it


def _channels(series: Any) -> int:
    """Number of planes of an OME image that together are its channels."""
    axes = dict(zip(series.axes, series.shape, strict=False))
    return int(axes.get("C", 1))


def _image(page: Any, planes: int) -> TiffImage:
    page = page.aspage()
    return TiffImage(int(page.index), int(page.imagewidth), int(page.imagelength),
                     _not_rgb(page, planes))  # fmt: skip


def _not_rgb(page: Any, planes: int) -> str | None:
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    number = "floating-point" if int(page.sampleformat or 1) == 3 else f"{bits}-bit"
    samples = int(page.samplesperpixel)
    grey = page.photometric is not None and int(page.photometric) in {0, 1}
    if samples > _CHANNELS or (grey and (samples > 2 or planes > 1)):
        return f"{max(samples, planes)} channels, {number}: fluorescence?"
    if grey:
        return f"{number} greyscale"
    return f"{number} values" if number == "floating-point" else None
