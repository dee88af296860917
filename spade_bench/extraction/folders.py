"""Takes every bag of a folder through something that writes a file: skip, do, or report."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_bench import console, files
from spade_bench.data.bags import find_bags, source_hash
from spade_bench.errors import DataError, UserError
from spade_bench.types import EncoderCard

__all__ = ["EncodedFolder", "over_bags"]


@dataclass(frozen=True)
class EncodedFolder:
    """What became of a folder of bags.

    Attributes:
        written: Slide id -> file, encoded now.
        skipped: Slide id -> file, complete from an earlier run of the same recipe.
        failed: One line for each file that could not be encoded.
    """

    written: Mapping[str, Path]
    skipped: Mapping[str, Path]
    failed: tuple[str, ...]


def over_bags(
    card: EncoderCard,
    features: Path,
    *,
    unit: str,
    recipe: Mapping[str, Any],
    target_of: Callable[[str, Path], Path],
    write: Callable[[Path, Path, dict[str, Any]], object],
) -> EncodedFolder:
    """Write a file for every bag under a folder that has no current one.

    A file is current when it holds the hash of the recipe and of its source's content. A bad bag
    is reported and the rest go on.

    Args:
        card: The encoder's; `upstream` names the features it takes, `any` or an empty name all.
        features: Folder of bags, searched recursively.
        unit: What a bag is called in the progress line, plural.
        recipe: What determines the output beside the source: weights, options.
        target_of: Tells the file of a slide id and its bag.
        write: Encodes a bag into a file with these attributes beside its own.

    Raises:
        DataError: When the folder holds no features of the upstream encoder.
        OSError: When the disk is full, or the folder to write cannot be one.
    """
    upstream = None if card.upstream in (None, "", "any") else card.upstream
    broken: list[DataError] = []
    bags = find_bags(features, upstream, unreadable=broken)
    failed = [str(error) for error in broken]
    for line in failed:
        console.warn(line)
    written: dict[str, Path] = {}
    skipped: dict[str, Path] = {}
    said = {f"recipe_{name}": str(value) for name, value in recipe.items()}
    with console.progress(f"encode {card.name}", total=len(bags), unit=unit) as bar:
        for slide_id, source in bags.items():
            target = target_of(slide_id, source)
            key = files.hash_obj({**recipe, "source": source_hash(source)})
            if _recipe_of(target) == key:
                skipped[slide_id] = target
            else:
                try:
                    write(source, target, {**said, "recipe": key})
                    written[slide_id] = target
                except (UserError, OSError) as error:
                    if isinstance(error, OSError) and error.errno in _FOR_ALL:
                        raise  # the next bag would fail alike
                    line = str(error) if slide_id in str(error) else f"{slide_id}: {error}"
                    failed.append(line)
                    console.warn(line)
            bar.advance(note=slide_id)
    return EncodedFolder(written, skipped, tuple(failed))


_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
"""What the machine answers when no file can be written to the folder."""


def _recipe_of(path: Path) -> str | None:
    """Return the recipe of a finished file; None when there is none."""
    import h5py

    if not path.is_file():
        return None
    with h5py.File(path, "r") as file:
        recipe = file["features"].attrs.get("recipe") if "features" in file else None
    return None if recipe is None else str(recipe)
