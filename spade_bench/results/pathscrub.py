"""Absolute paths taken out of what is passed on: a path becomes its last part."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ["absolute_paths", "scrubbed"]

_PART = r"[^\s'\"<>:;,()\[\]{}|\\/]+"
# A path in a sentence: from the root, a drive, a share or a home, of two parts or more.
_IN_TEXT = re.compile(
    rf"(?<![\w./:<&\\-])(?:[A-Za-z]:[\\/]|\\\\|~[\w.-]*/|/)(?:{_PART}[\\/])+(?:{_PART})?"
)
_QUOTED = re.compile(r"(['\"])((?:/|~|[A-Za-z]:[\\/]|\\\\)[^'\"\n]*)\1")  # spaces included
_PREFIXED = re.compile(r"\b(hest|patho-bench|hf|file):(/[^\s'\"]+)")
_WHOLE = re.compile(r"(?:[A-Za-z]:[\\/]|\\\\|~[\w.-]*/|/)[^\n]*")


def scrubbed(content: Any) -> Any:
    """Return JSON content in which absolute paths are cut to their last part.

    Args:
        content: Texts, numbers, lists and mappings; texts that are a path as a whole, spaces
            included, and paths within sentences are found. Keys stay.
    """
    if isinstance(content, str):
        if _WHOLE.fullmatch(content):
            return _last(content)
        content = _QUOTED.sub(lambda m: f"{m[1]}{_last(m[2])}{m[1]}", content)
        content = _PREFIXED.sub(lambda m: f"{m[1]}:{_last(m[2])}", content)
        return _IN_TEXT.sub(lambda found: _last(found.group()), content)
    if isinstance(content, dict):
        return {key: scrubbed(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [scrubbed(value) for value in content]
    return content


def absolute_paths(text: str) -> list[str]:
    """Return what looks like an absolute path in a text."""
    return [found.group() for found in _IN_TEXT.finditer(text)]


def _last(path: str) -> str:
    """The last part of a path, whatever system wrote it; a full stop after it stays."""
    pure = PureWindowsPath(path) if "\\" in path or path[1:2] == ":" else PurePosixPath(path)
    return pure.name or "path"
