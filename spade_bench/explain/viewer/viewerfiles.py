"""Writes the viewer: a folder with an index page and a page per slide."""

from __future__ import annotations

import html
import string
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from spade_bench.console import progress, track
from spade_bench.errors import UserError
from spade_bench.explain.places import UNKNOWN_MPP
from spade_bench.explain.viewer.slideview import SlideView, TopPatch, check_inside, checked_views
from spade_bench.explain.viewer.tilepyramid import (
    TILE,
    Square,
    TileLevel,
    count_tiles,
    write_tiles,
)
from spade_bench.explain.viewer.viewerdata import layer_script, slide_script
from spade_bench.files import atomic_dir, file_name, hash_obj, remember, remembered, write_text
from spade_bench.slides.opening import Slide, open_slide

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["VIEWER_PX", "check_viewer_px", "write_viewer"]

VIEWER_PX = 8192
"""Longer side of the largest picture of a whole slide; at most 341 tiles, mostly 2 to 15 MB."""

_SCRIPTS = ("pyramid.js", "layers.js", "panel.js", "viewer.js")
_LEFT_OUT = ("page.html", "index.html")  # filled in, not copied
_PICTURE_PX = 112  # of a top patch in the list


def write_viewer(
    out: str | Path,
    slides: Iterable[SlideView],
    *,
    total: int | None = None,
    viewer_px: int = VIEWER_PX,
) -> Path:
    """Write a folder whose `index.html` opens by double click, without a server or network.

    It leads to `slides/SLIDE.html`, which also opens by itself, and at a place:
    `SLIDE.html#at=LEFT,TOP,SIDE&layer=KEY`, in level-0 pixels.

    Tiles that an earlier call wrote of the same slide file stay.

    Args:
        out: The folder.
        slides: What to show, one slide at a time.
        total: How many slides there are, where they are made on the way; None takes them all first,
            so that nothing is written when one cannot be shown.
        viewer_px: Longer side of the largest picture of a whole slide, at most. Around the top
            patches there are finer tiles, as sharp as what the encoder saw.

    Returns:
        The index page.

    Raises:
        UserError: When there is nothing to show or ``viewer_px`` is too small.
        DataError: When a slide cannot be opened or decoded, or does not fit its layers.
    """
    check_viewer_px(viewer_px)
    if total is None:
        slides = list(checked_views(slides))
        total = len(slides)
    folder = Path(out)
    for asset in _assets().iterdir():
        if asset.name not in _LEFT_OUT:
            write_text(folder / "assets" / asset.name, asset.read_text(encoding="utf-8"))
    cards = []
    for view in track(checked_views(slides), "Viewer", total, "slides"):
        picture = _write_slide(folder / "slides", view, viewer_px, total > 1)
        cards.append(_card(view, picture))
    index = folder / "index.html"
    count = "1 slide" if total == 1 else f"{total} slides"
    write_text(index, _template("index.html").substitute(count=count, cards="\n".join(cards)))
    return index


def check_viewer_px(viewer_px: int) -> None:
    """Refuse a picture of a slide that is smaller than one tile.

    Raises:
        UserError: When it is.
    """
    if viewer_px < TILE:
        raise UserError(
            f"--viewer-px is {viewer_px}", fix=f"Give at least {TILE}, such as {VIEWER_PX}"
        )


def _assets() -> Traversable:
    return resources.files("spade_bench.explain.viewer") / "assets"


def _template(name: str) -> string.Template:
    return string.Template((_assets() / name).read_text(encoding="utf-8"))


def _write_slide(pages: Path, view: SlideView, viewer_px: int, several: bool) -> str:
    """Write `SLIDE.html` and the folder `SLIDE`; return the address of its smallest picture."""
    folder = pages / _folder_name(view.slide_id)
    address = quote(folder.name)
    with open_slide(view.path, slide_id=view.slide_id, mpp=view.mpp,
                    assume_mpp=UNKNOWN_MPP) as slide:  # fmt: skip
        check_inside(view, slide.width, slide.height)
        levels = _tiles(folder, slide, view, viewer_px)
        _write_top(folder / "top", slide, view)
        known = None if slide.mpp_source == "assumed" else slide.mpp
        size = (slide.width, slide.height)
    for number, layer in enumerate(view.layers):
        write_text(folder / "layers" / f"{number}.js", layer_script(number, layer))
    write_text(folder / "slide.js", slide_script(view, address, size, known, levels))
    scripts = [
        *(f"../assets/{name}" for name in _SCRIPTS),
        f"{address}/slide.js",
        *(f"{address}/layers/{number}.js" for number in range(len(view.layers))),
    ]
    lines = "\n".join(f'<script src="{script}"></script>' for script in scripts)
    way_back = '<a class="back" href="../index.html">All slides</a>' if several else ""
    page = _template("page.html").substitute(
        title=html.escape(view.slide_id), scripts=lines, back=way_back
    )
    write_text(pages / f"{file_name(view.slide_id)}.html", page)
    return f"slides/{address}/tiles/{levels[-1].folder}/0_0.jpg"


def _tiles(folder: Path, slide: Slide, view: SlideView, viewer_px: int) -> list[TileLevel]:
    """Write the tiles of a slide, or take those that are there."""
    squares = [Square(patch.x, patch.y, _side(view, patch)) for patch in view.top]
    stat = view.path.stat()
    key = hash_obj([view.path.name, stat.st_size, stat.st_mtime_ns, viewer_px, TILE,
                    [[square.x, square.y, square.side] for square in squares]])  # fmt: skip
    record = folder / "tiles.json"
    kept = remembered(record, key)
    if kept is not None and (folder / "tiles").is_dir():
        return [TileLevel(**{**one, "tiles": tuple(one["tiles"])}) for one in kept["levels"]]
    total = count_tiles(slide.width, slide.height, viewer_px)
    with (
        progress(f"Tiles of {view.slide_id}", total, "tiles") as bar,
        atomic_dir(folder / "tiles") as temporary,
    ):
        levels = write_tiles(slide, temporary, viewer_px, squares, bar)
    plain: list[dict[str, Any]] = [vars(level) for level in levels]
    remember(record, key, {"levels": plain})
    return levels


def _write_top(folder: Path, slide: Slide, view: SlideView) -> None:
    """Write a small picture of each top patch, named by its place in the list."""
    from PIL import Image

    with atomic_dir(folder) as temporary:
        for number, patch in enumerate(view.top):
            pixels = slide.read(patch.x, patch.y, _side(view, patch), _PICTURE_PX)
            Image.fromarray(pixels).save(temporary / f"{number}.jpg", quality=85)


def _side(view: SlideView, patch: TopPatch) -> int:
    return next(layer.side for layer in view.layers if layer.key == patch.layer)


def _folder_name(slide_id: str) -> str:
    """Folder of a slide's files; one that would be called as the page of another has a mark."""
    name = file_name(slide_id)
    return file_name(f"{slide_id}/") if name.lower().endswith(".html") else name


def _card(view: SlideView, picture: str) -> str:
    """The card of a slide on the index page."""
    page = f"slides/{quote(file_name(view.slide_id))}.html"
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in view.facts.items()
    )
    marks = "".join(f'<span class="mark">{html.escape(mark)}</span>' for mark in view.marks)
    return (
        f'<li><a href="{page}"><img src="{picture}" alt="">'
        f"<strong>{html.escape(view.slide_id)}</strong></a>{marks}<dl>{facts}</dl></li>"
    )
