"""Pictures of a report: sizes for print, one palette, and the loop that draws and writes all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spade_bench.console import say, track
from spade_bench.errors import UserError
from spade_bench.escaping import csv_cell
from spade_bench.files import atomic_path, file_name, hash_obj
from spade_bench.report.drawing.look import LOOK
from spade_bench.report.drawing.savedbeside import Saver
from spade_bench.report.naming import (
    encoder_title,
    head_title,
    protocol_title,
    task_title,
)
from spade_bench.report.series import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DOUBLE_MM", "FORMATS", "GREY", "INK", "MAX_PANELS", "PALETTE", "SINGLE_MM", "Drawn",
           "Look", "Picture", "described", "draw_pictures", "figure_formats", "left_out_of",
           "new_figure", "panels", "picture_name", "print_figure",
           "wrapped"]  # fmt: skip

SINGLE_MM, DOUBLE_MM = 85.0, 180.0
"""Widths of one and of two columns of a journal, in millimetres."""

MAX_PANELS = 8
FORMATS = ("png", "pdf", "svg")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that the colour-blind tell apart (Okabe and Ito, 2008), without its yellow."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY = "0.25", "0.6"
"""Ink of the words inside a figure, and of lines that only guide the eye."""

_ACROSS = 4
_MM = 25.4  # per inch

Numbers = Sequence[Mapping[str, Any]]


class Drawn(NamedTuple):
    """A figure and the numbers in it.

    Attributes:
        figure: The figure.
        numbers: A row per number or mark drawn, for the csv beside it.
    """

    figure: Figure
    numbers: Numbers


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn.

    Attributes:
        kind: What it is, such as `learning curve`.
        words: What it shows, such as task, head and protocol; they make the name of its file.
        make: Makes the figure, with its numbers.
    """

    kind: str
    words: tuple[str, ...]
    make: Callable[[], Drawn]

    def drawn(self) -> Drawn:
        """Draw the figure in the house's look, which no other figure is given."""
        import matplotlib as mpl

        with mpl.rc_context(LOOK):
            return self.make()

    def draw(self) -> Figure:
        """Draw the figure."""
        return self.drawn().figure


