"""What a person sees while waiting: one place for messages, tables and progress bars.

Results go to stdout, everything else to stderr. Bars appear on a terminal and, where ipywidgets is
installed, in a Jupyter notebook; with ``--quiet`` or a redirected stderr they become plain lines at
sensible intervals.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from spade_bench.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID
    from rich.table import Table as RichTable

__all__ = [
    "Progress",
    "emit",
    "emit_json",
    "json_text",
    "paragraph",
    "progress",
    "reporting_to",
    "rich_bars",
    "say",
    "set_quiet",
    "table",
    "terminal_width",
    "track",
    "warn",
]

T = TypeVar("T")
_PLAIN_INTERVAL = 20.0  # seconds between two plain progress lines
_state = {"quiet": False}
_open: list[Progress] = []  # displays that run at present, the outermost first
_reports: list[Report] = []  # who shows progress instead, the last one counts


class Progress(Protocol):
    """A running progress display."""

    def advance(self, n: float = 1, note: str = "") -> None:
        """Move forward by ``n`` units and show ``note`` beside the bar."""

    def expect(self, total: float) -> None:
        """Correct the number of units, where it was not known before."""

    def found(self, n: float) -> None:
        """Move forward by ``n`` units that another process has done."""


Report = Callable[[str, float | None, str, float], contextlib.AbstractContextManager[Progress]]
"""Shows progress in the place of this process; see `reporting_to`."""


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
    """Print a result on stdout; where a reader such as `head` has enough, the command ends."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        _end_quietly()


def emit_json(kind: str, content: Mapping[str, object], version: int = 1) -> None:
    """Print what a command says as JSON; see :func:`json_text`."""
    emit(json_text(kind, content, version))


def json_text(kind: str, content: Mapping[str, object], version: int = 1) -> str:
    """Write what a command says as one JSON object whose first key is its `schema`.

    Args:
        kind: Name of the command's output, such as `report`.
        content: The other keys, without NaN or infinity.
        version: Raised when keys change their meaning or go.
    """
    envelope = {"schema": f"spade-bench/{kind}/{version}", **content}
    return json.dumps(envelope, indent=1, allow_nan=False)


def fancy() -> bool:
    """Return whether bars may be drawn."""
    return not _state["quiet"] and (sys.stderr.isatty() or in_notebook())


