"""The order of classes that nobody declared, one rule for every reader of labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from spade_bench.errors import UserError

__all__ = ["order_classes", "with_positive"]

_PAIRS = (
    ("negative", "positive"),
    ("neg", "pos"),
    ("-", "+"),
    ("wildtype", "mutant"),
    ("wild-type", "mutated"),
    ("wt", "mut"),
    ("wild type", "mutation"),
    ("mss", "msi"),
    ("msi-l", "msi-h"),
    ("pmmr", "dmmr"),
    ("low", "high"),
    ("no", "yes"),
    ("n", "y"),
    ("false", "true"),
    ("f", "t"),
    ("absent", "present"),
    ("normal", "tumor"),
    ("normal", "tumour"),
    ("benign", "malignant"),
    ("control", "case"),
    ("alive", "dead"),
    ("living", "deceased"),
    ("non-responder", "responder"),
    ("0", "1"),
)
_NEGATIVE = frozenset(pair[0] for pair in _PAIRS)
_POSITIVE = frozenset(pair[1] for pair in _PAIRS)


def order_classes(labels: Iterable[object]) -> tuple[str, ...]:
    """Order class labels: numbers by value, text in natural order, the positive of two last.

    Args:
        labels: Labels, in any order and as often as they occur.

    Returns:
        Each label once. Of two labels of text, a positive word (`mut`, `MSI`, `high`, `+`) goes
        last and a negative word (`wt`, `MSS`, `low`, `-`) first.
    """
    distinct = {str(label) for label in labels}
    numbers = {label: _number(label) for label in distinct}
    if all(math.isfinite(value) for value in numbers.values()):
        return tuple(sorted(distinct, key=lambda label: (numbers[label], label)))
    ordered = sorted(distinct, key=_natural)
    if len(ordered) == 2:
        ordered.sort(key=_side)
    return tuple(ordered)


def with_positive(classes: tuple[str, ...], positive: str, where: str) -> tuple[str, ...]:
    """Put the class that a person calls positive last.

    Raises:
        UserError: When there are not two classes, or the label is none of them.
    """
    if len(classes) != 2:
        raise UserError(
            f"--positive needs two classes, not {len(classes)}",
            where=where,
            fix="Leave --positive out",
        )
    if positive not in classes:
        raise UserError(
            f"no class is called '{positive}'",
            where=where,
            fix=f"Give --positive {classes[0]} or --positive {classes[1]}",
        )
    return (*(name for name in classes if name != positive), positive)


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return math.nan


def _natural(label: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    key = [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p.casefold()) for p in parts]
    return key, label


def _side(label: str) -> int:
    word = label.strip().casefold()
    return (word in _POSITIVE) - (word in _NEGATIVE)
