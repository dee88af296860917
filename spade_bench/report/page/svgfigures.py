"""Figures as SVG inside a page: text stays text, ids are unique, black is the page's ink."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spade_bench.console import track
from spade_bench.report.pictures import Picture

__all__ = ["MOST_FIGURES", "SvgFigure", "draw_figures", "inline_svg"]

MOST_FIGURES = 40
"""Figures of a page; more would make it too large to send."""
_MOST_BYTES = 1_500_000

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text that can be selected, searched and read aloud
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.framealpha": 0.0,
    "legend.edgecolor": "none",
}
# Dark greys are the ink of the page, light or dark; lighter ones are mixed with its ground.
_GREY = re.compile(r"(fill|stroke): ?#([0-9a-f]{2})\2\2\b")
_ID = re.compile(r'(\bid="|\burl\(#|\bhref="#)')
_NUMBER = re.compile(r"(\d+\.\d{2})\d+")
_FONT = re.compile(r"(font: [^;\"]*?px) [^;\"]*|font-family: [^;\"]*;? ?")


@dataclass(frozen=True)
class SvgFigure:
    """A figure of the page.

    Attributes:
        kind: What it is, such as `learning curve`.
        title: What it shows.
        svg: The `<svg>` element; safe markup, because matplotlib escapes what it writes.
        width: Width at which its text has its own size, in CSS pixels.
    """

    kind: str
    title: str
    svg: str
    width: int


def draw_figures(pictures: Sequence[Picture]) -> tuple[list[SvgFigure], list[Picture]]:
    """Draw pictures until the page has as many as it can carry.

    Args:
        pictures: What to draw, the most important first.

    Returns:
        The figures, and the pictures that were left out.
    """
    figures: list[SvgFigure] = []
    size = 0
    for picture in track(pictures[:MOST_FIGURES], "Drawing", unit="figures"):
        figure = inline_svg(picture, f"f{len(figures)}-")
        size += len(figure.svg)
        if size > _MOST_BYTES:
            break
        figures.append(figure)
    return figures, list(pictures[len(figures) :])


def inline_svg(picture: Picture, prefix: str) -> SvgFigure:
    """Draw a picture as an `<svg>` element whose ids begin with ``prefix``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    title = ", ".join(picture.words)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        figure = picture.draw()
        # Widths in CSS pixels: matplotlib writes points, of which an inch has 72.
        width = round(float(figure.get_size_inches()[0]) * 96)
        buffer = io.BytesIO()
        # Not as for print, where letters are outlines.
        Figure.savefig(figure, buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    head, _, body = text.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    head += f' role="img" aria-labelledby="{prefix}title"'
    # What matplotlib wrote as text stays as it is: only markup and styles are changed.
    parts = re.split(r"(<[^>]*>)", body)
    parts[1::2] = [_tag(tag, prefix) for tag in parts[1::2]]
    name = f'<title id="{prefix}title">{_escaped(f"{picture.kind}: {title}")}</title>'
    svg = re.sub(r"\n\s*", "\n", f"{head}>{name}{''.join(parts)}")
    return SvgFigure(picture.kind, title, svg, width)


def _tag(tag: str, prefix: str) -> str:
    tag = _ID.sub(lambda found: found.group(1) + prefix, tag)
    tag = _GREY.sub(_of_page, tag)
    tag = _FONT.sub(lambda found: f"{found.group(1)} sans-serif" if found.group(1) else "", tag)
    return _NUMBER.sub(r"\1", tag)


def _of_page(found: re.Match[str]) -> str:
    level = int(found.group(2), 16)
    if level < 0x70:
        return f"{found.group(1)}: currentColor"
    ink = round(100 * (255 - level) / 255)
    return f"{found.group(1)}: color-mix(in srgb, currentColor {ink}%, var(--ground))"


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))
