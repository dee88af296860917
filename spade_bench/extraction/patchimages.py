"""The images of patches that were cut before: which one each row of the features was made of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spade_bench.errors import DataError, name_some
from spade_bench.extraction.groups import IMAGE_SUFFIXES
from spade_bench.extraction.recipe import fingerprint, stored_recipe
from spade_bench.features.formats import HDF5
from spade_bench.features.packs import split_path

__all__ = ["NO_IMAGES", "ImageRows", "PatchImages", "image_rows"]


@dataclass(frozen=True)
class ImageRows:
    """What the rows of a feature file were made of, as the file says.

    Attributes:
        prints: Name, bytes and hash of the image of each row; empty where the file does not say.
        mpp: Resolution of the images in micrometres per pixel; None where nobody gave one.
    """

    prints: tuple[tuple[str, int, str], ...] = ()
    mpp: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(name for name, _, _ in self.prints)


NO_IMAGES = ImageRows()


def image_rows(path: Path, n: int) -> ImageRows:
    """Return what `extract --patches` wrote into a feature file about its rows.

    Args:
        path: The feature file.
        n: Its rows.
    """
    if split_path(path) is not None or path.suffix not in HDF5:
        return NO_IMAGES
    stored = stored_recipe(path)
    said = {} if stored is None else stored.values
    listed = said.get("input")
    if said.get("kind") != "patches" or not isinstance(listed, list) or len(listed) != n:
        return NO_IMAGES
    try:
        prints = tuple((str(name), int(size), str(digest)) for name, size, digest in listed)
    except (TypeError, ValueError):
        return NO_IMAGES
    mpp = said.get("assume_mpp")
    return ImageRows(prints, float(mpp) if isinstance(mpp, (int, float)) else None)


@dataclass(frozen=True)
class PatchImages:
    """A folder of patch images, as `extract --patches` was given.

    Attributes:
        root: The folder, searched to the bottom.
    """

    root: Path

    @cached_property
    def _by_name(self) -> Mapping[str, Sequence[Path]]:
        """Name -> the images of that name, in the order of their paths.

        Raises:
            DataError: When the folder is missing or holds none.
        """
        if not self.root.is_dir():
            raise DataError("no such folder of patches", where=str(self.root))
        found: dict[str, list[Path]] = {}
        for at, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    found.setdefault(name, []).append(Path(at, name))
        if not found:
            raise DataError("no image files found", where=str(self.root))
        return found

    def check(self) -> None:
        """Look into the folder.

        Raises:
            DataError: When it is missing or holds no image.
        """
        _ = self._by_name

    def find(self, slide_id: str, rows: ImageRows) -> tuple[str, ...]:
        """Return the image of each row as a path below the folder.

        An image is told by its name and content, so no rule of grouping is needed. Of copies in
        several folders, the one whose path holds the name of the slide is taken.

        Args:
            slide_id: Name of the slide.
            rows: What its rows were made of.

        Raises:
            DataError: When the features do not say it, or images are missing or were changed.
        """
        if not rows.prints:
            raise DataError(
                "the features do not say which images they were made of",
                where=slide_id,
                fix="Give those that `spade-bench extract --patches` wrote, not a pack or a copy "
                "in another format; or leave out --patches for maps without pictures",
            )
        absent: list[str] = []
        changed: list[str] = []
        found: list[str] = []
        for name, size, digest in rows.prints:
            of_name = self._by_name.get(name, ())
            same = [path for path in of_name if fingerprint(path) == [name, size, digest]]
            if same:
                same.sort(key=lambda path: slide_id not in path.as_posix())
                found.append(same[0].relative_to(self.root).as_posix())
            else:
                (changed if of_name else absent).append(name)
        if absent or changed:
            what = [f"lacks {name_some(absent, 3)}"] if absent else []
            what += [f"holds another image as {name_some(changed, 3)}"] if changed else []
            raise DataError(
                f"{' and '.join(what)}, of {len(rows.prints)} that the features of "
                f"'{slide_id}' were made of",
                where=str(self.root),
                fix="Give the folder of `spade-bench extract --patches`, or name other cases with "
                "--case",
            )
        return tuple(found)
