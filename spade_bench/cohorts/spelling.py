"""One rule for what a cell says, however a spreadsheet or a script has spelt it.

Two spellings are the same value when they differ in case, in a trailing ``.0``, as ``TRUE`` and
``1``, or in what nobody can see: the code points of one letter, the kind or number of spaces,
marks without a width. What stands for nothing is blank everywhere: ``NA``, ``None``, ``null`` and
the like.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["MISSING_WORDS", "fold", "is_missing", "one_spelling", "pair", "read_flag",
           "read_number", "to_classes"]  # fmt: skip

MISSING_WORDS = "blank, NA, N/A, NaN, None or null"
_MISSING = {"", "na", "n/a", "nan", "none", "null", "<na>", "#n/a", "nat"}
_WORDS = {"true": "1", "false": "0"}
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def is_missing(value: object, keep: Collection[str] = ()) -> bool:
    """Whether a cell says nothing.

    Args:
        value: The cell.
        keep: Values that mean something here, such as a declared class called ``none``.
    """
    if value is None:
        return True
    text = _seen(value)
    return text.lower() in _MISSING and text not in keep


def fold(value: object) -> str:
    """Return the one spelling by which values are compared."""
    text = _seen(value).casefold()
    whole = _WHOLE.fullmatch(text)
    return _WORDS.get(text, whole.group(1) if whole else text)


def read_flag(value: object) -> bool | None:
    """Read 1, 1.0, TRUE, true or ``1:DECEASED`` as True, likewise 0, None for anything else."""
    return {"1": True, "0": False}.get(fold(str(value).split(":")[0]))


def read_number(value: object) -> float | None:
    """Read a finite number; None for anything else, such as one with a unit or a decimal comma."""
    try:
        number = float(_seen(value).replace("_", "?"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def one_spelling(values: Iterable[str]) -> dict[str, str]:
    """Map spellings that mean the same to the most frequent of them.

    Returns:
        Spelling -> the one to use; only those that change.
    """
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for value in values:
        groups[fold(value)][value] += 1
    changes: dict[str, str] = {}
    for counts in groups.values():
        best = min(counts, key=lambda spelling: (-counts[spelling], spelling))
        changes.update({spelling: best for spelling in counts if spelling != best})
    return changes


def to_classes(values: Iterable[str], classes: Sequence[str]) -> dict[str, str]:
    """Map spellings of declared classes to the classes.

    Returns:
        Spelling -> class; only those that change. A value that fits no class, or several, stays.
    """
    by_fold: Mapping[str, list[str]] = defaultdict(list)
    for name in classes:
        by_fold[fold(name)].append(name)
    changes = {}
    for value in set(values) - set(classes):
        fits = by_fold.get(fold(value), [])
        if len(fits) == 1:
            changes[value] = fits[0]
    return dict(sorted(changes.items()))


def pair(one: str, other: str) -> str:
    """Say that one spelling is taken as another; code points are shown where they look alike."""
    alike = _seen(one) == _seen(other)
    return f"{one!a} as {other!a}" if alike else f"'{one}' as '{other}'"


def _seen(value: object) -> str:
    """Text as it looks: composed letters, plain single spaces, no marks without a width."""
    text = str(value)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    return " ".join(text.split())
