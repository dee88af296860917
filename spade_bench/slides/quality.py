"""What is better left out of a slide: pen marks, and patches that are out of focus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BLURRED", "ink_mask", "sharp"]

# Hue in turns. Haematoxylin and eosin lie between 0.63 (blue violet) and 0.05 (orange red).
_INK_HUE = (0.2, 0.62)
_INK_SATURATION = 0.25
_BLACK = 70  # of 255: brightest channel of black ink; the darkest nuclei of a section are at 90
_MARGIN_UM = 40.0  # ink fades towards its edge
_SMALLEST_UM2 = 4000.0
BLURRED = 0.65  # of `skimage.measure.blur_effect`; see `sharp`


def ink_mask(image: np.ndarray, mpp: float) -> np.ndarray:
    """Find pen marks by colour: green, cyan, blue and black ink (hue by scikit-image).

    Red ink cannot be told from blood by its colour and is not found; nor is tissue of other
    stains than haematoxylin and eosin safe (methyl green, Alcian blue, DAB over blue).

    Args:
        image: (h, w, 3) uint8 RGB, a thumbnail.
        mpp: Its resolution in µm per pixel.

    Returns:
        (h, w) bool, True on ink and around it.
    """
    import numpy as np
    from scipy import ndimage
    from skimage.color import rgb2hsv

    to_hsv: Any = rgb2hsv
    smooth = ndimage.gaussian_filter(image, sigma=(max(8.0 / mpp, 0.5),) * 2 + (0,))
    hue, saturation, _ = np.moveaxis(to_hsv(smooth), -1, 0)  # (h, w) each
    coloured = (hue > _INK_HUE[0]) & (hue < _INK_HUE[1]) & (saturation > _INK_SATURATION)
    brightest, darkest = smooth.max(axis=-1), smooth.min(axis=-1)  # (h, w)
    # A scanner's black border is darker than ink ever is, and no tissue anyway.
    black = (brightest < _BLACK) & (brightest - darkest < 30)
    ink = np.asarray(coloured | black)
    labels, count = ndimage.label(ink)
    if count:
        large = np.bincount(labels.ravel()) >= max(_SMALLEST_UM2 / mpp**2, 4.0)
        large[0] = False
        ink = large[labels]
    reach = max(round(_MARGIN_UM / mpp), 1)
    return np.asarray(ndimage.binary_dilation(ink, iterations=reach))


def sharp(images: np.ndarray) -> np.ndarray:
    """Tell patches in focus from blurred ones (Crete et al. 2007, as in scikit-image).

    The measure compares a patch with itself blurred once more: 0 is sharp, 1 cannot get any more
    blurred. Measured on three real sections at 0.5 µm/px: 0.25-0.58 in focus, 0.49-0.76 blurred by
    2 px (standard deviation), 0.64-0.84 by 3 px.

    Args:
        images: (n, h, w, 3) uint8.

    Returns:
        (n,) bool.
    """
    import numpy as np
    from skimage.measure import blur_effect

    measure: Any = blur_effect
    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.array([measure(patch) < BLURRED for patch in grey / 255], dtype=bool)
