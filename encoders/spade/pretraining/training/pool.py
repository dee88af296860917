"""Experts spread over processes of one thread each, the fastest layout on CPU.

Threads inside one training step fight over caches and wait for each other; a process per core does
not. This process is one of them. The others are started as `python -m`, so a caller needs no
`__main__` guard.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spade_bench.encoders.spade.pretraining.training.job import Job
from spade_bench.encoders.spade.pretraining.training.single import train_in_turn
from spade_bench.errors import SpadeBenchError, UserError

__all__ = ["run_pool"]

_MODULE = "spade_bench.encoders.spade.pretraining.training.worker"


def run_pool(path: Path, job: Job, experts: Sequence[int], workers: int) -> None:
    """Train experts in this process and in workers beside it.

    This process takes experts like any other: a worker needs seconds to import torch, in which its
    core would otherwise be the only one that does anything.

    Args:
        path: The job file that every worker reads.
        job: The same job, for this process.
        experts: Experts in the order in which they are handed out, largest first.
        workers: Number of processes, this one included.

    Raises:
        UserError: When a worker reports one.
        SpadeBenchError: When a worker fails or is killed.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in experts:
        waiting.put(number)
    expert = _take(waiting)
    others: list[_Worker] = []
    try:
        for _ in range(min(workers, len(experts)) - 1):
            others.append(_Worker(path, waiting))

        def report(row: dict[str, Any]) -> None:
            job.report(row)
            for worker in others:
                worker.relay(job, wait=False)

        while expert is not None:
            train_in_turn(dataclasses.replace(job, report=report), [expert])
            expert = _take(waiting)
        for worker in others:
            worker.relay(job, wait=True)
    finally:
        for worker in others:
            worker.stop()


class _Worker:
    """A process that trains one expert after the other until none is waiting."""

    def __init__(self, path: Path, waiting: queue.SimpleQueue[int]) -> None:
        self._waiting = waiting
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._idle = False
        # A session of its own: an interrupt reaches the parent alone, which then stops its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        self._order(_take(waiting))
        threading.Thread(target=self._listen, daemon=True).start()

    def relay(self, job: Job, *, wait: bool) -> None:
        """Pass on what the process said; with ``wait``, until it has nothing left to do."""
        while not self._idle and (wait or not self._messages.empty()):
            message = self._messages.get()
            if message is None:
                raise SpadeBenchError(
                    f"a training process ended with status {self._process.wait()}; run the same "
                    "command again to continue from its last checkpoint"
                )
            if message["kind"] == "epoch":
                job.report(message["row"])
            elif message["kind"] == "error":
                _fail(message)
            elif message["kind"] == "idle":
                self._idle = True

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # an order that the process never read

    def _order(self, expert: int | None) -> None:
        if expert is None:
            self._messages.put({"kind": "idle"})
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{expert}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has died; its listener says so

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message["kind"] == "done":
                self._order(_take(self._waiting))
            else:
                self._messages.put(message)
        self._messages.put(None)


def _take(waiting: queue.SimpleQueue[int]) -> int | None:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


def _environment() -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # An idle OpenMP thread that spins takes the core from the one that works.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }


def _fail(message: dict[str, Any]) -> None:
    if message.get("user"):
        raise UserError(message["what"], where=message["where"], fix=message["fix"])
    raise SpadeBenchError(f"a training process failed: {message['what']}")
