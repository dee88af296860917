"""Work on samples ahead, in processes beside this one.

What is found of a sample is remembered on the disk, so nothing need be sent back: each process
works on its share, and the stage itself then goes over all samples in order and finds them done.
A sample that fails or whose process is killed is worked on, and spoken of, by the stage itself.
The processes are started as `python -m`, so a caller needs no `__main__` guard.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from spade_bench import console
from spade_bench.errors import SpadeBenchError

__all__ = ["MOST_WORKERS", "work_ahead", "workers_for"]

MOST_WORKERS = 4
"""Processes beside this one at most: with 0.5 GB each, all of it stays in 4 GiB."""
_MODULE = "spade_bench.encoders.spade.pretraining.prepare.sampleworkers"
_WORTH = 8  # samples for which a process is worth the seconds that it needs to start


def workers_for(n_samples: int, wanted: int = 0) -> int:
    """Return how many processes work on so many samples; 0 for this one alone.

    Args:
        n_samples: Number of samples.
        wanted: Number that was asked for; 0 picks by machine.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    most = wanted or cores
    n = min(most, MOST_WORKERS, n_samples // _WORTH)
    return n if n > 1 else 0


def work_ahead(
    what: str, work: Callable[..., object], jobs: Sequence[tuple[Any, ...]], workers: int
) -> None:
    """Work on samples in processes of one thread each, where there are enough of them.

    Args:
        what: Shown while working.
        work: Called with each job's arguments; remembers what it finds. Of a module, so that the
            other process can import it.
        jobs: Arguments for each sample.
        workers: Number of processes that was asked for; 0 picks by machine.
    """
    n = workers_for(len(jobs), workers)
    if not n:
        return
    started = [_start(work, jobs[number::n]) for number in range(n)]
    try:
        with console.progress(f"{what} in {n} processes", len(jobs), "samples") as bar:
            watchers = [threading.Thread(target=_follow, args=(one, bar)) for one in started]
            for watcher in watchers:
                watcher.start()
            for watcher in watchers:
                watcher.join()
    finally:
        for process in started:
            process.kill()
            with process:  # waits, and closes the pipes
                pass


def _start(work: Callable[..., object], jobs: Sequence[tuple[Any, ...]]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what is to be said, the stage itself says
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # an interrupt reaches this process alone, which then stops it
    )
    assert process.stdin is not None
    # One that has ended already helps nobody; the stage does its share.
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pickle.dump((work, list(jobs)), pipe)
    return process


def _follow(process: subprocess.Popen[bytes], bar: console.Progress) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        bar.advance()


def _main() -> None:
    work, jobs = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this
    out = sys.stdout.buffer
    for job in jobs:
        with contextlib.suppress(SpadeBenchError, OSError):  # the stage meets and says it again
            work(*job)
        out.write(b"\n")
        out.flush()


if __name__ == "__main__":
    _main()
