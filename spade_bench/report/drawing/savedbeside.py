"""Save pictures in a process beside this one, which meanwhile draws the next."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spade_bench.features.otherprocesses import OtherProcess, processes_for
from spade_bench.files import atomic_path
from spade_bench.report.drawing.look import DPI, UNDATED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Saver", "saver"]

_WORTH = 5  # pictures for which a process is worth its start
_WAITING = 2  # pictures that wait for the other process, before this one saves one itself
_NOT_SENT = ("backend", "backend_fallback", "interactive", "toolbar")  # of windows


class Job(NamedTuple):
    """A picture to save.

    Attributes:
        figure: The figure, pickled.
        path: Its file, without suffix.
        formats: Suffixes.
        dpi: Dots per inch of a png.
        settings: What the caller has set in matplotlib, which speaks where the house does not.
    """

    figure: bytes
    path: Path
    formats: tuple[str, ...]
    dpi: int
    settings: dict[Any, Any]


class Saver:
    """Saves pictures, here or in the other process: the files are the same.

    Args:
        other: The other process; None for none.
    """

    def __init__(self, other: OtherProcess | None = None) -> None:
        self._other = other
        self._pool = ThreadPoolExecutor(1)  # waits for the other process
        self._given: list[tuple[Future[bool], Figure, Job]] = []

    def save(self, figure: Figure, path: Path, formats: Sequence[str]) -> None:
        """Save a figure, now or until :meth:`finish`.

        Args:
            figure: The figure, which nobody needs any more.
            path: Its file, without suffix.
            formats: Suffixes.
        """
        job = Job(b"", path, tuple(formats), DPI["png"], {})
        while self._given and self._given[0][0].done():
            self._settle()
        if self._other is None or len(self._given) >= _WAITING:
            _save(figure, job)
            return
        try:
            job = job._replace(figure=pickle.dumps(figure), settings=_settings())
        except (pickle.PicklingError, AttributeError, TypeError):  # a function made on the spot
            _save(figure, job)
            return
        self._given.append((self._pool.submit(_ask, self._other, job), figure, job))

    def finish(self) -> None:
        """Wait for the other process, and save what it could not."""
        while self._given:
            self._settle()

    def _settle(self) -> None:
        """Wait for the picture that was given first."""
        future, figure, job = self._given.pop(0)
        if not future.result():
            _save(figure, job)


@contextlib.contextmanager
def saver(pictures: int) -> Iterator[Saver]:
    """Yield what saves so many pictures; at the end all of them are there."""
    other = OtherProcess() if processes_for(pictures, _WORTH) > 1 else None
    saving = Saver(other)
    try:
        yield saving
        saving.finish()
    finally:
        saving._pool.shutdown()  # what is being written is finished first
        if other is not None:
            other.stop()


def _ask(other: OtherProcess, job: Job) -> bool:
    other.give(save_job, [job])
    return other.next() is not None


def save_job(job: Job) -> None:
    """Save a picture in the other process."""
    import matplotlib as mpl

    with mpl.rc_context(job.settings):
        _save(pickle.loads(job.figure), job)  # noqa: S301 - from the process that started this


def _settings() -> dict[Any, Any]:
    """What was set in matplotlib since it was imported."""
    import matplotlib as mpl

    before = mpl.rcParamsOrig
    names = (name for name in mpl.rcParams if name not in _NOT_SENT)
    return {name: mpl.rcParams[name] for name in names if mpl.rcParams[name] != before[name]}


def _save(figure: Figure, job: Job) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    for suffix in job.formats:
        with atomic_path(job.path.with_name(f"{job.path.name}.{suffix}")) as temporary:
            figure.savefig(temporary, dpi=job.dpi, format=suffix, metadata=UNDATED[suffix])
    # A figure and its parts know each other, so that its pixels would wait for the collector.
    figure.clear()
    FigureCanvasBase(figure)
