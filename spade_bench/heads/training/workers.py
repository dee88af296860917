"""Spread independent models over CPU cores, one thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

__all__ = ["Workers"]

T = TypeVar("T")


class Workers:
    """Threads that run torch without threads of its own.

    On a CPU, one model per core does more than one model on all cores: nothing waits for its half.
    It also makes the numbers independent of how many cores there are.

    Args:
        device: Where the models are; only on a CPU are there workers.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        self._last: dict[Hashable, Future[None]] = {}  # owner -> its latest job
        self._running: list[Future[None]] = []

    def __enter__(self) -> Workers:
        if self.count > 1:
            all_here = threading.Barrier(self.count)
            self._pool = ThreadPoolExecutor(self.count)
            for ready in [self._pool.submit(_alone, all_here) for _ in range(self.count)]:
                ready.result()
            torch.set_num_threads(self.count)  # of this thread, and of those yet to come
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(self, jobs: Sequence[Callable[[], T]], large: bool) -> list[T]:
        """Run jobs that share nothing they write to.

        Args:
            jobs: What to run.
            large: Whether each is worth a thread.

        Returns:
            Their results, in order.
        """
        pool = self._pool_for(jobs, large)
        if pool is None:
            return [job() for job in jobs]
        return [running.result() for running in [pool.submit(job) for job in jobs]]

    def start(
        self, jobs: Sequence[tuple[Callable[[], None], Sequence[Hashable]]], large: bool
    ) -> None:
        """Run jobs without waiting for the last of them: a core that is done goes on with the next.

        A job begins when the earlier ones of its owners have finished. The call returns when the
        jobs of the call before it have, so that no more than two calls' jobs are in hand.

        Args:
            jobs: What to run, and whose state it changes.
            large: Whether each is worth a thread.
        """
        pool = self._pool_for(jobs, large)
        if pool is None:
            self.wait()
            for job, _ in jobs:
                job()
            return
        before, self._running = self._running, []
        for job, owners in jobs:
            earlier = {self._last[owner] for owner in owners if owner in self._last}
            running = pool.submit(_after, earlier, job)
            self._last.update(dict.fromkeys(owners, running))
            self._running.append(running)
        for running in before:
            running.result()

    def wait(self) -> None:
        """Wait for all that was started."""
        for running in self._running:
            running.result()
        self._running, self._last = [], {}

    def _pool_for(self, jobs: Sequence[object], large: bool) -> ThreadPoolExecutor | None:
        """The threads, where they help: a job that is alone has all of torch's own instead."""
        return self._pool if large and len(jobs) > 1 else None


def _after(earlier: Iterable[Future[None]], job: Callable[[], None]) -> None:
    for running in earlier:  # started before this one, so it is done or on another core
        running.result()
    job()


def _alone(all_here: threading.Barrier) -> None:
    torch.get_num_threads()  # torch sets a thread up when it first asks; only then does 1 last
    torch.set_num_threads(1)
    all_here.wait()
