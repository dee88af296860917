"""Errors that read as sentences: what happened, where, and how to fix it."""

from __future__ import annotations

import errno
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterable

__all__ = [
    "BROKEN_FILE",
    "ConfigError",
    "DataError",
    "PluginError",
    "SpadeBenchError",
    "SystemFaultError",
    "UserError",
    "WeightsError",
    "WorkspaceError",
    "machine_fault",
    "name_some",
    "printable",
]

BROKEN_FILE = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(RuntimeError, OverflowError, SyntaxError, zlib.error, struct.error),
)
"""What h5py, anndata, Pillow and OpenSlide raise for a damaged or foreign file.

To be caught only around the few lines that read one, and turned into a `DataError` there: further
out it would hide faults of this program.
"""

# What a machine answers, in words, and what to do about it.
_FAULTS = {
    errno.ENOSPC: ("the disk is full", "Free some space or choose another place"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space or choose another place"),
    errno.EROFS: ("the file system is read-only", "Choose a place that can be written"),
    errno.EACCES: ("permission denied", "Change the permissions or choose another place"),
    errno.EPERM: ("permission denied", "Change the permissions or choose another place"),
    errno.ENOTDIR: ("a file is where a folder is needed", "Move the file or choose another place"),
    errno.EEXIST: ("a file is where a folder is needed", "Move the file or choose another place"),
    errno.EISDIR: ("a folder is where a file is needed", "Give a file name"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "Use a shorter name or path"),
    errno.ELOOP: ("links point at each other", "Give the real file"),
    errno.ENOENT: ("no such file or folder", "Check the path"),
    errno.EMFILE: ("too many open files", "Raise the limit with `ulimit -n` or use fewer workers"),
    errno.ENFILE: ("too many open files", "Close other programs or use fewer workers"),
    errno.EIO: ("the disk cannot be read or written", "Check the disk and the cable to it"),
    errno.ESTALE: (
        "the network file system lost the file",
        "Mount it again and repeat the command",
    ),
    errno.EFBIG: ("the file is too large for the file system", "Choose another place"),
    errno.ENOMEM: ("out of memory", "Use fewer workers or smaller batches"),
    errno.EBUSY: ("the file is in use", "Wait for the other program, then repeat the command"),
    errno.ETXTBSY: ("the file is in use", "Wait for the other program, then repeat the command"),
}
# How HDF5, Rust, torch and other libraries quote the number that the system gave them.
_QUOTED = re.compile(r"\b(?:errno = |os error |errno: |Error code )(\d+)|\[Errno (\d+)\]")
# What torch, cuBLAS, cuDNN and Metal say of a card without room; torch has no class for all of it.
_CARD_FULL = re.compile(
    r"\b(?:CUDA|HIP|MPS backend|XPU) out of memory|CUDA error: out of memory|_ALLOC_FAILED"
)
_CARD_FIX = (
    "See with `nvidia-smi` what else is on it; a smaller --batch-size, or --memory of `run`, asks "
    "for less, and --device takes another"
)
# A first word that is no name, path, number or piece of code.
_PLAIN_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?(?=[\s,;:.]|$)(?!\.\S)")
_QUOTED_PATH = re.compile(r"(?:name|filename) = '([^']+)'")


class SpadeBenchError(Exception):
    """Base class of every error this package raises on purpose."""


class UserError(SpadeBenchError):
    """Something the user can fix. The command line prints one line and exits with code 2.

    The message is `what` as a sentence, or `where: what`, followed by `fix`. A sentence begins with
    a capital letter, whatever case the clause was given in; a name or a path keeps its spelling.

    Args:
        what: What is wrong, as a short clause.
        where: The file, key, slide or option that the clause speaks of.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what = _one_line(what)
        self.where = _one_line(where)
        self.fix = _one_line(fix)
        super().__init__(self._message())

    def rephrase(self, change: Callable[[str], str]) -> None:
        """Say it in other words: ``change`` takes and returns each part of the message."""
        self.what, self.where, self.fix = map(change, (self.what, self.where, self.fix))
        self.args = (self._message(),)

    def _message(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else _capitalised(self.what)]
        if self.fix:
            parts.append(_capitalised(self.fix))
        return " ".join(_stopped(part) for part in parts)

    def at(self, where: str) -> str:
        """The message with a place; the error's own place wins where it has one."""
        return str(self) if self.where else str(UserError(self.what, where=where, fix=self.fix))

    @property
    def clause(self) -> str:
        """What is wrong and what to do about it, where a list names the place."""
        fix = self.fix.rstrip(". ")
        fix = fix[:1].lower() + fix[1:] if fix[1:2].islower() else fix
        return f"{self.what}; {fix}" if fix else self.what


class ConfigError(UserError):
    """A configuration file, key or value is wrong."""


class DataError(UserError):
    """Input data are missing, unreadable or contradict themselves."""


class WeightsError(UserError):
    """Model weights are missing, gated or do not fit the architecture."""


class SystemFaultError(UserError):
    """The machine refused: a full disk, missing permissions, no memory."""


class PluginError(UserError):
    """A plugin is unknown, broken or collides with another one."""


class WorkspaceError(UserError):
    """The workspace file is missing or incomplete."""


def machine_fault(error: BaseException) -> SystemFaultError | None:
    """Say in words what the user's machine refused, or None when the error is something else.

    Looks through the causes of an error, because libraries wrap what the system told them.
    """
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            break
        fault = _fault(seen)
        if fault is not None:
            return fault
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def printable(text: object) -> str:
    r"""Return text that cannot steer a terminal: control characters are shown, not sent.

    Line breaks and tabs stay. Escapes, other control characters and marks that reverse the
    reading direction become ``\xNN`` or ``\uNNNN``, and so do lone surrogates, which
    cannot be encoded.
    """
    text = str(text)
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        char if char in "\n\t" or not _steers(char) else ascii(char)[1:-1] for char in text
    )


