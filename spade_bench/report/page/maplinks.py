"""Links from cases to the maps that `explain` drew of their slides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from spade_bench.errors import DataError
from spade_bench.files import file_name

__all__ = ["find_maps"]

_PICTURES = (".png", ".html")
_BREAKS = ("-", "_", ".")


def find_maps(
    folder: Path, slides: Mapping[str, Sequence[str]], home: Path
) -> dict[str, list[tuple[str, str]]]:
    """Find the pictures of each case below a folder, by the names of its slides.

    A picture belongs to the slide whose name is its own, or how its own begins before a dash, dot
    or underscore; of several such slides to the one of the longest name.

    Args:
        folder: What `explain` wrote.
        slides: Slides of each case.
        home: Folder of the page that links to them.

    Returns:
        For each case with pictures their names and links.

    Raises:
        DataError: When there is no picture.
    """
    owners = {file_name(slide): case for case, names in slides.items() for slide in names}
    found: dict[str, list[tuple[str, str]]] = {}
    pictures = sorted(path for path in folder.rglob("*") if path.suffix in _PICTURES)
    if not pictures:
        raise DataError(
            "no maps here",
            where=str(folder),
            fix="Draw some with `spade-bench explain`, or leave --maps out",
        )
    for path in pictures:
        owner = _owner(path.stem, owners)
        if owner is not None:
            link = quote(os.path.relpath(path.resolve(), home.resolve()).replace(os.sep, "/"))
            found.setdefault(owner, []).append((path.relative_to(folder).as_posix(), link))
    return found


def _owner(stem: str, owners: Mapping[str, str]) -> str | None:
    """The case of the longest slide name that a file's name is or begins with."""
    for end in (len(stem), *sorted((i for i, c in enumerate(stem) if c in _BREAKS), reverse=True)):
        if stem[:end] in owners:
            return owners[stem[:end]]
    return None
