"""Where a slide's pixels come from: a whole-slide file through OpenSlide, or a plain image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spade_bench.errors import DataError
from spade_bench.slides.rgb import read_rgb, without_size_warning
from spade_bench.slides.tiffpages import TiffImage, tiff_images

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PLAIN_SUFFIXES", "Opened", "Pyramid", "open_pyramid"]

PLAIN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_CACHE = 128 << 20  # bytes of decoded tiles: two rows of tiles of the widest slides


class Pyramid(Protocol):
    """Where pixels come from: an image at one or more scales."""

    sizes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region given in pixels of a level, (height, width, 3) uint8, white outside."""

    def close(self) -> None:
        """Release the file."""


@dataclass(frozen=True)
class Opened:
    """An open image.

    Attributes:
        pyramid: Its pixels.
        properties: OpenSlide's properties; of a plain TIFF its resolution tags, under the names
            that OpenSlide gives them.
        images: The images that the file holds, where it is a TIFF of one or more.
        image: Which of them it is.
    """

    pyramid: Pyramid
    properties: Mapping[str, str] = field(default_factory=dict)
    images: tuple[TiffImage, ...] = ()
    image: int = 0


def open_pyramid(path: Path, series: int | None = None) -> Opened:
    """Open a whole-slide file, or a plain JPEG or PNG image.

    Args:
        path: The file.
        series: Which image of a TIFF of several, from 0; None takes the first.

    Raises:
        DataError: When the file is missing or cannot be opened, or holds no such image.
    """
    if not path.is_file():
        what = "is a link to a file that is not there" if path.is_symlink() else None
        raise DataError(what or "no such slide file", where=path.name if what else str(path))
    if path.suffix.lower() in PLAIN_SUFFIXES:
        _check_series(path, series, ())
        return Opened(_ArrayPyramid(_plain_pixels(path)))
    import openslide

    try:
        handle = openslide.OpenSlide(str(path))
    except openslide.OpenSlideError as error:
        return _without_openslide(path, series, error)
    vendor = handle.properties.get("openslide.vendor")
    # Scanners' files hold one slide, with labels and macro images that OpenSlide tells apart.
    images = tiff_images(path) if vendor == "generic-tiff" else ()
    try:
        _check_series(path, series, images)
    except DataError:
        handle.close()
        raise
    if images and images[series or 0].page != 0:  # OpenSlide opens the first page only
        handle.close()
        return _plain(path, series or 0, images)
    # A grid is read row by row, and each tile meets four patches: keep two rows decoded.
    handle.set_cache(openslide.OpenSlideCache(_CACHE))
    return Opened(_OpenSlidePyramid(handle), dict(handle.properties), images, series or 0)


def _without_openslide(path: Path, series: int | None, error: Exception) -> Opened:
    """Open what OpenSlide does not: it knows tiled TIFF only; a plain one is an image like any."""
    import openslide

    images = tiff_images(path)
    _check_series(path, series, images)
    unsupported = isinstance(error, openslide.OpenSlideUnsupportedFormatError)
    if unsupported and _is_plain_tiff(path):
        return _plain(path, series or 0, images)
    if images and (what := images[series or 0].not_rgb):
        raise DataError(f"is not an RGB brightfield image ({what})", where=path.name) from error
    raise DataError(f"cannot be opened as a slide ({error})", where=path.name) from error


def _check_series(path: Path, series: int | None, images: tuple[TiffImage, ...]) -> None:
    if series is not None and not 0 <= series < max(len(images), 1):
        count = max(len(images), 1)
        raise DataError(
            f"has no series {series}: it holds {count} image{'s' * (count > 1)}, numbered from 0",
            where=path.name,
        )


def _plain(path: Path, series: int, images: tuple[TiffImage, ...]) -> Opened:
    """An image of a TIFF, read into memory."""
    page = images[series].page if images else 0
    tags = _tiff_tags(path, page)
    return Opened(_ArrayPyramid(_plain_pixels(path, page)), tags, images, series)


def _is_plain_tiff(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    if path.suffix.lower() not in {".tif", ".tiff"}:
        return False
    try:
        with without_size_warning(), Image.open(path) as image:
            return image.format == "TIFF"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _tiff_tags(path: Path, page: int) -> dict[str, str]:
    """Resolution tags and description of an image of a TIFF, named as OpenSlide names them."""
    from PIL import Image

    with without_size_warning(), Image.open(path) as image:
        description = getattr(image, "tag_v2", {}).get(270)
        if page:
            image.seek(page)
        tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
        ome = description is not None and "<OME" in str(description)  # says all, in the first page
        unit = {2: "inch", 3: "centimeter"}.get(tags.get(296, 2))
        properties = {
            "tiff.XResolution": tags.get(282),
            "tiff.YResolution": tags.get(283),
            "tiff.ResolutionUnit": unit,
            "tiff.ImageDescription": description if ome else tags.get(270),
        }
        return {key: str(value) for key, value in properties.items() if value is not None}


def _exact(sizes: tuple[tuple[int, int], ...], downsamples: tuple[float, ...]) -> tuple[float, ...]:
    """The downsample of each level, without the error of a level's rounded size.

    OpenSlide divides the sizes: a level of 1003 x 100000 px that was made by taking every fourth
    pixel counts as 1 / 4.006, which puts its far end hundreds of pixels off. Where a whole number
    explains both sizes to a pixel, that is the downsample.
    """
    width, height = sizes[0]
    exact = []
    for (w, h), scale in zip(sizes, downsamples, strict=True):
        n = round(scale)
        whole = abs(width / n - w) <= 1 and abs(height / n - h) <= 1
        exact.append(float(n) if whole else scale)
    return tuple(exact)


class _OpenSlidePyramid:
    """A whole-slide file."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.sizes: tuple[tuple[int, int], ...] = tuple(handle.level_dimensions)
        self._said = tuple(float(scale) for scale in handle.level_downsamples)
        self.downsamples = _exact(self.sizes, self._said)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `Pyramid.read`."""
        import numpy as np

        scale = self._said[level]  # OpenSlide takes level-0 coordinates and divides by this
        corner = (round(x * scale), round(y * scale))
        rgba = np.asarray(self._handle.read_region(corner, level, (width, height)))
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgb)
        blended: np.ndarray = rgb * (alpha / 255.0) + (255 - alpha) + 0.5
        return blended.astype(np.uint8)

    def close(self) -> None:
        """See `Pyramid.close`."""
        self._handle.close()


class _ArrayPyramid:
    """An image in memory."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.sizes: tuple[tuple[int, int], ...] = ((pixels.shape[1], pixels.shape[0]),)
        self.downsamples: tuple[float, ...] = (1.0,)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `Pyramid.read`."""
        import numpy as np

        out = np.full((height, width, 3), 255, dtype=np.uint8)
        x0, y0 = max(x, 0), max(y, 0)
        part = self._pixels[y0 : max(y + height, 0), x0 : max(x + width, 0)]
        out[y0 - y : y0 - y + part.shape[0], x0 - x : x0 - x + part.shape[1]] = part
        return out

    def close(self) -> None:
        """See `Pyramid.close`."""
        self._pixels = self._pixels[:0]


def _plain_pixels(path: Path, page: int = 0) -> np.ndarray:
    try:
        with without_size_warning():
            return read_rgb(path, page)
    except DataError as error:
        fix = error.fix
        if page:
            fix = fix or f"Save it as a file of its own, such as with `tiffcp FILE,{page} NEW`"
        raise DataError(
            f"cannot be opened as an image ({error.what})", where=path.name, fix=fix
        ) from error
