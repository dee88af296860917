"""What an earlier `explain` left in a folder, and how it goes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError
from spade_bench.explain.topsheet import KEY
from spade_bench.files import read_json

__all__ = ["LISTING", "SCHEMA", "earlier_listing", "remove_earlier"]

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
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    listing = out / LISTING
    content = read_json(listing) if listing.is_file() else {}
    if isinstance(content, dict) and content.get("schema") == SCHEMA and not _sound(content):
        raise DataError(
            "was damaged or edited: it does not list maps with their files",
            where=str(listing),
            fix="Name a new folder, or remove this one",
        )
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(
            "exists and was not written by `spade-bench explain`",
            where=str(out),
            fix="Name a new folder",
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
    root = out.resolve()
    names = [name for one in content.get("maps", ()) for name in one.get("files", {}).values()]
    for name in (*names, *content.get("sheets", ()), *content.get("regions", ())):
        path = (out / str(name)).resolve()
        if path.is_relative_to(root) and path.is_file():  # no list removes what lies elsewhere
            path.unlink()
    if content.get("complete") is False:  # it was cut off before it could list its files
        for folder, kinds in _KINDS.items():
            for path in (out / folder).rglob("*"):
                if path.suffix in kinds and path.is_file():
                    path.unlink()
        for path in (*out.glob("top-*.p*"), *out.glob("region_scores.*")):
            path.unlink()
        shutil.rmtree(out / "blind", ignore_errors=True)
    viewer = out / "viewer"
    if viewer_stays:
        for page in (*viewer.glob("*.html"), *viewer.glob("slides/*.html")):
            if page.is_file():  # the tiles of a slide may lie in a folder that is called so
                page.unlink()
    elif "viewer" in content or content.get("complete") is False:
        shutil.rmtree(viewer, ignore_errors=True)
