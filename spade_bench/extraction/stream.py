"""Reads the patches of many slides as one stream of full batches.

Reader threads keep ahead of whoever takes the batches, across the border of one slide and the
next, and the slides after the current one are opened and masked meanwhile. So a device that
encodes them never waits for a slide to end, unless reading as a whole is slower than encoding.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spade_bench.errors import DataError, UserError
from spade_bench.extraction.recipe import Settings

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BAD_INPUT", "DROPPED", "Batch", "Job", "Open", "PatchReader", "Source", "Stream"]

_CHUNK = 16  # patches a reader thread reads at a time
_OPEN_AHEAD = 2  # slides opened before they are needed
# What a damaged file can raise while it is read. Anything else is a bug and stops the run.
BAD_INPUT = (UserError, OSError, ValueError, KeyError, EOFError)
DROPPED = "dropped: "  # how the reason starts for which the checks of a section refuse it


@dataclass(frozen=True)
class PatchReader:
    """The patches of a slide that is open, to be read in any order.

    Attributes:
        n: Number of patches.
        read: Reads patches start to stop, (stop - start, px, px, 3) uint8; called by threads.
        coords: (n, 2) level-0 top-left corners, or None.
        barcodes: n spot barcodes, or None.
        attrs: Attributes for the features file.
        keep: Tells which of some patches are worth encoding, (k,) bool; None keeps all.
        finish: Called with the rows that were kept once all patches are read.
        close: Called when done.
    """

    n: int
    read: Callable[[int, int], np.ndarray]
    coords: np.ndarray | None = None
    barcodes: tuple[str, ...] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    keep: Callable[[np.ndarray], np.ndarray] | None = None
    finish: Callable[[np.ndarray], object] = lambda rows: None
    close: Callable[[], None] = lambda: None


class Job(Protocol):
    """One slide or sample to extract."""

    @property
    def slide_id(self) -> str:
        """Name of the slide or sample."""

    def inputs(self) -> Mapping[str, Any]:
        """What of the input determines the features, for the recipe."""

    def prepare(self, folder: Path) -> PatchReader:
        """Open the slide and find its patches; ``folder`` is where its features go."""


class Source(Protocol):
    """Slides to read."""

    def __len__(self) -> int:
        """How many are left."""

    def take(self) -> tuple[Job, Mapping[str, str]] | None:
        """Return the next one with its recipe; None where none is to be had at present."""


@dataclass
class Open:
    """A slide under way.

    Attributes:
        job: What it is.
        attrs: Its recipe.
        patches: What is read; None when it could not be opened.
        rows: Numbers of the patches kept so far, by chunk.
        features: Their features so far, by batch.
        error: Why it failed, if it did.
    """

    job: Job
    attrs: Mapping[str, str]
    patches: PatchReader | None = None
    rows: list[np.ndarray] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    error: BaseException | None = None
    given_out: int = 0  # patches handed to the readers
    closed: bool = False

    def close(self) -> None:
        """Close its file, once."""
        if self.patches is not None and not self.closed:
            self.closed = True
            self.patches.close()

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read patches and drop those not worth encoding: (k, px, px, 3) images, (k,) rows."""
        import numpy as np

        assert self.patches is not None
        images, rows = self.patches.read(start, stop), np.arange(start, stop)
        if self.patches.keep is None:
            return images, rows
        good = self.patches.keep(images)
        return images[good], rows[good]


@dataclass(frozen=True)
class Batch:
    """Patches of one or more slides, in order.

    Attributes:
        images: (n, px, px, 3) uint8, or None when there is nothing to encode.
        pieces: Slides and how many patches each has here, in order.
        complete: Slides whose last patch this batch holds, or that failed.
    """

    images: np.ndarray | None
    pieces: tuple[tuple[Open, int], ...]
    complete: tuple[Open, ...]


