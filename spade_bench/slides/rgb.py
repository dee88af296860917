"""Image files as RGB: one rule for transparency, for grey values and for what cannot be decoded."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["read_rgb", "to_rgb", "without_size_warning"]

# What image libraries raise on damaged files, beside their own classes.
_DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, MemoryError,
    NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


def read_rgb(path: Path, page: int = 0) -> np.ndarray:
    """Read an image file as (h, w, 3) uint8 RGB; see `to_rgb`.

    Args:
        path: The file.
        page: Which image of a file of several, from 0.

    Raises:
        DataError: When it cannot be read. It does not name the file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if page:
                image.seek(page)
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise DataError("unknown format") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"too large to be read at once: {error}") from error
    except _DAMAGED as error:
        raise DataError(str(error) or type(error).__name__) from error


def to_rgb(image: Any) -> np.ndarray:
    """Turn a Pillow image into (h, w, 3) uint8 RGB.

    Transparency becomes white. Grey values of 16 bit are divided by 257, so that full scale stays
    full scale; floating-point grey runs from 0 to 1.

    Raises:
        DataError: When grey values are outside of these ranges: how to scale them is not known.
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image)
        return np.repeat(_eight_bit(grey)[..., None], 3, axis=2)
    if image.mode not in {"RGBA", "RGBa", "LA", "La", "PA"} and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))


def _eight_bit(grey: np.ndarray) -> np.ndarray:
    """Scale grey values of more than 8 bit, (h, w) to uint8 (h, w)."""
    import numpy as np

    low, high = (float(grey.min()), float(grey.max())) if grey.size else (0.0, 0.0)
    top = 1.0 if grey.dtype.kind == "f" else 65535.0
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= top):
        raise DataError(
            f"grey values run from {low:g} to {high:g}, where 0 to {top:g} is expected of "
            f"{'floating-point' if top == 1 else '16-bit'} images",
            fix="Convert it to 8 bits per channel",
        )
    return np.rint(grey.astype(np.float64) * (255.0 / top)).astype(np.uint8)


@contextlib.contextmanager
def without_size_warning() -> Iterator[None]:
    """Pillow warns of images above 89 megapixels; scanned sections are that large."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
