"""Keep freed memory for the next step instead of giving it back to the system."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

__all__ = ["kept_pages"]

# Parameters of glibc's mallopt and the values it starts with.
_TRIM, _MMAP = -1, -3
_DEFAULT = 128 * 1024
_KEEP = (1 << 31) - 1


@contextlib.contextmanager
def kept_pages() -> Iterator[None]:
    """Run a block in which blocks of many megabytes are reused as they are.

    A training step frees and allocates gradients of several megabytes; by default each of them is
    mapped, cleared and faulted in page by page again at every step. Without glibc nothing changes.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_MMAP, _KEEP)
    mallopt(_TRIM, _KEEP)
    try:
        yield
    finally:
        mallopt(_MMAP, _DEFAULT)
        mallopt(_TRIM, _DEFAULT)


def _mallopt() -> Callable[[int, int], int] | None:
    try:
        function = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes, function.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    call: Callable[[int, int], int] = function
    return call