class Stream:
    """Iterates over the batches of all slides that are to be had.

    Every batch but the last is full. A slide that fails comes as complete with its error set.

    Args:
        todo: Jobs with their recipes, taken as they are needed.
        folder: Where features go.
        settings: Batch size and number of reader threads.
    """

    def __init__(self, todo: Source, folder: Path, settings: Settings) -> None:
        self._todo = todo
        self._folder = folder
        self._size = settings.batch_size
        self._chunk = min(_CHUNK, settings.batch_size)
        self._ahead = 2 * settings.readers() + -(-settings.batch_size // self._chunk)
        self._opener = ThreadPoolExecutor(1, "open")
        self._readers = ThreadPoolExecutor(settings.readers(), "read")
        self._opening: deque[tuple[Open, Future[PatchReader]]] = deque()
        self._reading: deque[_Chunk] = deque()
        self._current: Open | None = None
        self._live: list[Open] = []  # slides that may be open
        self._ready: deque[tuple[Open, np.ndarray | None]] = deque()  # None ends a slide
        self._count = 0  # patches in it
        self.opened: list[int] = []  # patches of each slide opened so far

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the readers, then close the slides that were being read."""
        for pool in (self._opener, self._readers):
            pool.shutdown(wait=True, cancel_futures=True)
        for _, future in self._opening:
            with contextlib.suppress(Exception):
                if not future.cancelled():
                    future.result().close()
        for live in self._live:
            live.close()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self._read_ahead()
            if not self._reading:
                break
            self._take(self._reading.popleft())
            while self._count >= self._size:
                self._read_ahead()  # what has opened meanwhile is read while this is encoded
                yield self._cut(self._size)
        if self._ready:
            yield self._cut(self._count)

    def waiting(self) -> int:
        """Number of slides that are not open yet."""
        return len(self._todo) + len(self._opening)

    def _read_ahead(self) -> None:
        """Hand chunks to the readers, of the next slides too, until enough are under way."""
        while len(self._reading) < self._ahead:
            slide = self._current or self._next()
            if slide is None:
                return
            if slide.patches is None:  # it failed to open
                self._reading.append(_Chunk(slide, None, last=True))
                continue
            start = slide.given_out
            slide.given_out = min(start + self._chunk, slide.patches.n)
            last = slide.given_out == slide.patches.n
            future = self._readers.submit(slide.read, start, slide.given_out)
            self._reading.append(_Chunk(slide, future, last))
            self._current = None if last else slide

    def _next(self) -> Open | None:
        """The next slide; None when there is none, or it is not open yet and others are read."""
        while len(self._opening) < _OPEN_AHEAD and (taken := self._todo.take()) is not None:
            slide = Open(*taken)
            self._opening.append((slide, self._opener.submit(slide.job.prepare, self._folder)))
        if not self._opening:
            return None
        slide, future = self._opening[0]
        if self._reading and not future.done():
            return None
        self._opening.popleft()
        try:
            patches = future.result()
        except BAD_INPUT as error:
            slide.error = error
            return slide
        if patches.n == 0:
            patches.close()
            slide.error = DataError("has no patches")
            return slide
        slide.patches = patches
        self._live = [*(other for other in self._live if not other.closed), slide]
        self.opened.append(patches.n)
        return slide

    def _take(self, chunk: _Chunk) -> None:
        """Wait for a chunk and queue its patches."""
        slide, last = chunk.slide, chunk.last
        if chunk.future is not None:
            try:
                # Also of a slide that has failed: it must not be closed under a running reader.
                images, rows = chunk.future.result()
                if slide.error is None:
                    slide.rows.append(rows)
                    if len(images):
                        self._ready.append((slide, images))
                        self._count += len(images)
            except BAD_INPUT as error:
                slide.error = slide.error or error
                if self._current is slide:  # read no further
                    self._current = None
                    self._reading.append(_Chunk(slide, None, last=True))
        if last:
            self._ready.append((slide, None))

    def _cut(self, size: int) -> Batch:
        """Take ``size`` patches, and the ends of slides right behind them, from the queue."""
        import numpy as np

        pieces: list[tuple[Open, int]] = []
        parts: list[np.ndarray] = []
        complete: list[Open] = []
        left = size
        while self._ready and (left or self._ready[0][1] is None):
            slide, images = self._ready.popleft()
            if images is None:
                complete.append(slide)
                continue
            if len(images) > left:
                self._ready.appendleft((slide, images[left:]))
                images = images[:left]
            pieces.append((slide, len(images)))
            parts.append(images)
            left -= len(images)
        self._count -= size
        joined = None if not parts else parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Batch(joined, tuple(pieces), tuple(complete))


@dataclass(frozen=True)
class _Chunk:
    """Patches being read; without a future, only the end of a slide."""

    slide: Open
    future: Future[tuple[np.ndarray, np.ndarray]] | None
    last: bool
