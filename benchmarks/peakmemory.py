"""Peak memory of a piece of work, and the exponent with which a value grows; for the benchmarks.

Memory is read in Linux's /proc every few milliseconds: `anonymous` is what no file stands behind,
which the system cannot take back; `resident` counts mapped pages of files as well. Where work is
spread over processes, those that this one started are added at each moment, once they have lived
from one look to the next: before a new process is a program, it shares all pages of this one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Memory", "PeakMemory", "exponent"]

_PROC = Path("/proc")
_FIELDS = {"RssAnon": "anonymous", "VmRSS": "resident"}


@dataclass(frozen=True)
class Memory:
    """Bytes of memory.

    Attributes:
        anonymous: What no file stands behind.
        resident: All pages that are in memory.
    """

    anonymous: int = 0
    resident: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.anonymous + other.anonymous, self.resident + other.resident)

    def peak(self, other: Memory) -> Memory:
        """The larger of both, kind by kind."""
        anonymous = max(self.anonymous, other.anonymous)
        return Memory(anonymous, max(self.resident, other.resident))


class PeakMemory:
    """The most memory while something runs, as a context.

    Args:
        children: Add the processes that this one has started, and theirs.
        every: Seconds between two looks.

    Attributes:
        before: Memory when it began.
        most: The most memory since; the moments of the two kinds may differ.

    Raises:
        SystemExit: Where there is no /proc.
    """

    def __init__(self, *, children: bool = False, every: float = 0.01) -> None:
        if not (_PROC / "self" / "status").is_file():
            raise SystemExit("Peak memory is read in /proc, which only Linux has")
        self._children, self._every = children, every
        self.before = self.most = Memory()
        self._known = {os.getpid()}

    def __enter__(self) -> PeakMemory:
        self.before = self.most = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.most = self.most.peak(self._now())

    def _look(self) -> None:
        while not self._done.wait(self._every):
            self.most = self.most.peak(self._now())

    def _now(self) -> Memory:
        there = set(_family(os.getpid())) if self._children else {os.getpid()}
        known, self._known = self._known & there, there
        return sum(map(_memory, known), Memory())


def _family(process: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield process
    for path in (_PROC / str(process) / "task").glob("*/children"):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:  # that thread has ended
            continue
        for child in text.split():
            yield from _family(int(child))


def _memory(process: int) -> Memory:
    """Memory of one process; nothing of one that has ended."""
    try:
        text = (_PROC / str(process) / "status").read_text(encoding="utf-8")
    except OSError:
        return Memory()
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in _FIELDS:
            found[_FIELDS[name]] = 1024 * int(value.split()[0])
    return Memory(**found)


def exponent(
    sizes: Sequence[float], values: Sequence[float], trust: Sequence[float] | None = None
) -> float | None:
    """Slope by least squares of the logarithms: 1 where a value grows as fast as the size.

    Args:
        sizes: The sizes.
        values: What was measured at each.
        trust: One over the relative error of each; None where all are as exact.

    Returns:
        None for fewer than two sizes, of which nothing can be said.
    """
    if len(sizes) < 2:
        return None
    logs = np.log(np.maximum(values, 1e-9))
    weights = None if trust is None else np.asarray(trust, dtype=float)
    return round(float(np.polyfit(np.log(sizes), logs, 1, w=weights)[0]), 2)
