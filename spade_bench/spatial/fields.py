"""Cells of metadata tables as typed values; blanks of every spelling become None."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["as_float", "as_int", "as_text"]

_BLANK = {"", "na", "nan", "none", "null", "n/a", "unknown", "-"}


def as_text(value: Any) -> str | None:
    """The stripped text, or None for a blank (`""`, `NA`, `nan`, `None`, `unknown`, ...)."""
    text = "" if value is None else str(value).strip()
    return None if text.lower() in _BLANK else text


def as_float(value: Any) -> float | None:
    """A finite number, or None for a blank or for anything that is not a number."""
    text = as_text(value)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def as_int(value: Any) -> int | None:
    """The number rounded to an integer, or None as in `as_float`."""
    number = as_float(value)
    return None if number is None else round(number)
