"""One contact sheet of all slides of an extraction, to find what went wrong by eye."""

from __future__ import annotations

import glob
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.console import say, track
from spade_bench.errors import BROKEN_FILE
from spade_bench.extraction.engine import Summary
from spade_bench.extraction.preview import lettering, preview_path
from spade_bench.files import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SlideNote", "slide_notes", "write_slide_sheet"]

_ACROSS, _DOWN = 6, 6
_TILE, _GAP, _TEXT_PX, _HEAD_PX = 300, 12, 15, 20
_LINES, _LETTERS = 4, 36
_FEWER = 0.1  # of the median number of patches: worth a look
_FEWEST = 20
_FLAG = (176, 32, 0)


@dataclass(frozen=True)
class SlideNote:
    """What the sheet says of a slide.

    Attributes:
        slide_id: Its name.
        patches: Number of patches; 0 where it failed.
        flags: What is worth a look, the gravest first.
    """

    slide_id: str
    patches: int
    flags: tuple[str, ...] = ()


def slide_notes(
    counts: Mapping[str, tuple[int, bool]], failed: Mapping[str, str]
) -> list[SlideNote]:
    """Find what is worth a look: failures, few patches, a resolution that was assumed.

    Args:
        counts: Slide -> number of patches, and whether its resolution was assumed.
        failed: Slide -> why it failed.

    Returns:
        A note per slide: the flagged ones first, then the others, each in order of name.
    """
    import statistics

    usual = statistics.median([n for n, _ in counts.values()] or [0])
    fewest = max(_FEWEST, _FEWER * usual)
    notes = [
        SlideNote(name, 0, (re.sub(rf"^{re.escape(name)}(\.\w+)?: ", "", why),))
        for name, why in failed.items()
    ]
    for name, (patches, assumed) in counts.items():
        if name in failed:
            continue
        flags = ["few patches"] if patches < fewest else []
        flags += ["resolution assumed"] if assumed else []
        notes.append(SlideNote(name, patches, tuple(flags)))
    return sorted(notes, key=lambda note: (not note.flags, note.slide_id))


def write_slide_sheet(done: Summary) -> list[Path]:
    """Write `contact-sheet_ENCODER.jpg` above the features folder, or several pages of it.

    It shows the preview of every slide that has features there or failed now, with its name, its
    number of patches and what is worth a look. Nothing is written where nothing was extracted, or
    where there is no preview.

    Args:
        done: What the extraction did.

    Returns:
        The pages.
    """
    if not done.done and not done.failed:
        return []
    counts = {}
    for file in sorted(done.folder.glob("*.h5")):
        found = _count(file)
        if found is not None:
            counts[file.stem] = found
    notes = slide_notes(counts, done.failed)
    if not any(preview_path(done.folder, note.slide_id).is_file() for note in notes):
        return []
    name = done.folder.name.removeprefix("features_")
    pages = [notes[at : at + _ACROSS * _DOWN] for at in range(0, len(notes), _ACROSS * _DOWN)]
    flagged = sum(bool(note.flags) for note in notes)
    patches = sum(note.patches for note in notes)
    title = f"{name}: {len(notes)} slides, {patches:,} patches; {flagged} worth a look, shown first"
    stem = f"contact-sheet_{name}"
    for stale in done.folder.parent.glob(f"{glob.escape(stem)}_page-*.jpg"):
        stale.unlink()
    written = []
    for number, page in enumerate(track(pages, "Drawing", len(pages), "sheets"), 1):
        several = len(pages) > 1
        path = done.folder.parent / f"{stem}{f'_page-{number}' if several else ''}.jpg"
        of = f" (page {number} of {len(pages)})" if several else ""
        with atomic_path(path) as temporary:
            _page(page, done.folder, title + of).save(temporary, quality=85)
        written.append(path)
    more = f" and {len(written) - 1} more" if len(written) > 1 else ""
    say(f"All slides at a glance: {written[0]}{more}")
    return written


def _count(file: Path) -> tuple[int, bool] | None:
    """Number of patches in a features file, and whether the resolution was assumed."""
    import h5py

    try:
        with h5py.File(file, "r") as stored:
            features = stored["features"]
            coords = stored["coords"].attrs if "coords" in stored else {}
            source = {**features.attrs, **coords}.get("level0_mpp_source")
            return len(features), source == "assumed"
    except BROKEN_FILE:
        return None  # said by whoever uses it


def _page(notes: Sequence[SlideNote], folder: Path, title: str) -> Image:
    """Draw one page."""
    from PIL import Image, ImageDraw

    across = min(_ACROSS, max(3, len(notes)))
    line = _TEXT_PX + 3
    row = _TILE + _LINES * line + _GAP
    head = _HEAD_PX + 2 * _GAP
    size = (across * (_TILE + _GAP) + _GAP, head + -(-len(notes) // across) * row + _GAP)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, _GAP), title, fill="black", font=lettering(_HEAD_PX))
    for at, note in enumerate(notes):
        down, right = divmod(at, across)
        left, top = _GAP + right * (_TILE + _GAP), head + down * row
        _paste(page, preview_path(folder, note.slide_id), (left, top))
        count = "failed" if not note.patches else f"{note.patches:,} patches"
        flags = textwrap.wrap("; ".join(note.flags), _LETTERS, max_lines=_LINES - 2,
                              placeholder=" ...")  # fmt: skip
        for number, text in enumerate((note.slide_id, count, *flags)):
            colour = _FLAG if number > 1 else (0, 0, 0)
            place = (left, top + _TILE + 2 + number * line)
            draw.text(place, _fitting(text), fill=colour, font=lettering(_TEXT_PX))
        if note.flags:
            draw.rectangle([left - 3, top - 3, left + _TILE + 2, top + _TILE + 2], outline=_FLAG,
                           width=3)  # fmt: skip
    return page


def _paste(page: Image, preview: Path, corner: tuple[int, int]) -> None:
    """Paste a preview, or an empty square where there is none."""
    from PIL import Image, ImageDraw

    left, top = corner
    try:
        with Image.open(preview) as opened:
            opened.draft("RGB", (2 * _TILE, 2 * _TILE))  # a JPEG is read coarsely, which is fast
            opened.thumbnail((_TILE, _TILE))
            page.paste(opened, (left + (_TILE - opened.width) // 2, top))
    except BROKEN_FILE:
        draw = ImageDraw.Draw(page)
        draw.rectangle([left, top, left + _TILE, top + _TILE], fill=(235, 235, 235))
        draw.text((left + _GAP, top + _GAP), "no preview", fill="black", font=lettering(_TEXT_PX))


def _fitting(text: str) -> str:
    """Cut what is too wide for a tile in its middle: names of slides differ at both ends."""
    font = lettering(_TEXT_PX)
    if font.getlength(text) <= _TILE:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(f"{text[: kept // 2]}...{text[-(kept // 2) :]}") > _TILE:
        kept -= 1
    return f"{text[: kept // 2]}...{text[-(kept // 2) :]}"
