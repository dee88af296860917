"""Give work to workers and see it through: one view of the progress, errors in one line."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from spade_bench import console
from spade_bench.errors import SystemFaultError, name_some
from spade_bench.executors.choosing import ExecutorSettings, local_workers
from spade_bench.executors.workunits import (
    DONE,
    FAILED,
    RUNNING,
    SCRIPT,
    Status,
    Unit,
    log_of,
    read_status,
    status_path,
)
from spade_bench.files import hash_obj
from spade_bench.leases import Leases
from spade_bench.plugins import loaded_files

__all__ = ["JOBS", "Executor", "remove_left", "spread", "worker_count"]

JOBS = "jobs"
"""Folder, in that of the command's output, of the units of commands that run."""

_STARTER = "starter"  # names the lease of the process that follows the units of a folder
_LATE = 60.0  # seconds that a file may take to be seen on another machine
_TRIES = 4  # how often a worker is started whose end nobody can explain


class Executor(Protocol):
    """Starts workers and says which of them are not there any more.

    Attributes:
        interval: Seconds between two looks at them.
    """

    interval: float

    @property
    def said(self) -> str:
        """What to tell a person who waits, such as the number of a job."""

    def submit(self, units: Sequence[Path]) -> None:
        """Start a worker for each unit: `python -m spade_bench.unitworker UNIT`."""

    def collect(self) -> Mapping[Path, str]:
        """Return the units whose workers have ended since the last call, and how, in words."""

    def cancel(self) -> None:
        """Stop all workers, and wait until they have."""

    def close(self) -> None:
        """Leave what was connected to; no worker runs any more."""


