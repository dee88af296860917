"""What goes to a worker and what comes back: one small JSON file each, in a folder both can see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spade_bench import errors
from spade_bench.errors import DataError, UserError
from spade_bench.files import atomic_path, read_json, read_sealed, write_sealed

__all__ = ["DONE", "FAILED", "RUNNING", "SCRIPT", "STOPPED", "Shown", "Status", "Unit", "log_of",
           "read_status", "write_status"]  # fmt: skip

_SCHEMA = "spade-bench/unit/2"
SCRIPT = "job.sh"  # in the folder of units that are jobs of Slurm
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"


@dataclass(frozen=True)
class Unit:
    """A command for one worker.

    Attributes:
        kind: `run`, `extract`, `encode` or `experts`.
        arguments: Its settings, as plain values.
        seat: Which worker this is, and of how many: where in the work it begins.
        folder: Working folder, to which relative paths are relative.
        plugins: Files of plugins to load.
    """

    kind: str
    arguments: Mapping[str, Any]
    seat: tuple[int, int] = (0, 1)
    folder: str = "."
    plugins: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file of the unit, sealed: it may wait in a queue for days."""
        write_sealed(path, {"schema": _SCHEMA, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Unit:
        """Read the file of a unit.

        Raises:
            DataError: When it is none, or was changed after it was written.
        """
        content = read_sealed(path)
        if content.pop("schema", None) != _SCHEMA:
            raise DataError(
                "is no unit of work of this version", where=str(path), fix="Start the command again"
            )
        try:
            seat, plugins = content.pop("seat"), content.pop("plugins")
            return cls(**content, seat=(int(seat[0]), int(seat[1])), plugins=tuple(plugins))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"is no unit of work ({error})", where=str(path)) from error


@dataclass
class Shown:
    """A progress display of a worker.

    Attributes:
        description: What is being done.
        unit: Name of one unit of it.
        total: Units altogether; None where it is not known.
        before: Units that were done when it began.
        own: Units that this worker has done.
        note: What it is at.
    """

    description: str
    unit: str = ""
    total: float | None = None
    before: float = 0
    own: float = 0
    note: str = ""


@dataclass
class Status:
    """How far a worker is.

    Attributes:
        state: `running`, `done`, `failed` or `stopped`; empty before it has begun.
        progress: Its displays, in the order in which they began.
        result: What it did, once it is done.
        error: Class and parts of the error that ended it.
        bug: Whether that error is no mistake of the user's.
    """

    state: str = ""
    progress: list[Shown] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)
    bug: bool = False

    def failure(self) -> UserError:
        """The error that ended the worker, to be raised here."""
        kind = getattr(errors, self.error.get("class", ""), UserError)
        parts = {name: self.error.get(name, "") for name in ("where", "fix")}
        made: UserError = kind(self.error.get("what", ""), **parts)
        return made


def status_path(unit: Path) -> Path:
    """Where the worker of a unit says how far it is."""
    return unit.with_suffix(".status.json")


def log_of(unit: Path) -> Path:
    """Where the worker of a unit writes what it has to say."""
    return unit.with_suffix(".log")


def write_status(unit: Path, status: Status) -> None:
    """Write how far the worker of a unit is."""
    with atomic_path(status_path(unit), durable=False) as temporary:
        temporary.write_text(json.dumps(asdict(status)), encoding="utf-8")


def read_status(unit: Path) -> Status:
    """Read how far the worker of a unit is; it may not have begun."""
    try:
        content = read_json(status_path(unit))
        shown = [Shown(**one) for one in content.pop("progress")]
        return Status(**content, progress=shown)
    except (DataError, OSError, TypeError, KeyError, AttributeError):
        return Status()
