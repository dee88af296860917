"""What an earlier call of `explain` left in a folder: whether it may be replaced, and how."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError
from spade_bench.explain.topsheet import KEY
from spade_bench.files import read_json

__all__ = ["LISTING", "SCHEMA", "clear_viewer", "earlier_listing", "read_earlier", "remove_earlier",
           "remove_kinds", "remove_listed"]  # fmt: skip

SCHEMA = "spade-bench/explain/1"
LISTING = "explain.json"
_KINDS = {
    "maps": {".h5"},
    "pictures": {".png", ".pdf"},
    "contributions": {".png"},
    "dispersion": {".png"},
    "panels": {".png", ".pdf"},
    "geojson": {".geojson", ".gz"},
}
"""Folders that a call fills, with the kinds of files."""


def earlier_listing(out: Path) -> Mapping[str, Any] | None:
    """Return the listing of an earlier call; None where the folder is new or empty.

    Raises:
        DataError: When the folder holds something else, or the key of blind sheets.
    """
    content = read_earlier(out, LISTING, SCHEMA)
    if content is None:
        return None
    if not _sound(content):
        raise DataError(
            "was damaged or edited: it does not list maps with their files",
            where=str(out / LISTING),
            fix="Name a new folder, or remove this one",
        )
    if (out / KEY).exists():
        raise DataError(
            "holds blind sheets: written again, their letters would mean other encoders",
            where=str(out / KEY),
            fix="Name a new folder, or remove this key once nobody reads the sheets any more",
        )
    return content


def _sound(content: Mapping[str, Any]) -> bool:
    """Whether a listing can be gone through: lists of texts, and maps with a mapping of files."""
    maps = content.get("maps", [])
    lists = [content.get(name, []) for name in ("sheets", "regions")]
    return (
        isinstance(maps, list)
        and "\\u0000" not in json.dumps(content)  # no name of a file holds one
        and all(isinstance(one, dict) and isinstance(one.get("files", {}), dict) for one in maps)
        and all(isinstance(value, list) for value in lists)
    )


def remove_earlier(out: Path, content: Mapping[str, Any], *, viewer_stays: bool) -> None:
    """Remove what an earlier call wrote, which would pass for results of this one.

    Args:
        out: The folder.
        content: Its listing.
        viewer_stays: Whether the tiles of a viewer stay, for the next one to use.
    """
    names = [name for one in content.get("maps", ()) for name in one.get("files", {}).values()]
    remove_listed(out, (*names, *content.get("sheets", ()), *content.get("regions", ())))
    if content.get("complete") is False:  # it was cut off before it could list its files
        remove_kinds(out, _KINDS)
        for path in (*out.glob("top-*.p*"), *out.glob("region_scores.*")):
            path.unlink()
        shutil.rmtree(out / "blind", ignore_errors=True)
    if viewer_stays or "viewer" in content or content.get("complete") is False:
        clear_viewer(out / "viewer", tiles_stay=viewer_stays)


def read_earlier(
    out: Path, listing: str, schema: str, command: str = "spade-bench explain"
) -> Mapping[str, Any] | None:
    """Return the listing of an earlier call; None where the folder is new or empty.

    Args:
        out: The folder.
        listing: Name of the listing in it.
        schema: Schema of the listing.
        command: Command that writes such folders.

    Raises:
        DataError: When the folder holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    path = out / listing
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or content.get("schema") != schema:
        raise DataError(
            f"exists and was not written by `{command}`", where=str(out), fix="Name a new folder"
        )
    return content


def remove_listed(out: Path, names: Iterable[object]) -> None:
    """Remove files that a listing names, which would pass for results of the next call.

    Args:
        out: The folder.
        names: Paths within it; nobody's list removes what lies elsewhere.
    """
    root = out.resolve()
    for name in names:
        path = (out / str(name)).resolve()
        if path.is_relative_to(root) and not path.is_dir():
            path.unlink(missing_ok=True)


def remove_kinds(out: Path, kinds: Mapping[str, set[str]]) -> None:
    """Remove what a call that was cut off left, which it could not list any more.

    Args:
        out: The folder.
        kinds: Folder within it -> suffixes of its files.
    """
    for folder, suffixes in kinds.items():
        for path in (out / folder).rglob("*"):
            if path.suffix in suffixes and path.is_file():
                path.unlink()


def clear_viewer(viewer: Path, *, tiles_stay: bool) -> None:
    """Remove the pages of a viewer, or all that was written of it.

    Args:
        viewer: Its folder; it need not be there.
        tiles_stay: Whether its tiles stay, for the next one to use.
    """
    slides = [one.parent for one in viewer.glob("slides/*/slide.js")]
    pages = [viewer / "index.html", *viewer.glob("slides/*.html")]
    for page in pages:
        if page.is_file():  # the tiles of a slide may lie in a folder that is called so
            page.unlink()
    if tiles_stay:
        return
    for folder in (viewer / "assets", *slides):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (viewer / "slides", viewer):  # whatever else somebody put there stays
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
