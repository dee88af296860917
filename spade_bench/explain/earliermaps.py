"""What an earlier `explain` left in a folder, and how it goes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError
from spade_bench.explain.earlierfiles import (
    clear_viewer,
    read_earlier,
    remove_kinds,
    remove_listed,
)
from spade_bench.explain.topsheet import KEY

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
