"""Takes the names of patients, cases and samples out of what describes a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

from spade_bench.cohorts.hiddennames import WITHHELD, is_hidden, new_salt, withheld

__all__ = ["Names", "Withholding"]

Names = Literal["hashed", "none", "named"]
_SHORTEST = 4  # shorter names, such as P1, would be seen everywhere
_IN_TEXT = "[withheld]"


class Withholding:
    """How names leave the house.

    Args:
        names: All names of patients, cases, samples and slides that must not be read.
        how: `hashed` puts a salted hash in the place of each, `none` leaves them out, `named`
            passes them on.
    """

    def __init__(self, names: Iterable[str], how: Names = "hashed") -> None:
        self.how = how
        self._names = frozenset(name for name in names if name and not is_hidden(name))
        self._salt = new_salt()

    def entry(self, name: str) -> str:
        """Return what stands in the place of a name."""
        if self.how == "named" or is_hidden(name):
            return name
        return WITHHELD if self.how == "none" else withheld(name, self._salt)

    def listed(self, names: Iterable[str]) -> list[str]:
        """Return what stands in the place of a list of names."""
        return list(dict.fromkeys(map(self.entry, names)))

    def anywhere(self, content: Any) -> Any:
        """Return JSON content without the names: as keys, as values, and within sentences.

        A mapping by name is empty where not even hashes are passed on.
        """
        if self.how == "named":
            return content
        if isinstance(content, str):
            return self.entry(content) if content in self._names else self.text(content)
        if isinstance(content, Mapping):
            kept = {self._key(key): self.anywhere(value) for key, value in content.items()}
            return {key: value for key, value in kept.items() if key != WITHHELD}
        if isinstance(content, (list, tuple)):
            return [self.anywhere(value) for value in content]
        return content

    def text(self, text: str) -> str:
        """Return a sentence without the names."""
        if self.how == "named" or self._pattern is None:
            return text
        return self._pattern.sub(_IN_TEXT, text)

    def first_in(self, text: str) -> str:
        """Return the first name that can be read in a text; empty where none can."""
        if self.how == "named" or self._pattern is None:
            return ""
        found = (hit.group() for hit in self._pattern.finditer(text))
        return next((name for name in found if len(name) >= _SHORTEST), "")

    def _key(self, key: str) -> str:
        return self.entry(key) if key in self._names else self.text(key)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        if not self._names:
            return None
        longest_first = sorted(self._names, key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(?<![\w-])(?:{either})(?![\w-])", re.IGNORECASE)
