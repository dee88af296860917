"""Workers as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from spade_bench.executors.workunits import log_of

__all__ = ["LocalProcesses", "command_of", "ended"]

_PATIENCE = 10.0  # seconds that a worker has to stop


class LocalProcesses:
    """Workers as processes of this machine, each with its card or its share of the cores.

    Args:
        environments: What the environment of each worker says more than this process's own.
    """

    interval = 0.3
    said = ""

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self._environments = environments
        self._of: dict[Path, Mapping[str, str]] = {}
        self._running: dict[Path, subprocess.Popen[bytes]] = {}

    def submit(self, units: Sequence[Path]) -> None:
        """See `Executor`."""
        for unit in units:
            if unit not in self._of:
                self._of[unit] = self._environments[len(self._of) % len(self._environments)]
            with log_of(unit).open("ab") as log:
                self._running[unit] = subprocess.Popen(
                    command_of(unit, parent=os.getpid()),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self._of[unit]},
                )

    def collect(self) -> Mapping[Path, str]:
        """See `Executor`."""
        over = {u: p.returncode for u, p in self._running.items() if p.poll() is not None}
        for unit in over:
            del self._running[unit]
        return {unit: ended(code) for unit, code in over.items()}

    def cancel(self) -> None:
        """See `Executor`."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def close(self) -> None:
        """See `Executor`."""


def command_of(unit: Path, parent: int | None = None) -> list[str]:
    """Return the command of a worker.

    Args:
        unit: File of its unit.
        parent: Process without which it stops; None for none.
    """
    command = [sys.executable, "-m", "spade_bench.unitworker", str(unit.resolve())]
    return [*command, "--parent", str(parent)] if parent is not None else command


def ended(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
