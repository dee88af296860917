"""Text of strangers in files that other programs open: spreadsheets, Markdown and LaTeX."""

from __future__ import annotations

import re

from spade_bench.errors import printable

__all__ = ["csv_cell", "latex_cell", "markdown_cell"]

_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "²": r"\textsuperscript{2}",
    "≥": r"$\geq$",
}
_FORMULA = ("=", "+", "-", "@", "\t")


def csv_cell(value: object) -> str:
    """Return a cell that a spreadsheet shows and never runs.

    Text that begins like a formula gets an apostrophe before it; numbers stay numbers. For tables
    that people open, not for files that are read back by name.
    """
    text = "" if value is None else " ".join(printable(value).split("\n"))
    if text.startswith(_FORMULA) and not _is_number(text):
        return f"'{text}"
    return text


def markdown_cell(value: object) -> str:
    """Return a cell of a Markdown table: no cell or line ends early, no tag is taken for one."""
    text = "" if value is None else " ".join(printable(value).split())
    for char in "\\|`[]":
        text = text.replace(char, f"\\{char}")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)  # `<0.001` is no tag


def latex_cell(value: object) -> str:
    """Return text that LaTeX prints as it is: no command, comment, column or formula begins."""
    text = "" if value is None else " ".join(printable(value).split())
    return "".join(_LATEX.get(char, char) for char in text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
