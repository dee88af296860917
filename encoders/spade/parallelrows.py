"""Work on rows side by side: one lane of rows per core, each lane computing alone.

The steps of routing are many and small. With all cores inside each step they wait for one another
at every step's end; a lane that keeps to its own core and its own rows waits once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from spade_bench.encoders.common.timmodel import one_core_each

__all__ = ["in_parallel_rows"]

T = TypeVar("T")

_ROWS = 512  # fewer rows per lane are not worth the threads


def in_parallel_rows(work: Callable[[Tensor, Tensor], T], rows: Tensor, out: Tensor) -> list[T]:
    """Run ``work`` on as many lanes of rows as torch has threads.

    Args:
        work: Reads rows (m, D) and fills their places (m, width); a row's result must not depend on
            the other rows.
        rows: (n, D).
        out: Where the results go, (n, width).

    Returns:
        What ``work`` returned for each lane.
    """
    lanes = min(torch.get_num_threads(), len(rows) // _ROWS)
    if rows.device.type != "cpu" or lanes < 2:
        return [work(rows, out)]

    def lane(part: Tensor, place: Tensor) -> T:
        with torch.no_grad():  # a switch of the thread, not of the process
            return work(part, place)

    return list(_pool(lanes).map(lane, rows.tensor_split(lanes), out.tensor_split(lanes)))


@cache
def _pool(lanes: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(lanes, "spade", one_core_each)
