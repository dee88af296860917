"""Whole slides: opens them with OpenSlide, knows their resolution, reads regions to a pixel."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from spade_bench.console import say
from spade_bench.errors import DataError
from spade_bench.slides.pyramids import PLAIN_SUFFIXES, Opened, open_pyramid
from spade_bench.slides.resolution import Resolution, find_resolution, resolution

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SLIDE_SUFFIXES", "Slide", "find_slides", "open_slide", "resolution"]

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm"}
)
_WIDEST_MM = 250.0  # glass slides are 76 mm long, those of whole organs up to 200 mm
_LISTED = 6  # images of a file named in a message
_MARGIN = 4  # px read around a region, so that resampling sees its surroundings


class Slide:
    """An open slide.

    Attributes:
        slide_id: Its name.
        path: Its file.
        width: Level-0 width in pixels.
        height: Level-0 height in pixels.
        mpp: Level-0 resolution in µm per pixel.
        mpp_source: Where the resolution comes from.
        series: How many images its file holds.
        offset: Level-0 pixel (x, y) where what was scanned begins, which QuPath calls (0, 0).
        not_rgb: What it holds where that is not RGB, such as `16-bit greyscale`.
        notes: What a user should know: the file contradicts itself, or holds more images.
    """

    def __init__(self, slide_id: str, path: Path, opened: Opened, size: Resolution) -> None:
        self.slide_id = slide_id
        self.path = path
        self._pyramid = opened.pyramid
        self.width, self.height = opened.pyramid.sizes[0]
        self.mpp = size.mpp
        self.mpp_source = size.source
        self.offset = _offset(opened)
        self.series = max(len(opened.images), 1)
        self.not_rgb = opened.images[opened.image].not_rgb if opened.images else None
        self.notes = (
            *_several(opened),
            *(f"{note}; the first is taken" for note in size.notes),
        )

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._pyramid.close()

    def side(self, px: int, mpp: float) -> float:
        """Level-0 width of a patch of ``px`` pixels at ``mpp``.

        A width that misses a whole number of pixels of a pyramid level by less than half a pixel
        is set to it, so that patches of a slide at 0.499 µm/px are read rather than resampled.
        """
        side = px * mpp / self.mpp
        downsample = self._pyramid.downsamples[self._level(side / px)]
        return px * downsample if abs(side / downsample - px) < 0.5 else side

    def read(
        self, x: float, y: float, side: float, px: int, interpolation: str = "bicubic"
    ) -> np.ndarray:
        """Read a square region and scale it, antialiased.

        Args:
            x: Level-0 column of its left edge; fractions count.
            y: Level-0 row of its top edge.
            side: Level-0 width and height.
            px: Width and height wanted.
            interpolation: `bilinear` or `bicubic`.

        Returns:
            (px, px, 3) uint8 RGB; white beyond the edges of the slide.

        Raises:
            DataError: When the region cannot be decoded.
        """
        level = self._level(side / px)
        scale = self._pyramid.downsamples[level]
        left, top, extent = x / scale, y / scale, side / scale  # in pixels of the level
        if abs(extent - px) < 1e-3:
            return self._region(level, round(left), round(top), px, px)
        return self._resampled(level, (left, top, left + extent, top + extent), px, interpolation)

    def thumbnail(self, mpp: float) -> np.ndarray:
        """The whole slide at about ``mpp``, never finer than level 0, (h, w, 3) uint8.

        Raises:
            DataError: When it cannot be decoded.
        """
        import numpy as np
        from PIL import Image

        factor = max(mpp / self.mpp, 1.0)
        level = self._level(factor)
        width, height = self._pyramid.sizes[level]
        size = (max(round(self.width / factor), 1), max(round(self.height / factor), 1))
        strip = max(1, 16_000_000 // width)  # keeps memory bounded where there is one level only
        rows = []
        for y in range(0, height, strip):
            block = Image.fromarray(self._region(level, 0, y, width, min(strip, height - y)))
            tall = round((y + block.height) * size[1] / height) - round(y * size[1] / height)
            if tall:
                rows.append(np.asarray(block.resize((size[0], tall), Image.Resampling.BOX)))
        return np.concatenate(rows)

    def _level(self, downsample: float) -> int:
        """The coarsest level that is at least as fine as ``downsample``."""
        scales = self._pyramid.downsamples
        fine = [i for i, scale in enumerate(scales) if scale <= downsample * 1.005]
        return max(fine, key=scales.__getitem__, default=0)

    def _region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        try:
            return self._pyramid.read(level, x, y, width, height)
        except Exception as error:
            if type(error).__module__.split(".")[0] not in {"openslide", "PIL"}:
                raise
            raise DataError(
                f"cannot be decoded at level {level} ({error})", where=self.slide_id
            ) from error

    def _resampled(
        self, level: int, box: tuple[float, float, float, float], px: int, interpolation: str
    ) -> np.ndarray:
        import numpy as np
        from PIL import Image

        x, y = math.floor(box[0]) - _MARGIN, math.floor(box[1]) - _MARGIN
        width, height = math.ceil(box[2]) + _MARGIN - x, math.ceil(box[3]) + _MARGIN - y
        region = Image.fromarray(self._region(level, x, y, width, height))
        inner = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
        method = Image.Resampling[interpolation.upper()]
        return np.asarray(region.resize((px, px), method, box=inner))


def open_slide(
    path: Path,
    *,
    slide_id: str | None = None,
    mpp: float | None = None,
    assume_mpp: float | None = None,
    override_mpp: float | None = None,
    series: int | None = None,
) -> Slide:
    """Open a slide, or a plain JPEG or PNG image.

    Args:
        path: The file.
        slide_id: Its name; the file name without suffix by default.
        mpp: Its resolution, known from elsewhere; wins over what the file says.
        assume_mpp: Its resolution if the file does not say.
        override_mpp: Its resolution, because what is stored is wrong.
        series: Which image of a file of several, from 0; None takes the first.

    Raises:
        DataError: When it cannot be opened or its resolution is unknown or cannot be right.
    """
    opened = open_pyramid(path, series)
    try:
        if override_mpp:
            resolution = Resolution(override_mpp, "overridden")
        elif mpp:
            resolution = Resolution(mpp, "given")
        else:
            resolution = find_resolution(opened.properties, assume_mpp, image=opened.image)
        _check_extent(max(opened.pyramid.sizes[0]), resolution)
    except DataError as error:
        opened.pyramid.close()
        more = "".join(f"; it {note}" for note in _several(opened))
        raise DataError(f"{error.what}{more}", where=path.name, fix=error.fix) from error
    return Slide(slide_id or path.stem, path, opened, resolution)


def _check_extent(pixels: int, size: Resolution) -> None:
    """Refuse a resolution at which the image would be larger than any glass slide."""
    millimetres = pixels * size.mpp / 1000
    if millimetres > _WIDEST_MM:
        raise DataError(
            f"would be {millimetres:.0f} mm wide at {size.mpp:.3g} µm/px ({size.source})",
            fix="Give the right value, µm per pixel, with --override-mpp",
        )


def _offset(opened: Opened) -> tuple[int, int]:
    """Where the bounds of the scan begin; (0, 0) where the file names none, as most do."""
    x, y = (opened.properties.get(f"openslide.bounds-{axis}", "0") for axis in "xy")
    return (int(x), int(y)) if x.isdigit() and y.isdigit() else (0, 0)


def _several(opened: Opened) -> tuple[str, ...]:
    """What to say of a file that holds more than one image."""
    if len(opened.images) < 2:
        return ()
    listed = enumerate(opened.images[:_LISTED])
    sizes = ", ".join(f"{i}: {one.width} x {one.height}" for i, one in listed)
    sizes += ", ..." if len(opened.images) > _LISTED else ""
    return (
        f"holds {len(opened.images)} images ({sizes} px); only {opened.image} is read, --series N "
        "takes another",
    )


def find_slides(folder: Path) -> dict[str, Path]:
    """Find all slides under a folder: slide id (file name without suffix) -> file, sorted.

    Links to nothing and folders that cannot be opened are in it too, under their names, so that
    they are reported when they are opened. The many files of a DICOM series are one slide, named
    after the first of them. JPEG and PNG images are slides where there are no whole-slide files;
    beside those they are thumbnails, labels and macro images, and their number is said.

    Args:
        folder: Searched recursively; or one slide.

    Raises:
        DataError: When the folder is missing or empty, or two slides share a name.
    """
    if folder.is_file() and folder.suffix.lower() in SLIDE_SUFFIXES | PLAIN_SUFFIXES:
        return {folder.stem: folder}
    if not folder.is_dir():
        raise DataError("no such slide folder", where=str(folder))
    slides, closed = _files(folder, SLIDE_SUFFIXES)
    images, _ = _files(folder, PLAIN_SUFFIXES)
    if slides and images:
        say(f"{len(images)} JPEG and PNG images beside whole slides in {folder} are not taken")
    by_id: dict[str, list[Path]] = defaultdict(list)
    series: set[str] = set()
    for path in [*(slides or images), *closed]:
        uid = _series(path) if path.suffix.lower() == ".dcm" else None
        if uid is None or uid not in series:
            by_id[path.name if path in closed else path.stem].append(path)
        if uid:
            series.add(uid)
    if not by_id:
        kinds = ", ".join(sorted(SLIDE_SUFFIXES | PLAIN_SUFFIXES))
        raise DataError(f"no slides found ({kinds})", where=str(folder))
    for name, paths in by_id.items():
        if len(paths) > 1:
            raise DataError(
                f"several slides are named '{name}' ({paths[0]}, {paths[1]})",
                where=str(folder),
                fix="Rename one, or extract each folder into an --out of its own",
            )
    return {name: by_id[name][0] for name in sorted(by_id)}


def _files(folder: Path, suffixes: frozenset[str]) -> tuple[list[Path], list[Path]]:
    """Files of some kinds under a folder, and the folders in it that cannot be opened, sorted.

    Hidden ones are left out. Links to nothing are files: whoever opens them says so.
    """
    closed: list[Path] = []

    def note(error: OSError) -> None:
        closed.append(Path(error.filename))

    matching = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=note)
        for name in names
        if Path(name).suffix.lower() in suffixes
    ]
    files, folders = (
        [
            path
            for path in sorted(paths)
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
        for paths in (matching, closed)
    )
    return [path for path in files if path.is_symlink() or path.is_file()], folders


def _series(path: Path) -> str | None:
    import openslide

    try:
        with openslide.OpenSlide(str(path)) as handle:
            uid: str | None = handle.properties.get("dicom.SeriesInstanceUID")
            return uid
    except (openslide.OpenSlideError, OSError):
        return None  # listed under its own name; extraction will say what is wrong with it
