"""What a person sees while waiting: one place for messages, tables and progress bars.

Results go to stdout, everything else to stderr. Bars appear on a terminal only; with ``--quiet``
or a redirected stderr they become plain lines at sensible intervals.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Protocol, TypeVar

from spade_bench.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = [
    "Progress",
    "emit",
    "emit_json",
    "progress",
    "say",
    "set_quiet",
    "table",
    "track",
    "warn",
]

T = TypeVar("T")
_PLAIN_INTERVAL = 20.0  # seconds between two plain progress lines
_state = {"quiet": False}
_open: list[Progress] = []  # displays that run at present, the outermost first


class Progress(Protocol):
    """A running progress display."""

    def advance(self, n: float = 1, note: str = "") -> None:
        """Move forward by ``n`` units and show ``note`` beside the bar."""


def set_quiet(quiet: bool) -> None:
    """Switch progress bars off (True) or on (False)."""
    _state["quiet"] = quiet


def say(text: str) -> None:
    """Print one line of information on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print one warning line on stderr."""
    say(f"warning: {text}")


def emit(text: str) -> None:
    """Print a result on stdout."""
    print(printable(text), flush=True)


def emit_json(kind: str, content: Mapping[str, object], version: int = 1) -> None:
    """Print what a command says as one JSON object whose first key is its `schema`.

    Args:
        kind: Name of the command's output, such as `report`.
        content: The other keys, without NaN or infinity.
        version: Raised when keys change their meaning or go.
    """
    envelope = {"schema": f"spade-bench/{kind}/{version}", **content}
    emit(json.dumps(envelope, indent=1, allow_nan=False))


def fancy() -> bool:
    """Return whether bars may be drawn."""
    return not _state["quiet"] and sys.stderr.isatty()


@contextlib.contextmanager
def progress(description: str, total: float | None = None, unit: str = "") -> Iterator[Progress]:
    """Show progress over a block of work; inside another one, below it and only while it lasts.

    Args:
        description: What is being done.
        total: Number of units, or None when unknown.
        unit: Name of one unit, such as "patches".
    """
    outer = _open[0] if _open else None
    if isinstance(outer, _RichProgress):
        with outer.part(description, total, unit) as inner:
            yield inner
        return
    with _bars(description, total, unit) if fancy() else _lines(description, total, unit) as shown:
        _open.append(shown)
        try:
            yield shown
        finally:
            _open.remove(shown)


def track(
    items: Iterable[T], description: str, total: float | None = None, unit: str = ""
) -> Iterator[T]:
    """Iterate over ``items`` with progress shown."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(description, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; as wide as the terminal, or as wide as it needs when piped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A pipe has no width: folding at 80 columns would break what scripts grep for.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    grid = Table(
        title=Text(printable(title), style="bold") if title else None, title_justify="left"
    )
    for column in columns:
        grid.add_column(printable(column), overflow="fold")
    for row in rows:
        grid.add_row(*[Text("" if cell is None else printable(cell)) for cell in row])
    Console(file=sys.stdout, width=width, highlight=False).print(grid)


@contextlib.contextmanager
def _bars(description: str, total: float | None, unit: str) -> Iterator[_RichProgress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=False) as bars:
        yield _RichProgress(bars, bars.add_task(description, total=total, unit=unit, note=""))


@contextlib.contextmanager
def _lines(description: str, total: float | None, unit: str) -> Iterator[_PlainProgress]:
    plain = _PlainProgress(description, total, unit)
    yield plain
    if not _open:  # a part of something larger says nothing at its end
        plain.close()


class _RichProgress:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, n: float = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=n, note=printable(note))

    @contextlib.contextmanager
    def part(self, description: str, total: float | None, unit: str) -> Iterator[_RichProgress]:
        """Show a second bar below this one, and take it away at the end."""
        task = self._bars.add_task(description, total=total, unit=unit, note="")
        try:
            yield _RichProgress(self._bars, task)
        finally:
            self._bars.remove_task(task)


class _PlainProgress:
    def __init__(self, description: str, total: float | None, unit: str) -> None:
        self._description = description
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._done = 0.0
        self._start = self._last = time.monotonic()
        self._note = ""

    def advance(self, n: float = 1, note: str = "") -> None:
        self._done += n
        self._note = note
        if time.monotonic() - self._last >= _PLAIN_INTERVAL:
            self._last = time.monotonic()
            self._line()

    def close(self) -> None:
        """Print the closing line, for work long enough that somebody waited for it."""
        if time.monotonic() - self._start >= 2:
            self._line()

    def _line(self) -> None:
        total = "" if self._total is None else f"/{self._total:g}"
        seconds = time.monotonic() - self._start
        note = f" {self._note}" if self._note else ""
        say(f"{self._description}: {self._done:g}{total}{self._unit} in {seconds:.0f} s{note}")
