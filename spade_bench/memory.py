"""How the C library and Python treat freed memory: the one place where that is set."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from functools import cache

__all__ = ["keep_freed_memory", "without_cycle_search"]

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


@cache
def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of megabytes instead of returning each one to the system.

    Activations of tens of megabytes, more than glibc keeps by itself, are freed and allocated anew
    at every layer. By default each is mapped, cleared and faulted in page by page every time:
    benchmarks/memory.py counts 640,000 page faults for 400 patches of EfficientNet-Lite0 on CPU
    without this and 136,000 with it, which is 1.1 times as fast. No result depends on it. Does
    nothing under other C libraries and systems.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # a C library that is not glibc
        return
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mallopt(_MMAP_THRESHOLD, 256 << 20)  # larger blocks are still mapped
    mallopt(_TRIM_THRESHOLD, 512 << 20)  # this much stays at the top of the heap
    mallopt(_ARENA_MAX, 1)  # heaps of single threads are too small for such blocks


@contextlib.contextmanager
def without_cycle_search() -> Iterator[None]:
    """Let Python not look for cycles of garbage while very many objects are made that stay.

    It walks over all that was made so far again and again, a tenth of the time of a report on
    16,000 rows. What has no cycles is freed at once as always.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()
