"""Fenced blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n"
    r"(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        name: Page and number, for test ids.
        language: Word behind the fence.
        text: What stands inside.
        reason: Why it is not run; empty where it is.
    """

    name: str
    language: str
    text: str
    reason: str = ""

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of every command of a bash block, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def blocks(pages: list[Path] | None = None) -> list[Block]:
    """Return the blocks of the pages, of the whole site where none are named."""
    found = []
    for page in SITE if pages is None else pages:
        text = page.read_text(encoding="utf-8")
        for at, one in enumerate(_BLOCK.finditer(text)):
            inside = re.sub(f"^{one['indent']}", "", one["text"], flags=re.MULTILINE)
            name = f"{page.relative_to(ROOT).as_posix()}-{at}"
            found.append(Block(name, one["language"], inside, one["reason"] or ""))
    return found