def in_notebook() -> bool:
    """Return whether this runs in the kernel of a notebook that can show bars."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") and importlib.util.find_spec("ipywidgets") is not None


@contextlib.contextmanager
def progress(
    description: str, total: float | None = None, unit: str = "", done: float = 0
) -> Iterator[Progress]:
    """Show progress over a block of work; inside another one, below it and only while it lasts.

    Args:
        description: What is being done.
        total: Number of units, or None when unknown.
        unit: Name of one unit, such as "patches".
        done: Units that were done before.
    """
    if _reports:
        with _reports[-1](description, total, unit, done) as reported:
            yield reported
        return
    outer = _open[0] if _open else None
    if isinstance(outer, _RichProgress):
        with outer.part(description, total, unit, done) as inner:
            yield inner
        return
    kind = _bars if fancy() else _lines
    with kind(description, total, unit, done) as shown:
        _open.append(shown)
        try:
            yield shown
        finally:
            _open.remove(shown)


@contextlib.contextmanager
def reporting_to(report: Report) -> Iterator[None]:
    """Give the progress of a block to somebody else, who shows it: no bar is drawn here.

    Args:
        report: Called as `progress` is, with all of its arguments.
    """
    _reports.append(report)
    try:
        yield
    finally:
        _reports.remove(report)


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


def paragraph(text: str, indent: int = 0) -> None:
    """Print a result on stdout, folded between words where a terminal has a width.

    Args:
        text: One or several lines.
        indent: Spaces before every folded line after the first.
    """
    width = terminal_width()
    for line in text.split("\n"):
        lines = [line] if width is None else _folded(line, width, indent)
        for part in lines or [""]:
            emit(part)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], keys: int = 0
) -> None:
    """Print a table on stdout; as wide as the terminal, or as wide as it needs when piped.

    With key columns, a table that is wider than the terminal becomes several below each other,
    each of which begins with them, so that no number is broken. Where even one column does not fit
    beside them, and without key columns, text is folded.

    Args:
        title: Line above it, or empty.
        columns: Names of its columns.
        rows: Its cells.
        keys: Number of columns that name a row, for tables of numbers; 0 for tables of text.
    """
    from rich.cells import cell_len
    from rich.console import Console

    # A pipe has no width: folding at 80 columns would break what scripts grep for.
    width = terminal_width() or 200
    heads = [printable(column) for column in columns]
    cells = [["" if cell is None else printable(cell) for cell in row] for row in rows]
    widths = [max([cell_len(text) for text in column])
              for column in zip(heads, *cells, strict=True)]  # fmt: skip
    screen = _pipe_safe(Console(file=sys.stdout, width=width, highlight=False))
    if title:
        paragraph(title)
    if not keys or sum(widths) + _FRAME * len(widths) + 1 <= width:
        _print_grid(screen, heads, cells)
        return
    cap = _key_width(widths, width, keys)
    for block in _blocks(widths, width, keys, cap):
        part = [[row[i] for i in block] for row in cells]
        _print_grid(screen, [heads[i] for i in block], part, [cap] * keys)


def terminal_width() -> int | None:
    """Columns of the terminal, or None where stdout has no width."""
    if not (sys.stdout.isatty() or "COLUMNS" in os.environ):
        return None
    return max(20, shutil.get_terminal_size().columns)


def _folded(line: str, width: int, indent: int) -> list[str]:
    import textwrap

    return textwrap.wrap(
        line, width, subsequent_indent=" " * indent, break_on_hyphens=False, drop_whitespace=True,
        replace_whitespace=False,
    )  # fmt: skip


_NARROWEST = 6
_FRAME = 3  # columns that a cell takes beside its text; the table takes one more


def _key_width(widths: Sequence[int], width: int, keys: int) -> int:
    """Most columns that a key may take, so that the widest other column fits beside all of them."""
    room = width - 1 - max(widths[keys:]) - _FRAME
    cap = max(widths[:keys])
    while cap > _NARROWEST and sum(min(w, cap) + _FRAME for w in widths[:keys]) > room:
        cap -= 1
    return cap


def _blocks(widths: Sequence[int], width: int, keys: int, cap: int) -> list[list[int]]:
    """Share columns out to tables that fit, each beginning with the key columns."""
    named = sum(min(w, cap) + _FRAME for w in widths[:keys]) + 1
    blocks: list[list[int]] = []
    room = 0
    for column in range(keys, len(widths)):
        needed = widths[column] + _FRAME
        if not blocks or needed > room:
            blocks.append(list(range(keys)))
            room = width - named
        blocks[-1].append(column)
        room -= needed
    return blocks


def _print_grid(
    screen: Console, heads: Sequence[str], cells: Sequence[Sequence[str]], caps: Sequence[int] = ()
) -> None:
    """Print a table; one that needs no folding, into a pipe, without the layout engine of rich.

    That takes 100 times as long, which counts for thousands of rows; the lines are the same.
    """
    from rich.cells import cell_len
    from rich.markup import escape

    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    fits = sum(widths) + _FRAME * len(widths) + 1 <= screen.width
    fits = fits and all(most >= width for most, width in zip(caps, widths, strict=False))
    plain = not any("\n" in text for row in (heads, *cells) for text in row)
    plain = plain and all(escape(head) == head for head in heads)  # no markup, as rich has it
    if screen.is_terminal or screen.options.ascii_only or not plain or not fits:
        screen.print(_grid(heads, cells, caps))
        return
    lines = [
        _rule("┏━┳┓", widths),
        _row_line("┃", heads, widths),
        _rule("┡━╇┩", widths),
        *(_row_line("│", row, widths) for row in cells),
        _rule("└─┴┘", widths),
    ]
    emit("\n".join(lines))


def _rule(signs: str, widths: Sequence[int]) -> str:
    between = signs[2].join(signs[1] * (width + 2) for width in widths)
    return f"{signs[0]}{between}{signs[3]}"


def _row_line(edge: str, row: Sequence[str], widths: Sequence[int]) -> str:
    from rich.cells import cell_len

    padded = [
        f" {text}{' ' * (width - cell_len(text))} " for text, width in zip(row, widths, strict=True)
    ]
    return f"{edge}{edge.join(padded)}{edge}"


def _grid(
    columns: Sequence[str], rows: Sequence[Sequence[str]], caps: Sequence[int] = ()
) -> RichTable:
    """A table whose first columns are at most so wide; longer text in them is folded."""
    from rich.table import Table
    from rich.text import Text

    grid = Table()
    for at, column in enumerate(columns):
        most = caps[at] if at < len(caps) else None
        grid.add_column(column, overflow="fold", max_width=most)
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid


def _pipe_safe(screen: Console) -> Console:
    """Let a closed pipe end the command quietly; rich would call it a failure."""
    screen.on_broken_pipe = _end_quietly  # type: ignore[method-assign]
    return screen


def _end_quietly() -> NoReturn:
    """End the program as done: nobody reads the rest, and nothing more may be flushed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


