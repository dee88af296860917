"""Save pictures in a process beside this one, which meanwhile draws the next."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spade_bench.features.otherprocesses import OtherProcess, processes_for
from spade_bench.files import atomic_path
from spade_bench.report.drawing.look import DPI, UNDATED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Saver"]

_WORTH = 5  # pictures for which a process is worth its start
_WAITING = 2  # pictures that wait for the other process, before this one saves one itself
_NOT_SENT = ("backend", "backend_fallback", "interactive", "toolbar")  # of windows


class _Job(NamedTuple):
    """A picture for the other process to save.

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

    Leave it as a context, at the end of which all of them are there.

    Args:
        pictures: How many there will be: few are not worth a process.
    """

    def __init__(self, pictures: int) -> None:
        self._other = OtherProcess() if processes_for(pictures, _WORTH) > 1 else None
        self._settings = {} if self._other is None else _settings()
        self._pool = ThreadPoolExecutor(1)  # waits for the other process
        self._given: list[tuple[Future[bool], Figure, Path, tuple[str, ...]]] = []

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._given and kind is None:
                self._settle()
        finally:
            self._pool.shutdown()  # what is being written is finished first
            if self._other is not None:
                self._other.stop()

    def save(self, figure: Figure, path: Path, formats: Sequence[str]) -> None:
        """Save a figure, now or until the end.

        Args:
            figure: The figure, which nobody needs any more.
            path: Its file, without suffix.
            formats: Suffixes.
        """
        while self._given and self._given[0][0].done():
            self._settle()
        if self._other is None or len(self._given) >= _WAITING:
            _save(figure, path, formats, DPI["png"])
            return
        try:
            content = pickle.dumps(figure)
        except (pickle.PicklingError, AttributeError, TypeError):  # a function made on the spot
            _save(figure, path, formats, DPI["png"])
            return
        job = _Job(content, path, tuple(formats), DPI["png"], self._settings)
        told = self._pool.submit(_ask, self._other, job)
        self._given.append((told, figure, path, job.formats))

    def _settle(self) -> None:
        """Wait for the picture that was given first, and save it here if the other could not."""
        told, figure, path, formats = self._given.pop(0)
        if told.result():
            _free(figure)
        else:
            _save(figure, path, formats, DPI["png"])


def _ask(other: OtherProcess, job: _Job) -> bool:
    other.give(_save_there, [job])
    return other.next() is not None


def _save_there(job: _Job) -> None:
    """Save a picture in the other process."""
    import matplotlib as mpl

    with mpl.rc_context(job.settings):
        figure = pickle.loads(job.figure)  # noqa: S301 - from the process that started this
        _save(figure, job.path, job.formats, job.dpi)


def _settings() -> dict[Any, Any]:
    """What was set in matplotlib since it was imported."""
    import matplotlib as mpl

    before = mpl.rcParamsOrig
    names = (name for name in mpl.rcParams if name not in _NOT_SENT)
    return {name: mpl.rcParams[name] for name in names if mpl.rcParams[name] != before[name]}


def _save(figure: Figure, path: Path, formats: Sequence[str], dpi: int) -> None:
    for suffix in formats:
        with atomic_path(path.with_name(f"{path.name}.{suffix}")) as temporary:
            figure.savefig(temporary, dpi=dpi, format=suffix, metadata=UNDATED[suffix])
    _free(figure)


def _free(figure: Figure) -> None:
    """Give back what a figure holds: it and its parts know each other, so it would stay a while."""
    from matplotlib.backend_bases import FigureCanvasBase

    figure.clear()
    FigureCanvasBase(figure)
