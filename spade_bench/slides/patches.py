"""Patches: image files brought to an encoder's size, and the patch around each spot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spade_bench.console import warn
from spade_bench.errors import BROKEN_FILE, DataError
from spade_bench.slides.opening import Slide, open_slide
from spade_bench.slides.rgb import read_rgb

if TYPE_CHECKING:
    import h5py
    import numpy as np

    from spade_bench.spatial.sample import StSample

__all__ = ["SpotPatches", "fit_patch", "open_spots", "read_patch", "spot_patches"]

Interpolation = Literal["bilinear", "bicubic"]
SPOT_PX, SPOT_MPP = 224, 0.5  # the size at which HEST-1k cuts its patches


def fit_patch(
    pixels: np.ndarray,
    px: int,
    *,
    crop_pct: float = 1.0,
    interpolation: Interpolation = "bicubic",
    scale: float | None = None,
) -> np.ndarray:
    """Bring an image to the size an encoder wants.

    An image of that size is returned as it is. Otherwise its shorter side is resized to
    ``px / crop_pct`` and the centre is cropped, as in the encoder's own evaluation.

    Args:
        pixels: (h, w, 3) uint8.
        px: Width and height wanted.
        crop_pct: Share of the resized image that the crop keeps.
        interpolation: How to resize; always antialiased.
        scale: Resize by this factor instead, to reach a known resolution.

    Returns:
        (px, px, 3) uint8.

    Raises:
        DataError: When an image scaled by ``scale`` is smaller than ``px``.
    """
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    if scale is None:
        if (height, width) == (px, px):
            return pixels
        scale = int(px / crop_pct) / min(height, width)
    size = (round(width * scale), round(height * scale))
    if min(size) < px:
        raise DataError(f"image of {width} x {height} px is {min(size)} px at this resolution")
    if size != (width, height):
        method = Image.Resampling[interpolation.upper()]
        pixels = np.asarray(Image.fromarray(pixels).resize(size, method))
    left, top = (size[0] - px) // 2, (size[1] - px) // 2
    return np.ascontiguousarray(pixels[top : top + px, left : left + px])


def read_patch(path: Path) -> np.ndarray:
    """Read an image file as (h, w, 3) uint8 RGB; see `rgb.to_rgb`.

    Raises:
        DataError: When it is not a readable image.
    """
    try:
        return read_rgb(path)
    except DataError as error:
        what = f"not a readable image ({error.what})"
        raise DataError(what, where=str(path), fix=error.fix) from error


@dataclass(frozen=True)
class SpotPatches:
    """The patches of one sample's spots, read when asked for.

    Attributes:
        sample_id: The sample.
        barcodes: n barcodes.
        coords: Full-resolution pixel of each patch's top-left corner, (n, 2) int64 as (x, y).
        side: Width of a patch in full-resolution pixels.
        px: Width of a patch as returned.
        mpp: Resolution of a patch as returned, µm per pixel.
        source: An open slide to cut from, or an open HEST patch file.
        rows: Row of each patch in the patch file, (n,); None when cut from a slide.
        interpolation: How cut patches are scaled.
    """

    sample_id: str
    barcodes: tuple[str, ...]
    coords: np.ndarray
    side: float
    px: int
    mpp: float
    source: Slide | h5py.File
    rows: np.ndarray | None
    interpolation: Interpolation = "bicubic"

    def __len__(self) -> int:
        return len(self.barcodes)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read patches ``start`` to ``stop``, (stop - start, px, px, 3) uint8."""
        import numpy as np

        if self.rows is not None:
            try:
                pixels: np.ndarray = self.source["img"][self.rows[start:stop]]  # type: ignore[index]
            except BROKEN_FILE as error:
                raise DataError(
                    f"patches {start} to {stop} cannot be read ({error})", where=self.sample_id
                ) from error
            return pixels
        slide = self.source
        return np.stack(
            [
                slide.read(x, y, self.side, self.px, self.interpolation)
                for x, y in self.coords[start:stop]
            ]
        )

    def close(self) -> None:
        """Close the file that is read from."""
        self.source.close()


