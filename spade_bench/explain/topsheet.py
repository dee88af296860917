"""The highest and lowest patches of a layer over many slides, on one contact sheet per encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import progress
from spade_bench.errors import UserError
from spade_bench.explain.layers import SHARE
from spade_bench.explain.places import read_squares
from spade_bench.explain.ranking import PARTS, PatchRanking, RankedPatch, SlideLayer
from spade_bench.files import file_name, write_json
from spade_bench.report.contactsheet import Tile, TileGroup, save_figure, sheet_figure
from spade_bench.report.naming import encoder_title
from spade_bench.slides.scalebar import bar_length

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KEY", "TOP", "RankedPatch", "SlideLayer", "ranked_patches", "write_top_sheets"]

KEY = "blind-key.json"
"""Says which encoder a letter of the blind sheets stands for."""

TOP = 50
_PX = 224  # of a patch on a sheet: 16 mm at 300 dpi need 190
_SAME_WIDTH = 0.02  # by which patches of one scale bar may differ
_NO_PLACES = "patches cut before: their places are not known, so no minimum distance applies"


def write_top_sheets(
    layers: Sequence[SlideLayer] | Mapping[str, PatchRanking],
    out: Path,
    *,
    top: int = TOP,
    distance: float | None = None,
    title: str = "",
    blind: int | None = None,
    marks: Sequence[str] = (),
) -> list[Path]:
    """Write a contact sheet of the highest and lowest patches for each encoder, as PNG and PDF.

    Blind sheets lie in `blind/`, are called A, B, ... in an order drawn at random, and name no
    encoder, in their files' metadata neither; `blind-key.json` beside that folder says which is
    which and lists the patches. Sheets that name their encoder lie in ``out``, with the same list
    in `top-patches.json`.

    Args:
        layers: The slides of all encoders; or encoder -> the ranking of its patches.
        out: Folder to write.
        top: How many patches of each end.
        distance: See `ranked_patches`.
        title: What the score is for, such as the name of the task and the head.
        blind: Seed of the order of blind sheets; None for sheets with names.
        marks: What a reader must know, such as "simulated data".

    Returns:
        The sheets, then the list of their patches, which of blind ones is the key.

    Raises:
        UserError: When there is nothing to rank.
        DataError: When a patch cannot be read.
    """
    if not layers:
        raise UserError("There is nothing to rank", fix="Give the layer of at least one slide")
    rankings = layers if isinstance(layers, Mapping) else _rankings(layers, top, distance)
    encoders = list(rankings)
    ranked = [patch for ranking in rankings.values() for patch in ranking.ranked()]
    shown = _read(ranked)
    sheets = {encoder: encoder for encoder in encoders}
    if blind is not None:
        sheets = _letters(encoders, blind)
    written: list[Path] = []
    lists = {}
    for name, encoder in sheets.items():
        mine = [patch for patch in shown if patch.source.encoder == encoder]
        shown_as = name if blind is not None else encoder_title(name)
        words = f"{shown_as}: {title}" if title else shown_as
        texts = [words, mine[0].source.layer.legend, *marks]
        if any(patch.source.images for patch in mine):
            texts.append(_NO_PLACES)
        if blind is not None:
            texts = [_nameless(text, encoders) for text in texts]
        figure = _sheet(mine, texts[0], texts[1], top, texts[2:])
        folder, stem = (out if blind is None else out / "blind"), file_name(f"top-{name}")
        written += [save_figure(figure, folder / f"{stem}{kind}") for kind in (".png", ".pdf")]
        lists[name] = {"encoder": encoder, "patches": [_listed(patch) for patch in mine]}
    key = out / ("top-patches.json" if blind is None else KEY)
    write_json(key, {"schema": "spade-bench/top-patches/1", "seed": blind, "sheets": lists})
    return [*written, key]


def _rankings(
    layers: Sequence[SlideLayer], top: int, distance: float | None
) -> dict[str, PatchRanking]:
    """Rank the patches of each encoder."""
    rankings: dict[str, PatchRanking] = {}
    for one in layers:
        rankings.setdefault(one.encoder, PatchRanking(top, distance)).add(one)
    return rankings


def ranked_patches(
    layers: Sequence[SlideLayer], top: int = TOP, distance: float | None = None
) -> list[RankedPatch]:
    """Rank the patches of one encoder over its slides; what they show is not read yet.

    The highest are taken from the upper half of all values and the lowest from the lower half, so
    no patch is both, however few there are.

    Args:
        layers: Its slides.
        top: How many of each end.
        distance: Patches of a slide differ by at least this along x or y, in level-0 pixels; two
            patch sides by default. Images that were cut before have no place, and no distance.

    Returns:
        The highest from the first down, then the lowest from the first up.

    Raises:
        UserError: When there is nothing to rank.
    """
    ranking = PatchRanking(top, distance)
    for one in layers:
        ranking.add(one)
    return ranking.ranked()


def _read(ranked: Sequence[RankedPatch]) -> list[RankedPatch]:
    """Read what patches show, slide by slide, each opened once for all encoders."""
    places: dict[Path, list[int]] = {}
    for at, patch in enumerate(ranked):
        places.setdefault(patch.source.path, []).append(at)
    shown = list(ranked)
    with progress("Reading patches", len(ranked), "patches") as bar:
        for path, numbers in sorted(places.items()):
            patches = [ranked[at] for at in numbers]
            read = _from_images if patches[0].source.images else _from_slide
            for at, patch in zip(numbers, read(path, patches), strict=True):
                shown[at] = patch
                bar.advance(1, path.stem)
    return shown


def _from_slide(path: Path, patches: Sequence[RankedPatch]) -> Iterator[RankedPatch]:
    """Read patches of one slide, in the order given."""
    layers = [patch.source.layer for patch in patches]
    squares = [
        (*layer.coords[patch.row].tolist(), layer.side)
        for layer, patch in zip(layers, patches, strict=True)
    ]
    read = read_squares(path, squares, _PX, mpp=patches[0].source.mpp)
    for patch, (pixels, um) in zip(patches, read, strict=True):
        yield replace(patch, pixels=pixels, um=um)


def _from_images(path: Path, patches: Sequence[RankedPatch]) -> Iterator[RankedPatch]:
    """Read patches that were cut before, in the order given."""
    from spade_bench.slides.patches import fit_patch, read_patch

    for patch in patches:
        pixels = read_patch(patch.source.images[patch.row])
        mpp = patch.source.mpp
        um = None if mpp is None else min(pixels.shape[:2]) * mpp
        yield replace(patch, pixels=fit_patch(pixels, _PX), um=um)


def _sheet(
    patches: Sequence[RankedPatch], title: str, legend: str, top: int, marks: Sequence[str]
) -> Figure:
    """Lay out the patches of one encoder."""
    groups = []
    for part in PARTS:
        mine = [patch for patch in patches if patch.part == part]
        why = "there are no more" if patches[0].source.images else "no more lie far enough apart"
        fewer = "" if len(mine) == top else f" ({top} were asked for; {why})"
        words = f"{part.capitalize()} {len(mine)}{fewer}. Score: {legend}"
        groups.append(TileGroup(words, [_tile(patch) for patch in mine]))
    widths = [patch.um for patch in patches]
    bar = None
    if None not in widths:
        known = [um for um in widths if um is not None]
        if max(known) <= (1 + _SAME_WIDTH) * min(known):
            length, words = bar_length(known[0], 1.0)
            bar = (length / known[0], words)
    return sheet_figure(title, groups, bar=bar, marks=marks)


def _tile(patch: RankedPatch) -> Tile:
    assert patch.pixels is not None
    share = patch.source.layer.scale == SHARE
    score = f"{patch.score:.3f}" if share else f"{patch.score:.3g}"
    return Tile(patch.pixels, (f"{patch.rank}   {score}", patch.source.slide_id))


def _listed(patch: RankedPatch) -> dict[str, Any]:
    """What a table needs to find a patch again."""
    source = patch.source
    place: dict[str, Any]
    if source.images:
        image = source.images[patch.row]
        inside = image.is_relative_to(source.path)
        place = {"image": image.relative_to(source.path).as_posix() if inside else image.name}
    else:
        x, y = source.layer.coords[patch.row].tolist()
        place = {"x": x, "y": y, "side": source.layer.side}
    return {"part": patch.part, "rank": patch.rank, "score": patch.score,
            "slide_id": source.slide_id, **place}  # fmt: skip


def _letters(encoders: Sequence[str], seed: int) -> dict[str, str]:
    """A, B, ... for encoders in an order drawn at random, whatever order they are given in."""
    import numpy as np

    drawn = np.random.default_rng(seed).permutation(len(encoders))
    ordered = sorted(encoders)
    return {_letter(at): ordered[row] for at, row in enumerate(drawn)}


def _letter(at: int) -> str:
    """A to Z, then AA, AB, ..."""
    word = ""
    while at >= 0:
        at, rest = at // 26 - 1, at % 26
        word = chr(ord("A") + rest) + word
    return word


def _nameless(text: str, encoders: Sequence[str]) -> str:
    """Take the names of encoders out of a text."""
    for name in sorted(encoders, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text, flags=re.IGNORECASE)
    return text
