"""Work on many small jobs in processes beside this one, with the results in order.

What comes out does not depend on the number of processes: each job is done by one function of its
argument alone, and one that another process could not do, or of which it had something to say, is
done by this one. The processes are started as `python -m`, so a caller needs no `__main__` guard.
A process is given jobs in batches (`OtherProcess.give`), or its share at once (`in_order`).
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

__all__ = ["MOST_PROCESSES", "OtherProcess", "in_order", "processes_for"]

MOST_PROCESSES = 4
"""Processes at most, this one included: disks seldom serve more, and each takes memory."""
_MODULE = "spade_bench.features.otherprocesses"
_UNDONE = "undone"  # in place of a result, which a tuple holds
_FLUSHED = 16  # results that are sent at once

Job = TypeVar("Job")
Result = TypeVar("Result")


def processes_for(n_jobs: int, worth: int) -> int:
    """Return how many processes work on so many jobs, this one included.

    Args:
        n_jobs: Number of jobs.
        worth: Jobs for which a process is worth the second that it needs to start.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, MOST_PROCESSES, n_jobs // worth))


def in_order(
    work: Callable[[Job], Result], jobs: Sequence[Job], worth: int
) -> Generator[Result, None, None]:
    """Do jobs, where there are enough of them in several processes.

    Args:
        work: Called with each job. Of a module, so that the other process can import it.
        jobs: What it is called with.
        worth: Jobs for which a process is worth the second that it needs to start.

    Yields:
        What it returns, in the order of the jobs.
    """
    n = processes_for(len(jobs), worth)
    ahead = len(jobs) if n == 1 else worth // 2  # done here while the others start
    rest = jobs[ahead:]
    others: list[OtherProcess] = []
    try:
        for number in range(1, n):
            others.append(OtherProcess())
            others[-1].give(work, rest[number::n])
        yield from map(work, jobs[:ahead])
        for at, job in enumerate(rest):
            turn = at % n
            told = others[turn - 1].next() if turn else None
            yield work(job) if told is None else told[0]
    finally:
        for other in others:
            other.stop()


class OtherProcess:
    """A process that does jobs one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: not from the folder that the user is in, where a script may be called random.py.
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what is to be said, this process says
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # an interrupt reaches this process alone, which then stops it
        )
        self._lost = False

    def give(self, work: Callable[[Job], object], jobs: Sequence[Job]) -> None:
        """Give it a batch of jobs. It takes the next one when it has done those before.

        Args:
            work: Called with each job. Of a module, so that the other process can import it.
            jobs: What it is called with.
        """
        assert self._process.stdin is not None
        try:
            pickle.dump((work, list(jobs)), self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended: this process does its share
            self._lost = True

    def next(self) -> tuple[Any] | None:
        """Wait for the next result; None where this process must do the job."""
        assert self._process.stdout is not None
        if self._lost:
            return None
        try:
            told = pickle.load(self._process.stdout)  # noqa: S301 - from the process started here
        except (EOFError, pickle.UnpicklingError):  # it was killed, perhaps in mid-sentence
            self._lost = True  # what comes after half a result is none
            return None
        return None if told == _UNDONE else told

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError), self._process:  # waits, and closes the pipes
            pass


class _Noted(io.TextIOBase):
    """Stands for what people read, and counts what is said there."""

    count = 0

    def write(self, text: str) -> int:
        self.count += 1
        return len(text)


def _main() -> None:
    said, out = _Noted(), sys.stdout.buffer
    sys.stdout = sys.stderr = said
    while True:
        try:
            work, jobs = pickle.load(sys.stdin.buffer)  # noqa: S301 - from who started this
        except EOFError:
            return
        for number, job in enumerate(jobs, 1):
            before = said.count
            try:
                told = (work(job),)
            except Exception:  # the process that waits meets it again and says what it is
                told = None
            pickle.dump(_UNDONE if told is None or said.count > before else told, out)
            if number % _FLUSHED == 0:
                out.flush()
        out.flush()


if __name__ == "__main__":
    _main()
