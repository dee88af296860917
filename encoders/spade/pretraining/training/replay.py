"""The same work on a device again and again: on CUDA as a graph, launched as a whole.

A training step of stacked experts is about a hundred kernels of a few microseconds each. One by one
the host launches them more slowly than the device runs them; as a graph they are one launch. What
changes from step to step must therefore lie in tensors that stay where they are.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

__all__ = ["Replay", "lanes_of", "stream_of_its_own"]

_WARM = 2  # times that work runs step by step first: libraries allocate what a capture may not
_LANES = 8
_CAPTURING = threading.Lock()  # a capture must not meet another one's waiting for the device


class Replay:
    """Runs pieces of work, each known by a key; on CUDA captured once and replayed from then on.

    Every call does the work exactly once, whether step by step or as a graph.

    Args:
        device: Where the work runs; on a CPU nothing is captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._capturing = device.type == "cuda"
        self._graphs: dict[Hashable, Any] = {}
        self._done: Counter[Hashable] = Counter()
        self._pool: Any = None

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do the work.

        Args:
            key: Names the work: the same key always stands for the same kernels over the same
                memory.
            work: Reads and writes tensors that outlive it; it returns nothing, and neither waits
                for the device nor copies to or from the host.
        """
        if not self._capturing or self._done[key] < _WARM:
            self._done[key] += 1
            work()
            return
        if key not in self._graphs:
            self._graphs[key] = self._capture(work)
        self._graphs[key].replay()

    def forget(self) -> None:
        """Drop all graphs, because the memory they work on is given up."""
        self._graphs.clear()
        self._done.clear()

    def _capture(self, work: Callable[[], None]) -> Any:
        with _CAPTURING:
            graph = torch.cuda.CUDAGraph()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            # Another thread may train beside this one: only what this thread does is captured.
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=torch.cuda.current_stream(),
                capture_error_mode="thread_local",
            ):
                work()
        return graph


@contextlib.contextmanager
def stream_of_its_own(device: torch.device) -> Iterator[None]:
    """Run a block on a CUDA stream of its own, beside what other threads do; on a CPU as it is."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)


def lanes_of(device: torch.device) -> list[torch.cuda.Stream]:
    """Return streams for work that runs side by side on a GPU; none on a CPU."""
    if device.type != "cuda":
        return []
    with torch.cuda.device(device):
        return [torch.cuda.Stream() for _ in range(_LANES)]  # type: ignore[no-untyped-call]