@contextlib.contextmanager
def _bars(description: str, total: float | None, unit: str, done: float) -> Iterator[_RichProgress]:
    from rich.console import Console

    with rich_bars(Console(stderr=True)) as bars:
        task = bars.add_task(description, total=total, completed=int(done), unit=unit, note="")
        yield _RichProgress(bars, task)


_NARROW, _WIDE = 80, 110


def rich_bars(screen: Console) -> RichProgress:
    """Make a progress display that keeps count, rate and time left on a narrow terminal.

    What has to give way first are the note and the time that has passed, then the bar and the
    description.

    Args:
        screen: Where it is drawn; its width decides.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    class Line(ProgressColumn):
        """A line of text about a task."""

        max_refresh = 0.5

        def __init__(self, say: Callable[[Task], str]) -> None:
            self._say = say
            super().__init__(Column(no_wrap=True))

        def render(self, task: Task) -> Text:
            return Text(self._say(task))

    width = screen.width
    fixed = Column(no_wrap=True)
    cut = Column(no_wrap=True, overflow="ellipsis", min_width=6, ratio=1)
    columns: list[Any] = [
        TextColumn("{task.description}", table_column=cut),
        BarColumn(6 if width < _NARROW else 20 if width < _WIDE else 40, table_column=fixed),
        *map(Line, (_count, _rate, _left)),
    ]
    if width >= _NARROW:
        columns.append(TimeElapsedColumn(table_column=fixed))
    if width >= _WIDE:
        note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        columns.append(TextColumn("{task.fields[note]}", table_column=note))
    return Progress(*columns, console=screen, transient=False, expand=True)


@contextlib.contextmanager
def _lines(
    description: str, total: float | None, unit: str, done: float
) -> Iterator[_PlainProgress]:
    plain = _PlainProgress(description, total, unit, done)
    yield plain
    if not _open:  # a part of something larger says nothing at its end
        plain.close()


def _count(task: Task) -> str:
    """`1200/5000 patches`; nothing where there is nothing to count."""
    if task.total is None and not task.completed:
        return ""
    total = "?" if task.total is None else f"{task.total:.0f}"
    return f"{task.completed:.0f}/{total} {task.fields['unit']}".rstrip()


def _rate(task: Task) -> str:
    """Units per second, or per minute where one takes longer than a second."""
    speed = task.finished_speed or task.speed
    if not speed:
        return "-/s"
    if speed < 1:
        return f"{60 * speed:.1f}/min"
    return f"{speed:.0f}/s" if speed >= 10 else f"{speed:.1f}/s"


def _left(task: Task) -> str:
    """Time left as `1:02:03` or `2:03`."""
    seconds = task.time_remaining
    if seconds is None:
        return "-:-- left"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} left" if hours else f"{minutes}:{rest:02d} left"


class _RichProgress:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, n: float = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=n, note=printable(note))

    def expect(self, total: float) -> None:
        self._bars.update(self._task, total=total)

    def found(self, n: float) -> None:
        self.advance(n)

    @contextlib.contextmanager
    def part(
        self, description: str, total: float | None, unit: str, done: float
    ) -> Iterator[_RichProgress]:
        """Show a second bar below this one, and take it away at the end."""
        task = self._bars.add_task(
            description, total=total, completed=int(done), unit=unit, note=""
        )
        try:
            yield _RichProgress(self._bars, task)
        finally:
            self._bars.remove_task(task)


class _PlainProgress:
    def __init__(self, description: str, total: float | None, unit: str, done: float = 0) -> None:
        self._description = description
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._done = done
        self._start = self._last = time.monotonic()
        self._note = ""
        self._said: tuple[float, str] | None = None  # what the last line counted

    def advance(self, n: float = 1, note: str = "") -> None:
        self._done += n
        self._note = note
        if time.monotonic() - self._last >= _PLAIN_INTERVAL:
            self._last = time.monotonic()
            self._line()

    def expect(self, total: float) -> None:
        self._total = total

    def found(self, n: float) -> None:
        self.advance(n)

    def close(self) -> None:
        """Print the closing line, for work long enough that somebody waited for it."""
        if time.monotonic() - self._start >= 2 and self._said != (self._done, self._note):
            self._line()

    def _line(self) -> None:
        total = "" if self._total is None else f"/{_whole(self._total)}"
        seconds = time.monotonic() - self._start
        self._said = (self._done, self._note)
        between = " " if self._note.startswith("(") else ", "
        note = f"{between}{self._note}" if self._note else ""
        counts = self._done > 0 or self._total is not None  # else there is nothing to count
        done = f"{_whole(self._done)}{total}{self._unit} in " if counts else ""
        say(f"{self._description}: {done}{seconds:.0f} s{note}")


def _whole(number: float) -> str:
    """A number without an exponent: millions of transcripts are not 5e+06."""
    return f"{number:.0f}" if number >= 1e6 else f"{number:g}"
