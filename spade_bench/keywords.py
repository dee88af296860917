"""Say errors in the words of the caller: what is a flag on the command line is a keyword in Python.

Messages are written once, with flags. A function that `says_keywords` decorates rewrites them on
their way to somebody who called it from Python; under `command_line` they stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from spade_bench.errors import UserError

__all__ = ["SWITCHES", "check_keywords", "command_line", "in_keywords", "says_keywords"]

P = ParamSpec("P")
R = TypeVar("R")

SWITCHES = frozenset(
    {
        *("allow-leaky-splits", "allow-missing", "as-is", "blind", "controls", "csv"),
        *(
            "drop-blur",
            "drop-pen",
            "dry-run",
            "float32",
            "force",
            "geojson",
            "group-by-site",
            "hashes",
            "preserve-sites",
            "gzip",
        ),
        *("gzip", "json", "keep-redacted", "keep-zero-times", "latex", "long", "markdown"),
        *(
            "overwrite",
            "pictures",
            "plots",
            "preview",
            "public",
            "published",
            "scan-k",
            "script",
            "select",
            "trained-too",
        ),
        *("trust-remote-code", "viewer", "with-patients", "with-routing"),
    }
)
"""Flags that take no value."""

# What may stand behind a flag: a placeholder such as TASK=CSV, a number, or else a plain word.
_FLAG = re.compile(
    r"(?<![\w-])--(?P<name>[a-z][a-z0-9-]*)"
    r"(?: (?P<pair>[\w.-]+=[\w.-]*\w)| (?P<place>[A-Z][A-Z_]*\b)| (?P<number>\d[\d.]*\b)"
    r"| (?P<word>[a-z][\w.:-]*\w)(?=[?.,;)]|$| or ))?"
)
_PROSE = frozenset({"too", "out", "twice", "here", "there", "alone", "instead", "itself", "cases"})
_COMMAND = re.compile(r"(`[^`]*`)")
_inside_command: ContextVar[bool] = ContextVar("inside_command", default=False)


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Leave messages in the words of the command line while the block runs."""
    token = _inside_command.set(True)
    try:
        yield
    finally:
        _inside_command.reset(token)


def says_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose errors speak of its keywords, not of flags."""
    names = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            if not _inside_command.get():
                error.rephrase(lambda text: in_keywords(text, names))
            raise

    return call


def in_keywords(text: str, names: Collection[str] = ()) -> str:
    """Write the flags of a message as keywords; what stands in backticks is a command and stays.

    Args:
        text: A part of a message, such as `leave them out with --allow-missing`.
        names: Keywords of the function that was called. A flag that may be repeated has a plural
            there, which takes all of its values.
    """

    def keyword(match: re.Match[str]) -> str:
        flag = match["name"]
        if flag in SWITCHES:
            return f"{_name(flag, names)}=True{match[0].removeprefix(f'--{flag}')}"
        if flag.startswith("no-") and flag[3:] in SWITCHES:
            return f"{_name(flag[3:], names)}=False{match[0].removeprefix(f'--{flag}')}"
        name, word = _name(flag, names), match["word"]
        if match["pair"]:
            key, _, value = match["pair"].partition("=")
            return f"{name}={{'{key}': {value}}}"
        if word in _PROSE:
            return f"{name}= {word}"
        if word:
            return f"{name}='{word}'"
        return f"{name}={match['place'] or match['number'] or ''}"

    parts = _COMMAND.split(text)
    return "".join(part if part[:1] == "`" else _FLAG.sub(keyword, part) for part in parts)


def _name(flag: str, names: Collection[str]) -> str:
    name = flag.replace("-", "_")
    several = f"{name}s"
    return several if name not in names and several in names else name


def check_keywords(keywords: Iterable[str], *functions: Callable[..., Any]) -> None:
    """Refuse what is no keyword of any of these functions.

    Raises:
        UserError: Naming those that are.
    """
    known = {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    unknown = sorted(set(keywords) - known)
    if unknown:
        raise UserError(
            f"there is no keyword {unknown[0]}=",
            fix=f"Give a setting as settings={{'training.{unknown[0]}': ...}}, or use one of "
            f"{', '.join(sorted(known))}",
        )
