"""Size, thumbnail and tissue of the image a sample was taken from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spade_bench.errors import BROKEN_FILE, DataError
from spade_bench.spatial.fields import as_float

__all__ = ["ImageView", "view_image"]

_SIDE = 1024  # longest side of the thumbnail, px
_EVEN = 0.02  # range of optical density below which a picture is even
_FLAT = 8  # saturation range (of 255) below which an image has no visible background


@dataclass(frozen=True)
class ImageView:
    """A small view of a full-resolution image.

    Attributes:
        width: Full-resolution width, px.
        height: Full-resolution height, px.
        tissue: (h, w) bool thumbnail mask of stained area, or None when all looks alike.
        mpp: Micrometres per pixel as the file itself says, or None.
        stain: (h, w) float32 thumbnail of optical density, 0 for white; None when all looks alike.
    """

    width: int
    height: int
    tissue: np.ndarray | None = None
    mpp: float | None = None
    stain: np.ndarray | None = None

    def inside(self, xy: np.ndarray) -> np.ndarray:
        """Which points (n, 2), (x, y) in full-resolution px, lie on the image; (n,) bool."""
        x, y = xy[:, 0], xy[:, 1]
        return np.asarray((x >= 0) & (y >= 0) & (x < self.width) & (y < self.height))

    def on_tissue(self, xy: np.ndarray) -> np.ndarray:
        """Which points (n, 2) lie on stained tissue; all that lie inside when there is no mask."""
        good = self.inside(xy)
        if self.tissue is None:
            return good
        return np.asarray(good & self.tissue[self.place(xy, self.tissue.shape)])

    def place(self, xy: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Row and column on a thumbnail of this shape for points (n, 2), clipped to its edge."""
        h, w = shape
        column = np.clip((xy[:, 0] * w / self.width).astype(int), 0, w - 1)
        row = np.clip((xy[:, 1] * h / self.height).astype(int), 0, h - 1)
        return row, column


def view_image(path: Path) -> ImageView:
    """Open an image with OpenSlide, or with Pillow where OpenSlide does not know the format.

    Raises:
        DataError: The file is missing or neither library can read it.
    """
    import openslide

    if not path.is_file():
        raise DataError("no such image", where=str(path), fix="Correct the path")
    try:
        with openslide.OpenSlide(str(path)) as slide:
            small = np.asarray(slide.get_thumbnail((_SIDE, _SIDE)).convert("RGB"))
            mpp = as_float(slide.properties.get(openslide.PROPERTY_NAME_MPP_X))
            width, height = slide.dimensions
    except (openslide.OpenSlideError, *BROKEN_FILE):
        return _view_plain(path)
    return ImageView(width, height, _tissue(small), mpp, _stain(small))


def _view_plain(path: Path) -> ImageView:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # sections are larger than Pillow expects of a picture
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said once, below
            with Image.open(path) as image:
                width, height = image.size
                image.draft("RGB", (_SIDE, _SIDE))
                image.thumbnail((_SIDE, _SIDE))
                small = np.asarray(image.convert("RGB"))
    except BROKEN_FILE as error:
        raise DataError(f"cannot read the image ({error})", where=str(path)) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return ImageView(width, height, _tissue(small), stain=_stain(small))


def _tissue(rgb: np.ndarray) -> np.ndarray | None:
    """Stained pixels of a thumbnail: Otsu's threshold on the smoothed colour range.

    More generous than `slides.tissue.tissue_mask`, which picks patches and leaves out pale stroma:
    of the spots of five real sections it has 87 to 99% on tissue, that one 62 to 95%.
    """
    from scipy.ndimage import uniform_filter
    from skimage.filters import threshold_otsu

    colour = rgb.max(axis=2).astype(np.float32) - rgb.min(axis=2)  # (h, w)
    colour = uniform_filter(colour, size=5)
    low, high = np.percentile(colour, [1, 99])
    if high - low < _FLAT:
        return None
    return np.asarray(colour > threshold_otsu(colour))  # type: ignore[no-untyped-call]


def _stain(rgb: np.ndarray) -> np.ndarray | None:
    """Optical density of a thumbnail, the mean of its colours: how much stain there is."""
    density = -np.log10((rgb.astype(np.float32) + 1.0) / 256.0).mean(axis=2)  # (h, w)
    return None if np.ptp(density) < _EVEN else density