def spread(
    kind: str,
    arguments: Mapping[str, Any],
    out: Path,
    settings: ExecutorSettings,
    *,
    parts: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Run a command on workers, and return what each of them says that it did.

    Args:
        kind: The command; see `Unit`.
        arguments: Its settings, as plain values.
        out: Folder that it writes to, which all workers can see.
        settings: Where it runs.
        parts: Settings that each worker has of its own, where the work is not shared by leases;
            then every one of them must end well.

    Returns:
        The results of the workers that ended well; empty where only a script was written.

    Raises:
        UserError: The error of a worker, or when workers die again and again.
        SystemFaultError: When a worker meets a bug.
    """
    seats = len(parts) or worker_count(settings)
    folder = out / JOBS / f"{kind}-{hash_obj(arguments)[:6]}-{uuid.uuid4().hex[:6]}"
    remove_left(folder.parent)
    folder.mkdir(parents=True)
    units = []
    for i in range(seats):
        units.append(folder / f"unit-{i + 1:04d}.json")
        own = {**arguments, **(parts[i] if parts else {}), "notes": str(folder / "notes")}
        Unit(kind, own, (i, seats), str(Path.cwd()), tuple(loaded_files())).write(units[-1])
    if settings.script:
        from spade_bench.executors.slurmjobs import write_script

        script = write_script(folder, units, settings)
        console.say(f"{seats} jobs are not submitted: read {script}, then `sbatch {script}`")
        return []
    starter, keep = Leases(folder).take(_STARTER), False
    try:
        return _Following(_made(settings, folder), units, kind, every=bool(parts)).to_the_end()
    except SystemFaultError:
        keep = True  # the message names a log in it
        raise
    finally:
        if starter is not None:
            starter.release()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


def remove_left(jobs: Path) -> None:
    """Remove units whose starter was killed, and which nobody needs any more.

    Workers on this machine and on Ray end with their starter. Jobs of Slurm go on without it: their
    units stay until all have ended. What was kept to be read, or to be submitted by hand, stays.

    Args:
        jobs: Folder of the units of several commands.
    """
    for lease in sorted(jobs.glob(f"*/{_STARTER}.lease")):
        folder = lease.parent
        waiting = (folder / SCRIPT).exists() and any(
            read_status(unit).state in {"", RUNNING}
            for unit in folder.glob("unit-*.json")
            if not unit.name.endswith(".status.json")
        )
        if waiting or (taken := Leases(folder).take(_STARTER)) is None:
            continue
        taken.release()
        shutil.rmtree(folder, ignore_errors=True)


def worker_count(settings: ExecutorSettings) -> int:
    """Return how many workers there will be.

    Raises:
        UserError: When there is no room for one, or a card is not there.
    """
    if settings.name == "local":
        return len(local_workers(settings))
    if settings.name == "ray":
        from spade_bench.executors.raytasks import ray_seats

        return ray_seats(settings)
    return settings.workers or 1


def _made(settings: ExecutorSettings, folder: Path) -> Executor:
    if settings.name == "ray":
        from spade_bench.executors.raytasks import RayTasks

        return RayTasks(settings)
    if settings.name == "slurm":
        from spade_bench.executors.slurmjobs import SlurmJobs

        return SlurmJobs(settings, folder)
    from spade_bench.executors.localprocesses import LocalProcesses

    return LocalProcesses(local_workers(settings))


@dataclass
class _Following:
    """Follows workers until the work is done.

    Attributes:
        executor: Runs them.
        units: Their units.
        what: The command, for people.
        every: Whether each of them has to end well, because they do not share the work.
    """

    executor: Executor
    units: Sequence[Path]
    what: str
    every: bool = False
    _tries: dict[Path, int] = field(default_factory=dict)
    _ended: dict[Path, Status] = field(default_factory=dict)
    _lost: dict[Path, str] = field(default_factory=dict)
    _gone: dict[Path, tuple[str, float]] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def to_the_end(self) -> list[dict[str, Any]]:
        """Submit the units, start again those whose workers die, and collect what they did."""
        try:
            self._submit(self.units)
            with contextlib.ExitStack() as stack:
                n = len(self.units)
                title = f"{self.what} on {n} worker{'s' if n > 1 else ''}"
                view = _View(stack, title, n)
                while len(self._ended) + len(self._lost) < len(self.units):
                    time.sleep(self.executor.interval)
                    self._look(view)
        except BaseException:
            self.executor.cancel()
            raise
        finally:
            self.executor.close()
        finished = [status for status in self._ended.values() if status.state == DONE]
        if len(finished) < (len(self.units) if self.every else 1):
            raise self._all_lost()
        for unit, why in self._lost.items():
            console.warn(f"{unit.stem} ended early ({why}); the others did its share")
        return [status.result for status in finished]

    def _submit(self, units: Sequence[Path]) -> None:
        for unit in units:
            self._tries[unit] = self._tries.get(unit, 0) + 1
            status_path(unit).unlink(missing_ok=True)
        self.executor.submit(units)

    def _look(self, view: _View) -> None:
        now = time.monotonic()
        self._gone |= {unit: (how, now) for unit, how in self.executor.collect().items()}
        states = {unit: read_status(unit) for unit in self.units}
        for unit in self.units:
            self._say(unit)
        view.show([*states.values()], self.executor.said)
        again = []
        for unit, (how, since) in list(self._gone.items()):
            status = states[unit]
            if status.state in {"", RUNNING} and _ended_well(how) and now - since < _LATE:
                continue  # what it wrote last is still on its way through the file system
            del self._gone[unit]
            if status.state == DONE:
                self._ended[unit] = status
            elif status.state == FAILED and status.error.get("class") != "SystemFaultError":
                if status.bug:
                    raise SystemFaultError(
                        f"a worker met a bug: {status.error.get('what', '')}",
                        where=str(log_of(unit)),
                        fix="Run it again with --debug and report the traceback in this file",
                    )
                raise status.failure()
            else:
                why = str(status.failure()) if status.error else how
                done = any(one.state == DONE for one in self._ended.values())
                if self._tries[unit] >= _TRIES or (done and not self.every):
                    self._lost[unit] = why
                else:
                    console.say(f"{unit.stem} ended early ({why}) and is started again")
                    again.append(unit)
        if again:
            self._submit(again)

    def _say(self, unit: Path) -> None:
        """Repeat what a worker has said: its warnings, and all else that the first one says."""
        try:
            with log_of(unit).open("rb") as file:
                file.seek(self._read.get(unit, 0))
                whole = file.read().rpartition(b"\n")[0]
        except OSError:
            return
        if not whole:
            return
        self._read[unit] = self._read.get(unit, 0) + len(whole) + 1
        for line in whole.decode("utf-8", errors="replace").split("\n"):
            warning = line.startswith("warning: ")
            if line not in self._told and (warning or (unit == self.units[0] and _for_all(line))):
                self._told.add(line)
                console.say(line)

    def _all_lost(self) -> SystemFaultError:
        first, why = next(iter(self._lost.items()))
        names = name_some([unit.stem for unit in self._lost], 3)
        return SystemFaultError(
            f"workers ended early {_TRIES} times each ({names}): {why}",
            where=str(log_of(first)),
            fix="Read this file; give workers more memory or time, or take fewer of them",
        )


def _ended_well(how: str) -> bool:
    """Whether a worker ended by itself, in the words of its executor."""
    return how.endswith(("exit code 0", "COMPLETED"))


def _for_all(line: str) -> bool:
    """Whether a line of a worker is for people: no error and no trace of one."""
    return bool(line) and not line.startswith(("error: ", "Traceback", " ", "[", "slurmstepd"))


class _View:
    """Shows what workers do at present, each kind of it in one bar for all of them.

    Args:
        stack: Closes the display.
        title: What is done, and where.
        workers: How many there are.
    """

    def __init__(self, stack: contextlib.ExitStack, title: str, workers: int) -> None:
        self._bars: dict[str, tuple[contextlib.ExitStack, console.Progress, float]] = {}
        self._all = stack.enter_context(console.progress(title, workers, "workers"))
        self._over = 0
        stack.callback(self._keep, ())

    def show(self, states: Sequence[Status], said: str) -> None:
        """Show how far the workers are."""
        over = sum(status.state == DONE for status in states)
        running = [status for status in states if status.state == RUNNING]
        notes = [f"{len(running)} running" if running else "", said]
        self._all.advance(over - self._over, ", ".join(filter(None, notes)))
        self._over = over
        current = dict.fromkeys(s.progress[-1].description for s in running if s.progress)
        self._keep(current)
        for name in current:
            shown = [p for status in states for p in status.progress if p.description == name]
            total = max((p.total for p in shown if p.total is not None), default=None)
            done = min(p.before for p in shown) + sum(p.own for p in shown)
            done = done if total is None else min(done, total)
            if name not in self._bars:
                own = contextlib.ExitStack()
                bar = own.enter_context(console.progress(name, total, shown[0].unit, done))
                self._bars[name] = own, bar, done
            own, bar, before = self._bars[name]
            if total is not None:
                bar.expect(total)
            bar.advance(done - before, next((p.note for p in reversed(shown) if p.note), ""))
            self._bars[name] = own, bar, done

    def _keep(self, names: Collection[str]) -> None:
        """Take the bars away of what no worker does any more."""
        for name in [name for name in self._bars if name not in names]:
            self._bars.pop(name)[0].close()
