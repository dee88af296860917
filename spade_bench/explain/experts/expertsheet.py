"""The top patches of every expert on one contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.console import progress
from spade_bench.explain.experts.expertmaps import TopPatch
from spade_bench.explain.places import read_squares
from spade_bench.report.contactsheet import Tile, TileGroup, sheet_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["expert_sheet"]

_PX = 224  # of a patch on the sheet


def expert_sheet(
    patches: Sequence[TopPatch],
    slides: Mapping[str, Path],
    names: Mapping[int, str],
    title: str,
    *,
    each: int = 20,
    marks: Sequence[str] = (),
) -> Figure | None:
    """Lay out what the top patches of each expert show, an expert after the other.

    Args:
        patches: From `top_patches`, of all experts.
        slides: Slide id -> file of the slide; patches of other slides are left out.
        names: What each expert is called.
        title: What the sheet shows.
        each: Patches of an expert on the sheet.
        marks: What a reader must know, such as "simulated data".

    Returns:
        The sheet; None where no slide is at hand.

    Raises:
        DataError: When a slide cannot be opened or decoded.
    """
    there = [patch for patch in patches if patch.slide_id in slides]
    shown: list[TopPatch] = []
    for expert in names:
        shown += [patch for patch in there if patch.expert == expert][:each]
    if not shown:
        return None
    pixels = _read(shown, slides)
    groups = []
    for expert, name in names.items():
        mine = [patch for patch in shown if patch.expert == expert]
        tiles = [
            Tile(pixels[patch], (f"{patch.rank}   {patch.distance:.3g}", patch.slide_id))
            for patch in mine
        ]
        if tiles:
            groups.append(TileGroup(f"{name}: rank, distance to the expert; slide", tiles))
    return sheet_figure(title, groups, marks=marks)


def _read(
    patches: Sequence[TopPatch], slides: Mapping[str, Path]
) -> dict[TopPatch, NDArray[np.uint8]]:
    """What patches show, each slide opened once."""
    found: dict[TopPatch, NDArray[np.uint8]] = {}
    with progress("Reading patches", len(patches), "patches") as bar:
        for slide_id in dict.fromkeys(patch.slide_id for patch in patches):
            mine = [patch for patch in patches if patch.slide_id == slide_id]
            squares = [(patch.x, patch.y, patch.side) for patch in mine]
            read = read_squares(slides[slide_id], squares, _PX)
            for patch, (pixels, _) in zip(mine, read, strict=True):
                found[patch] = pixels
                bar.advance(1, slide_id)
    return found