def _fault(error: BaseException) -> SystemFaultError | None:
    if isinstance(error, MemoryError):
        return SystemFaultError("out of memory", fix="Use fewer workers or smaller batches")
    if isinstance(error, RuntimeError) and _CARD_FULL.search(str(error)):
        return SystemFaultError("the GPU is out of memory", fix=_CARD_FIX)
    if isinstance(error, UnicodeEncodeError):
        return SystemFaultError(
            f"{error.object!r} cannot be written in this locale's encoding, {error.encoding}",
            fix="Set LC_ALL=C.UTF-8 or PYTHONUTF8=1",
        )
    number, where = None, ""
    if isinstance(error, OSError):
        number = error.errno
        names = [os.fsdecode(n) for n in (error.filename, error.filename2)
                 if isinstance(n, (str, bytes, os.PathLike))]  # fmt: skip
        where = names[0] if names else ""
    if (number is None and isinstance(error, (OSError, RuntimeError, ValueError))) or (
        type(error).__name__ == "SafetensorError"
    ):
        quoted = _QUOTED.search(str(error))
        number = int(quoted[1] or quoted[2]) if quoted else number
        path = _QUOTED_PATH.search(str(error))
        where = where or (path[1] if path else "")
    if number not in _FAULTS:
        return None
    what, fix = _FAULTS[number]
    return SystemFaultError(what, where=where, fix=fix)


def _steers(char: str) -> bool:
    if char.isascii():
        return not char.isprintable()
    kind = unicodedata.category(char)
    return (
        kind in ("Cc", "Cs")
        or char in "\u2028\u2029"
        or (
            kind == "Cf"
            and char in "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        )
    )


def _capitalised(text: str) -> str:
    """Begin a sentence with a capital letter, unless its first word is a name or a path."""
    return text[0].upper() + text[1:] if _PLAIN_WORD.match(text) else text


def _stopped(text: str) -> str:
    """End a sentence in exactly one stop, or in the mark of its own that it has."""
    bare = text.rstrip(". ")
    return bare if bare.endswith(("?", "!", ":")) else f"{bare}."


def _one_line(text: object) -> str:
    return printable(" ".join(str(text).split()))


def name_some(values: Iterable[object], limit: int = 5) -> str:
    """Name the first few values and count the rest."""
    names = [str(value) for value in values]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