def open_spots(
    sample: StSample,
    *,
    px: int = SPOT_PX,
    mpp: float = SPOT_MPP,
    interpolation: Interpolation = "bicubic",
    assume_mpp: float | None = None,
) -> SpotPatches:
    """Open the spot patches of a sample.

    HEST's patch file is used where it has the wanted size; otherwise patches are cut around the
    spot centres of the expression file. Spots whose centre lies off the image are left out and
    counted in a warning; where a patch reaches over the edge it is white.

    Args:
        sample: The sample.
        px: Width of a patch.
        mpp: Resolution of a patch, µm per pixel.
        interpolation: How cut patches are scaled.
        assume_mpp: Resolution of the image if neither the metadata nor the file says it.

    Raises:
        DataError: When there is no image, no usable resolution, or no spot on the image.
    """
    if sample.patches is not None:
        patches = _from_patch_file(sample, sample.patches, px, mpp)
        if patches is not None:
            return patches
    if sample.image is None:
        raise DataError(
            f"has no image to cut {px} px patches at {mpp:g} µm/px from", where=sample.sample_id
        )
    slide = open_slide(
        sample.image,
        slide_id=sample.sample_id,
        mpp=sample.pixel_size_um,
        assume_mpp=assume_mpp,
    )
    try:
        return _from_slide(sample, slide, px, mpp, interpolation)
    except BaseException:
        slide.close()
        raise


def spot_patches(
    sample: StSample,
    *,
    px: int = SPOT_PX,
    mpp: float = SPOT_MPP,
    interpolation: Interpolation = "bicubic",
    batch_size: int = 64,
) -> Iterator[tuple[np.ndarray, tuple[str, ...], np.ndarray]]:
    """Yield (images, barcodes, coords) of a sample's spots in batches; see `open_spots`."""
    spots = open_spots(sample, px=px, mpp=mpp, interpolation=interpolation)
    try:
        for start in range(0, len(spots), batch_size):
            stop = min(start + batch_size, len(spots))
            batch = slice(start, stop)
            yield spots.read(start, stop), spots.barcodes[batch], spots.coords[batch]
    finally:
        spots.close()


def _from_patch_file(sample: StSample, path: Path, px: int, mpp: float) -> SpotPatches | None:
    """HEST's patch file; None when its patches are of another size or resolution."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except BROKEN_FILE as error:
        raise DataError(f"not a readable patch file ({error})", where=str(path)) from error
    try:
        patches = _in_patch_file(sample, file, px, mpp)
    except BaseException as error:
        file.close()
        if isinstance(error, BROKEN_FILE):
            raise DataError(f"not a readable patch file ({error})", where=str(path)) from error
        if isinstance(error, DataError):
            raise DataError(error.what, where=str(path), fix=error.fix) from error
        raise
    if patches is None:
        file.close()
    return patches


def _in_patch_file(sample: StSample, file: h5py.File, px: int, mpp: float) -> SpotPatches | None:
    import numpy as np

    missing = [key for key in ("img", "barcode", "coords") if key not in file]
    if missing:
        raise DataError(f"patch file lacks {', '.join(missing)}")
    images, attrs = file["img"], file["img"].attrs
    found_mpp = float(attrs.get("pixel_size", SPOT_MPP))
    if images.shape[1:] != (px, px, 3) or abs(found_mpp / mpp - 1) > 0.02:
        return None
    barcodes = tuple(_text(value) for value in file["barcode"][()].reshape(-1))
    coords = file["coords"][()].astype(np.int64)
    if not len(barcodes) == len(coords) == len(images) or len(set(barcodes)) != len(barcodes):
        raise DataError("patch file has repeated or missing barcodes")
    side = float(attrs.get("patch_size_src", px * mpp / (sample.pixel_size_um or mpp)))
    rows = np.arange(len(barcodes))
    return SpotPatches(sample.sample_id, barcodes, coords, side, px, mpp, file, rows)


def _from_slide(
    sample: StSample, slide: Slide, px: int, mpp: float, interpolation: Interpolation
) -> SpotPatches:
    import numpy as np

    from spade_bench.spatial import load_expression

    expression = load_expression(sample)
    centres = np.asarray(expression.obsm["spatial"], dtype=float)[:, :2]
    size = np.array([slide.width, slide.height])
    inside: np.ndarray = np.all((centres >= 0) & (centres < size), axis=1)  # (spots,)
    if not inside.any():
        raise DataError(
            f"none of {len(inside)} spots lies on the image ({slide.width} x {slide.height} px)",
            where=sample.sample_id,
            fix="Check that obsm['spatial'] is (x, y) in full-resolution pixels",
        )
    if not inside.all():
        warn(f"{sample.sample_id}: {(~inside).sum()} of {len(inside)} spots lie off the image")
    side = slide.side(px, mpp)
    # Where HEST-1k's own patch files put them (all 187 of SPA141), half a pixel up and left of the
    # nearest: features cut here and there then see the same pixels.
    coords = np.floor(centres[inside] - int(side) // 2).astype(np.int64)
    barcodes = tuple(str(name) for name in expression.obs_names[inside])
    return SpotPatches(
        sample.sample_id, barcodes, coords, side, px, mpp, slide, None, interpolation
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