@dataclass(frozen=True)
class Look:
    """What encoders are called and how they are marked, alike in all pictures of a report.

    Attributes:
        place: Number of each encoder, by label.
    """

    place: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, series: Iterable[Series]) -> Look:
        """Number the encoders of some results, and bases that stand as controls, by label."""
        labels = {one.encoder for one in series if one.control in {"", "base"}}
        return cls({label: i for i, label in enumerate(sorted(labels))})

    def name(self, encoder: str, control: str = "", control_of: str = "") -> str:
        """What an encoder or control is called in print."""
        return encoder_title(encoder, control, control_of)

    def colour(self, encoder: str) -> str:
        """Colour of an encoder; from the eighth on they come again, with other markers."""
        return PALETTE[self.place.get(encoder, 0) % len(PALETTE)]

    def marker(self, encoder: str) -> str:
        """Marker of an encoder: colours alone do not survive a photocopy."""
        place = self.place.get(encoder, 0)
        return _MARKERS[(place + place // len(PALETTE)) % len(_MARKERS)]


def figure_formats(text: str) -> tuple[str, ...]:
    """Read formats such as `pdf,svg,png`.

    Raises:
        UserError: When one is unknown.
    """
    formats = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    unknown = [one for one in formats if one not in FORMATS]
    if unknown:
        raise UserError(
            f"'{unknown[0]}' is no format of figures", where="--figures",
            fix=f"Use {', '.join(FORMATS)}, with commas between them",
        )  # fmt: skip
    return formats


def draw_pictures(
    pictures: Sequence[Picture], folder: Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Write each picture in each format with its numbers as csv, and say how many there are.

    Args:
        pictures: What to draw.
        folder: Folder of the pictures.
        formats: Some of `FORMATS`.

    Returns:
        The files of the first format, in the order of the pictures.
    """
    names = [picture_name(*picture.words) for picture in pictures]
    paths = []
    with Saver(len(pictures)) as saving:
        for picture, name in track(
            zip(pictures, names, strict=True), "Drawing", len(pictures), "pictures"
        ):
            path = folder / (name if names.count(name) == 1 else _marked(name, picture.words))
            drawn = picture.drawn()
            saving.save(drawn.figure, path, formats)
            with atomic_path(path.with_name(f"{path.name}.csv")) as temporary:
                temporary.write_text(_as_csv(drawn.numbers), encoding="utf-8")
            paths.append(path.with_name(f"{path.name}.{formats[0]}"))
    kinds = [picture.kind for picture in pictures]
    counts = {kind: kinds.count(kind) for kind in kinds}
    parts = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items()]
    if parts:
        say(f"{', '.join(parts)} in {folder}, with numbers as csv")
    return paths


def _as_csv(numbers: Numbers) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = list(dict.fromkeys(name for row in numbers for name in row))
    writer.writerow(columns)
    for row in numbers:
        writer.writerow([csv_cell(_plain(row.get(name))) for name in columns])
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """Write numbers of numpy as those of Python, and NaN as nothing."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def picture_name(*words: str) -> str:
    """Return the file name of a picture, without spaces and without suffix.

    Words with spaces get a mark: `a b` and `a_b` are two names.
    """
    text = "-".join(words)
    name = file_name(text.replace(" ", "_"))
    return _marked(name, words) if " " in text else name


def _marked(name: str, words: Sequence[str]) -> str:
    """Put a hash of the words at the end of a name, unless it is there."""
    mark = hash_obj(words)[:8]
    return name if name.endswith(mark) else f"{name}-{mark}"


def print_figure(width_mm: float, height_mm: float) -> Figure:
    """Make a figure of a size on paper: `SINGLE_MM` or `DOUBLE_MM` wide. See `new_figure`."""
    return new_figure(width_mm / _MM, height_mm / _MM)


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that can be saved without a screen and that a notebook shows; in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from spade_bench.report.drawing.printfigure import PrintFigure

    figure = PrintFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, height_mm: float, across: int = _ACROSS) -> tuple[Figure, list[Any]]:
    """Make a figure with axes for at most `MAX_PANELS` panels, in reading order.

    One panel is one column wide, several are two.

    Args:
        count: Number of panels wanted.
        height_mm: Height of a row.
        across: Most panels in a row.
    """
    count = min(count, MAX_PANELS)
    across = min(count, across)
    down = -(-count // across)
    figure = print_figure(SINGLE_MM if across == 1 else DOUBLE_MM, height_mm * down)
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def described(shown: Sequence[Series], drawn: int = MAX_PANELS) -> str:
    """Task, head, protocol, condition and shots of a picture, and marks that must be seen.

    Args:
        shown: What the picture is about.
        drawn: How many encoders it can show.
    """
    first = shown[0]
    shots = {one.k_shot for one in shown} - {None}
    words = [task_title(first.task), head_title(first.head), protocol_title(first.protocol)]
    words += first.condition
    words += [f"tested on {first.tested_on}"] if first.tested_on else []
    words += [f"k={'/'.join(map(str, sorted(k for k in shots if k is not None)))}"] if shots else []
    flags = {flag for one in shown for flag in one.flags}
    return ", ".join(words) + left_out_of(flags, len(shown) - drawn)


def left_out_of(flags: Iterable[str], hidden: int = 0) -> str:
    """Marks that must be seen beside a title, in brackets; empty where there are none."""
    known = [("simulated", "simulated data"), ("leaky-splits", "leaky splits")]
    there = set(flags)
    marks = [text for flag, text in known if flag in there]
    marks += [f"{hidden} more encoder(s) not drawn"] if hidden > 0 else []
    return f" ({'; '.join(marks)})" if marks else ""


def wrapped(text: str, width_mm: float, size: float = 7.0) -> str:
    """Break text into lines that fit a width at a font size in points."""
    import textwrap

    # DejaVu Sans takes about 0.54 of its size per letter of English text.
    letters = max(12, int(width_mm / _MM * 72 / (0.54 * size)))
    return "\n".join(textwrap.wrap(text, letters, break_long_words=False) or [""])
