"""Links from cases to the maps that `explain` drew of their slides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from spade_bench import console
from spade_bench.errors import DataError
from spade_bench.files import file_name, read_json

__all__ = ["DrawnMap", "MapLink", "check_maps", "find_maps", "links_of"]

_LISTING = "explain.json"
_SCHEMA = "spade-bench/explain/1"
_TOLD = ("slide_id", "case_id", "encoder", "task", "head")


@dataclass(frozen=True)
class MapLink:
    """Where to see a slide with its map.

    Attributes:
        name: The slide, with the encoder where the map is of one alone.
        address: Address relative to the page.
        trained: Whether a model of a map there was trained on the case.
    """

    name: str
    address: str
    trained: bool = False


@dataclass(frozen=True)
class DrawnMap:
    """A map as the listing of `explain` names it.

    Attributes:
        task: Task of the model.
        case_id: Case of the slide.
        encoder: Label of the encoder; empty where the listing does not say.
        link: Where it can be seen.
    """

    task: str
    case_id: str
    encoder: str
    link: MapLink


def check_maps(folder: Path) -> None:
    """Refuse a folder of maps that is not there or empty.

    Raises:
        DataError: When it is.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(
            "no maps here",
            where=str(folder),
            fix="Draw some with `spade-bench explain`, or leave --maps out",
        )


def find_maps(folder: Path, home: Path) -> list[DrawnMap]:
    """Read which maps a folder holds, from the listings that `explain` wrote there or below.

    A map is seen in the viewer where there is one, else beside that of the other encoder, else by
    itself. What no listing names is never linked: names of files do not say whose case it is.

    Args:
        folder: What `explain` wrote, or a folder of several such.
        home: Folder of the page that links to them.

    Raises:
        DataError: When the folder is not there or empty.
    """
    check_maps(folder)
    listings = sorted(folder.rglob(_LISTING))
    if not listings:
        console.warn(
            f"{folder}: holds no {_LISTING}, so no map is linked. Name a folder that "
            "`spade-bench explain` wrote"
        )
    return [one for listing in listings for one in _drawn(listing, home)]


def links_of(
    maps: Sequence[DrawnMap], task: str, case_id: str, encoders: Sequence[str]
) -> list[MapLink]:
    """Return where to see the maps of a case, each place once.

    Args:
        maps: What :func:`find_maps` found.
        task: The task; a map of another one says nothing here.
        case_id: The case.
        encoders: Labels of the encoders that are shown; empty for any.
    """
    found = [
        one.link
        for one in maps
        if (one.task, one.case_id) == (task, case_id)
        and (not one.encoder or not encoders or one.encoder in encoders)
    ]
    return list(dict.fromkeys(found))


def _drawn(listing: Path, home: Path) -> list[DrawnMap]:
    """The maps of one listing that can be seen; none, with a warning, of one that is no listing."""
    try:
        content = read_json(listing)
    except DataError as error:
        console.warn(f"{error} No map of it is linked")
        return []
    maps = content.get("maps") if isinstance(content, dict) else None
    if not isinstance(maps, list) or content.get("schema") != _SCHEMA:
        console.warn(f"{listing}: is no listing of maps of this version, so none is linked")
        return []
    if content.get("complete") is False:
        console.warn(
            f"{listing.parent}: `spade-bench explain` did not finish here, so no map of it is "
            "linked. Repeat that command"
        )
        return []
    by_slide: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for one in maps:
        if isinstance(one, dict) and all(isinstance(one.get(name), str) for name in _TOLD):
            key = (one["slide_id"], one["case_id"], one["task"], one["head"])
            by_slide.setdefault(key, []).append(one)
    return [
        DrawnMap(one["task"], one["case_id"], one["encoder"], link)
        for alike in by_slide.values()
        for one in alike
        if (link := _link(one, alike, listing.parent, home)) is not None
    ]


def _link(
    one: Mapping[str, Any], alike: Sequence[Mapping[str, Any]], folder: Path, home: Path
) -> MapLink | None:
    """Where a map is seen, among those of one slide; None where it was not drawn."""
    slide = one["slide_id"]
    trained = any(other.get("trained") is True for other in alike)
    panels = [path for other in alike if (path := _file(other, "panel_png"))]
    for shared in (f"viewer/slides/{file_name(slide)}.html", *panels):
        if address := _address(folder, shared, home):
            return MapLink(slide, address, trained)
    if address := _address(folder, _file(one, "png"), home):
        name = f"{slide}, {one['encoder']}" if one["encoder"] else slide
        return MapLink(name, address, one.get("trained") is True)
    return None


def _file(one: Mapping[str, Any], kind: str) -> str:
    files = one.get("files")
    return str(files.get(kind) or "") if isinstance(files, dict) else ""


def _address(folder: Path, name: str, home: Path) -> str:
    """Address of a file of a folder, from the page; empty where it is not there or lies outside."""
    path = (folder / name).resolve()
    if not name or not path.is_file() or not path.is_relative_to(folder.resolve()):
        return ""
    return quote(os.path.relpath(path, home.resolve()).replace(os.sep, "/"))
