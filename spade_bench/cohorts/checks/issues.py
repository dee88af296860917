"""What the checks found: one sentence each, with how bad it is and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Issue", "Severity", "error", "note", "sort_issues", "warning"]

Severity = Literal["error", "warning", "note"]
_ORDER = {"error": 0, "warning": 1, "note": 2}
_EXAMPLES = 10


@dataclass(frozen=True)
class Issue:
    """One finding.

    Attributes:
        severity: `error` must be fixed before a run, `warning` should be looked at, `note` is
            worth knowing.
        check: Machine name, such as `duplicates` or `event-polarity`.
        count: How many cases, slides, rows or files it concerns.
        text: The finding as a sentence.
        examples: The first few of them by name.
        fix: What to do; empty for notes.
    """

    severity: Severity
    check: str
    count: int
    text: str
    examples: tuple[str, ...] = ()
    fix: str = ""

    @property
    def sentence(self) -> str:
        """The finding with the first things it concerns; notes concern everything."""
        if self.severity == "note" or not self.examples:
            return self.text
        named = ", ".join(self.examples[:5])
        if _names(self.text, named):
            return self.text
        more = " ..." if self.count > 5 else ""
        return f"{self.text}: {named}{more}"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"examples": list(self.examples)}


def error(
    check: str,
    text: str,
    items: Iterable[object] = (),
    *,
    count: int | None = None,
    fix: str = "",
) -> Issue:
    """Something that must be fixed. ``items`` are the things it concerns, counted and named."""
    return Issue("error", check, *_counted(items, count, text), fix)


def warning(
    check: str,
    text: str,
    items: Iterable[object] = (),
    *,
    count: int | None = None,
    fix: str = "",
) -> Issue:
    """Something to look at."""
    return Issue("warning", check, *_counted(items, count, text), fix)


def note(check: str, text: str, items: Iterable[object] = (), *, count: int | None = None) -> Issue:
    """Something worth knowing."""
    return Issue("note", check, *_counted(items, count, text))


def sort_issues(issues: Sequence[Issue]) -> list[Issue]:
    """Worst first; within one severity in the order found."""
    return sorted(issues, key=lambda issue: _ORDER[issue.severity])


def _names(text: str, named: str) -> bool:
    """Whether a sentence names things already, and not a count or a part of a word by chance."""
    whole = re.search(rf"(?<![\w.-]){re.escape(named)}(?![\w-])", text)
    return whole is not None and not named.isdigit()


def _counted(
    items: Iterable[object], count: int | None, text: str
) -> tuple[int, str, tuple[str, ...]]:
    names = [str(one) for one in items]
    return len(names) if count is None else count, text, tuple(names[:_EXAMPLES])
