"""A worker: `python -m spade_bench.unitworker UNIT` does what a unit says, and tells how far it is.

It shares the work with the other workers of its command by leases, and shows nothing itself: its
progress and its result go to a file beside the unit, what it has to say to a log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spade_bench import console
from spade_bench.errors import UserError, machine_fault
from spade_bench.executors.workunits import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    Shown,
    Status,
    Unit,
    write_status,
)

__all__ = ["main", "work"]

_EVERY = 1.0  # seconds between two lines about the progress


def main(argv: list[str] | None = None) -> int:
    """Do the work of a unit; the exit code is that of the command.

    Args:
        argv: File of the unit, and `--parent PID`: a process without which the worker stops.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see `spade_bench.cli.main`
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--parent" in arguments:
        at = arguments.index("--parent")
        _stop_without(int(arguments[at + 1]))
        del arguments[at : at + 2]
    signal.signal(signal.SIGTERM, _stop)
    return work(Path(arguments[0]))


def work(path: Path) -> int:
    """Do the work of a unit, and write down how it went.

    Returns:
        0 done, 2 what the user can mend, 1 a bug, 130 stopped.
    """
    report = _Report(path)
    status = report.status
    try:
        unit = Unit.read(path)
        os.chdir(unit.folder)
        report.write()
        with console.reporting_to(report):
            status.result = _do(unit)
        status.state, code = DONE, 0
    except KeyboardInterrupt:
        status.state, code = STOPPED, 130
    except Exception as error:
        status.state = FAILED
        known = error if isinstance(error, UserError) else machine_fault(error)
        if known is None:
            traceback.print_exc()
            status.error, status.bug = {"what": f"{type(error).__name__}: {error}"}, True
        else:
            console.say(f"error: {known}")
            name = type(known).__name__
            status.error = {"class": name, "what": known.what, "where": known.where,
                            "fix": known.fix}  # fmt: skip
        code = 1 if known is None else 2
    report.write()
    return code


def _do(unit: Unit) -> dict[str, Any]:
    """Do what a unit says, with the errors of the command line."""
    from spade_bench import plugins, workershares
    from spade_bench.keywords import command_line

    for file in unit.plugins:
        plugins.load_file(file)
    kinds: Mapping[str, Callable[[Mapping[str, Any], tuple[int, int]], dict[str, Any]]] = {
        "run": workershares.run_share,
        "extract": workershares.extract_share,
        "encode": workershares.encode_share,
        "experts": workershares.experts_share,
    }
    with command_line():
        return kinds[unit.kind](unit.arguments, unit.seat)


class _Report:
    """Writes the progress of this worker to a file, at sensible intervals.

    Args:
        unit: File of the unit.
    """

    def __init__(self, unit: Path) -> None:
        self.status = Status(RUNNING)
        self._unit = unit.resolve()
        self._last = 0.0
        self._open = False

    @contextlib.contextmanager
    def __call__(
        self, description: str, total: float | None, unit: str, done: float
    ) -> Iterator[_Reported]:
        """Stand in for `console.progress`; what is done several times goes on in one display.

        What lies inside another display is not told: workers together would fill a screen.
        """
        if self._open:
            yield _Reported(Shown(description), self)
            return
        named = (one for one in self.status.progress if one.description == description)
        shown = next(named, None)
        if shown is None:
            shown = Shown(description, unit, total, done)
            self.status.progress.append(shown)
        else:  # the last one is what the worker does at present
            self.status.progress.remove(shown)
            self.status.progress.append(shown)
        self.write()
        self._open = True
        try:
            yield _Reported(shown, self)
        finally:
            self._open = False

    def write(self, *, sometimes: bool = False) -> None:
        """Write the file, or only when the last time is long enough ago."""
        now = time.monotonic()
        if not sometimes or now - self._last >= _EVERY:
            self._last = now
            write_status(self._unit, self.status)


class _Reported:
    """A display of a worker, as its command sees it."""

    def __init__(self, shown: Shown, report: _Report) -> None:
        self._shown, self._report = shown, report

    def advance(self, n: float = 1, note: str = "") -> None:
        self._shown.own += n
        self._shown.note = note or self._shown.note
        self._report.write(sometimes=True)

    def expect(self, total: float) -> None:
        self._shown.total = total

    def found(self, n: float) -> None:
        """Pass over what another worker has done, and reports itself."""


def _stop(*signals: object) -> None:
    # Once: who starts the worker ends it, and then is gone, which ends it again while it tidies up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _stop_without(parent: int) -> None:
    """Stop this worker, as by Ctrl-C, when the process that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.name != "nt":
        threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
