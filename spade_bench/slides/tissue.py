"""Where the tissue is: Otsu's threshold on saturation, cleaned (scikit-image)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from spade_bench.slides.opening import Slide

__all__ = ["TissueMask", "find_tissue", "tissue_mask"]

MASK_MPP = 8.0  # µm per pixel of the mask: a cell's width, far below a patch's 112 µm
_MIN_SIDE = 256  # px; small images are looked at more closely than MASK_MPP
_OTSU_RANGE = (0.06, 0.2)  # of saturation; see `tissue_mask`
_SMALLEST_UM2 = 2500.0  # islands and holes below this area are cleaned away
# Glass under stain that has bled is as saturated as tissue, but even: grey values around a pixel
# spread by 1 of 255 there, by 12 and more on tissue (five real sections and an Aperio slide).
_BLEED_SPREAD, _BLEED_GREY = 4.0, 190.0
_AROUND_UM = 16.0
_GREY_CONTRAST, _GREY_SPREAD = 30, 3  # of 255: range of brightness, and between the channels
_DARK, _BRIGHT = 40, 150  # of 255: fluorescence's background, and what tissue and glass exceed


@dataclass(frozen=True)
class TissueMask:
    """A mask over a whole slide.

    Attributes:
        mask: (h, w) bool, True on tissue.
        thumbnail: (h, w, 3) uint8, what it was computed on.
    """

    mask: np.ndarray
    thumbnail: np.ndarray

    @property
    def share(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.mask.mean())


def find_tissue(slide: Slide) -> TissueMask:
    """Find the tissue of a slide on a thumbnail of about 8 µm per pixel.

    Raises:
        DataError: When the slide cannot be decoded, or is no brightfield image in colour.
    """
    extent = min(slide.width, slide.height) * slide.mpp
    mpp = max(min(MASK_MPP, extent / _MIN_SIDE), slide.mpp)
    if slide.not_rgb:
        raise DataError(f"is not an RGB brightfield image ({slide.not_rgb})", where=slide.slide_id)
    thumbnail = slide.thumbnail(mpp)
    if what := _not_brightfield(thumbnail):
        raise DataError(f"is not an RGB brightfield image ({what})", where=slide.slide_id)
    return TissueMask(tissue_mask(thumbnail, mpp), thumbnail)


def _not_brightfield(image: np.ndarray) -> str | None:
    """Why an image cannot be stained tissue on bright glass; None where it can."""
    import numpy as np

    brightest, darkest = image.max(axis=-1), image.min(axis=-1)  # (h, w)
    if np.ptp(brightest) > _GREY_CONTRAST and int((brightest - darkest).max()) <= _GREY_SPREAD:
        return "its channels are equal: greyscale"
    # Scanned glass is bright; only what was never scanned is black.
    dark = float(np.median(brightest)) < _DARK
    if dark and float(np.mean(darkest > _BRIGHT)) < 0.01 and brightest.max() > _DARK:
        return "its background is dark: fluorescence?"
    return None


def tissue_mask(image: np.ndarray, mpp: float) -> np.ndarray:
    """Tell tissue from glass by saturation (Otsu 1979, in HSV space, as CLAM does).

    Otsu always splits an image in two, also one that is all tissue or all glass; so its threshold
    is kept within a range measured on sections: glass reaches 0.19 where stain has bled, pale
    stroma of a well-stained slide starts at about 0.2. Near-black pixels (scanner borders) and what
    is bright and even (glass under stain that has bled) are never tissue.

    Args:
        image: (h, w, 3) uint8 RGB.
        mpp: Its resolution in µm per pixel.

    Returns:
        (h, w) bool.
    """
    import numpy as np
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    highest = image.max(axis=-1).astype(np.float32)  # (h, w), HSV value times 255
    lowest = image.min(axis=-1).astype(np.float32)  # (h, w)
    saturation = np.where(highest > 0, (highest - lowest) / np.maximum(highest, 1), 0.0)
    saturation[highest < 25] = 0.0
    smooth = ndimage.gaussian_filter(saturation, sigma=max(8.0 / mpp, 0.5))
    otsu: Any = threshold_otsu
    threshold = otsu(smooth) if np.ptp(smooth) > 0 else _OTSU_RANGE[0]
    mask = np.asarray(smooth > np.clip(threshold, *_OTSU_RANGE)) & ~_bright_and_even(image, mpp)
    smallest = max(_SMALLEST_UM2 / mpp**2, 2.0)
    return ~_drop_small(~_drop_small(mask, smallest), smallest)


def _bright_and_even(image: np.ndarray, mpp: float) -> np.ndarray:
    """Where an image is bright and shows no structure, (h, w) bool."""
    import numpy as np
    from scipy import ndimage

    grey = image.mean(axis=-1, dtype=np.float32)  # (h, w)
    sigma = max(_AROUND_UM / mpp, 1.0)
    mean = ndimage.gaussian_filter(grey, sigma)
    centred = grey - grey.mean()  # the difference of squares below needs small numbers
    variance = ndimage.gaussian_filter(centred**2, sigma) - (mean - grey.mean()) ** 2
    return np.asarray((mean > _BLEED_GREY) & (variance < _BLEED_SPREAD**2))


def _drop_small(mask: np.ndarray, smallest: float) -> np.ndarray:
    """Remove connected areas of fewer than ``smallest`` pixels."""
    import numpy as np
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    keep = sizes >= smallest
    keep[0] = False
    return np.asarray(keep[labels])
