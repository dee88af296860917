"""What bags may take of the memory: one budget for all encoders, heads and tasks of a run.

A bag that was read stays while there is room, so that the next head or task finds it. What the
present step uses is never given up for something else that it uses: a cohort larger than the
budget is read in part in every epoch, and no part of it is read for nothing. What earlier steps
have left goes when room is needed, the oldest first.

Bags of packs are views of a map and take no memory of ours, but the system counts their pages as
ours as long as they are mapped. They are let go in the order of their use as soon as they would
exceed the budget; pages that are still in use come back by themselves.

Of `--memory` one half is for bags and the other half for training.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.config import parse_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BAG_BYTES", "BagMemory", "bag_bytes"]

BAG_BYTES = 4 << 30
"""What bags may take where nobody says."""
_BLOCK = 4 << 20  # bytes of small things that are allocated together
_ALIGN = 64


@dataclass
class _Kept:
    value: NDArray[Any]
    nbytes: int
    turn: int


class BagMemory:
    """Keeps bags, and small things computed from them, within a number of bytes.

    Several threads may use it.

    Args:
        size: Bytes that all of it may take.

    Attributes:
        size: The same.
    """

    def __init__(self, size: int = BAG_BYTES) -> None:
        self.size = size
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()  # last used last
        self._used = self._turn = 0
        self._block, self._filled = mmap.mmap(-1, 1), 1  # of small things; a first one is made
        self._mapped: OrderedDict[Hashable, tuple[int, Callable[[], None]]] = OrderedDict()
        self._mapped_bytes = 0
        self._gone: deque[Hashable] = deque()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self._used

    @property
    def mapped(self) -> int:
        """Bytes of maps that have been used and not let go."""
        return self._mapped_bytes

    def turn(self) -> None:
        """Begin a step: what it does not use may go."""
        with self._lock:
            self._turn += 1

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """Return what is kept under a key, which the present step uses; None without it."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            kept.turn = self._turn
            self._kept.move_to_end(key)
            return kept.value

    def keep(self, key: Hashable, bag: NDArray[Any]) -> bool:
        """Keep a bag, where there is room or what earlier steps left can go.

        Args:
            key: What it is.
            bag: It.

        Returns:
            Whether it is kept.
        """
        with self._lock:
            self._sweep()
            if key not in self._kept and self._make_room(bag.nbytes):
                self._put(key, bag)
            return key in self._kept

    def keep_small(self, key: Hashable, values: NDArray[Any]) -> NDArray[Any]:
        """Keep a few numbers, beyond the budget too: for them a bag need not be read again.

        Args:
            key: What they are.
            values: They.

        Returns:
            A copy of them, which is kept.
        """
        with self._lock:
            self._sweep()
            if key not in self._kept:
                self._make_room(values.nbytes)
                self._put(key, self._aside(values))
            kept: NDArray[Any] = self._kept[key].value
            return kept

    def _put(self, key: Hashable, value: NDArray[Any]) -> None:
        self._kept[key] = _Kept(value, value.nbytes, self._turn)
        self._used += value.nbytes

    def _aside(self, values: NDArray[Any]) -> NDArray[Any]:
        """Copy numbers to where they are in nobody's way.

        Allocated behind a bag, a few numbers that stay keep the C library from using the place of
        the bag for the next one: over many bags, memory would grow with the cohort.
        """
        import numpy as np

        if values.nbytes > _BLOCK // 4:
            return values.copy()
        start = -(-self._filled // _ALIGN) * _ALIGN
        if start + values.nbytes > len(self._block):
            self._block, start = mmap.mmap(-1, _BLOCK), 0
        self._filled = start + values.nbytes
        aside = np.frombuffer(self._block, values.dtype, values.size, start).reshape(values.shape)
        aside[...] = values
        return aside

    def map(self, key: Hashable, nbytes: int, release: Callable[[], None]) -> None:
        """Count a map that is being used, and let others go where they exceed what is left.

        Args:
            key: What is mapped.
            nbytes: Its bytes.
            release: Lets its pages go.
        """
        with self._lock:
            if key in self._mapped:
                self._mapped.move_to_end(key)
                return
            self._mapped[key] = nbytes, release
            self._mapped_bytes += nbytes
            gone = []
            while self._mapped_bytes > self.size - self._used and len(self._mapped) > 1:
                _, (size, let_go) = self._mapped.popitem(last=False)
                self._mapped_bytes -= size
                gone.append(let_go)
        for let_go in gone:
            let_go()

    def forget(self, owner: Hashable) -> None:
        """Let go what is kept under keys that begin with ``owner``, at the next chance.

        Objects may be collected at any moment, also while this one is at work, so it only notes it.
        """
        self._gone.append(owner)

    def _sweep(self) -> None:
        while self._gone:
            owner = self._gone.popleft()
            for key in [k for k in self._kept if isinstance(k, tuple) and k[0] is owner]:
                self._used -= self._kept.pop(key).nbytes

    def _make_room(self, nbytes: int) -> bool:
        """Drop what earlier steps left until something fits; say whether it does."""
        while self._used + nbytes > self.size and self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest].turn == self._turn:
                return False
            self._used -= self._kept.pop(oldest).nbytes
        return self._used + nbytes <= self.size


def bag_bytes(memory: str | None) -> int:
    """Bytes that bags may take in memory, those of all encoders and tasks together.

    The other half is for training; see `spade_bench.heads.HeadOptions`.

    Args:
        memory: The whole budget, such as `4GB`; None for the default.

    Raises:
        ConfigError: When it is no amount of memory.
    """
    return BAG_BYTES if memory is None else parse_memory(memory) // 2
