"""Runs an encoder over slides: reading, encoding and writing, one file per slide.

Batches cross the borders between slides (see `stream`), encoding runs in its own thread, or as many
as the encoder has use for, and finished slides are written by another. A slide that fails costs one
line; the others go on.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench import console
from spade_bench.errors import DataError, SystemFaultError, UserError, machine_fault
from spade_bench.extraction.outputs import check_width, checked_encode
from spade_bench.extraction.recipe import EncoderSource, Recipe, Settings, stored_recipe
from spade_bench.extraction.reuse import take_from
from spade_bench.extraction.sharing import LEASES
from spade_bench.extraction.stream import BAD_INPUT, DROPPED, Batch, Job, Open, Stream
from spade_bench.extraction.turns import Turns
from spade_bench.features.bags import features_folder, write_features
from spade_bench.leases import Leases

if TYPE_CHECKING:
    import numpy as np

    from spade_bench.types import PatchEncoder

__all__ = ["Summary", "run_jobs"]


# File systems take 255 bytes, of which a file under way needs a dot, a token and two suffixes.
_LONGEST_NAME = 230


@dataclass(frozen=True)
class Summary:
    """What an extraction did.

    Attributes:
        folder: Folder of the features.
        done: Slide id -> number of patches, extracted now.
        skipped: Slides that were complete already.
        failed: Slide id -> why, in one line.
        seconds: Wall-clock time.
    """

    folder: Path
    done: Mapping[str, int]
    skipped: tuple[str, ...]
    failed: Mapping[str, str]
    seconds: float

    def line(self) -> str:
        """One line for people."""
        patches = sum(self.done.values())
        parts = [f"{len(self.done)} extracted ({patches} patches in {self.seconds:.1f} s)"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} already there")
        if self.failed:
            names = list(self.failed)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"{len(names)} failed: {', '.join(names[:5])}{more}")
        return f"{'; '.join(parts)}; features in {self.folder}"


def run_jobs(
    jobs: Sequence[Job],
    source: EncoderSource,
    settings: Settings,
    out: Path,
    *,
    also: Sequence[Path] = (),
) -> Summary:
    """Extract the features of every job that has no current file yet.

    Args:
        jobs: Slides or samples, in any order.
        source: The encoder.
        settings: How to extract.
        out: Folder of the whole extraction.
        also: Folders of other extractions, whose files of the same identity and input are taken.

    Returns:
        What was done. Failures are in it and were printed; nothing is raised for them.

    Raises:
        UserError: When the settings make no sense, the encoder cannot be loaded, nothing can be
            written to ``out``, or it holds other images of the same files.
    """
    settings.check(source.patch_px)
    start = time.monotonic()
    mpp = source.mpp(settings)
    folder = features_folder(out, source.card.name, mpp, source.patch_px, settings.overlap)
    failed: dict[str, str] = {}
    share = _sharded(jobs, settings.shard)
    if others := [other / folder.relative_to(out) for other in also]:
        take_from(others, share, source, folder)
    todo, skipped = _plan(share, source, folder, failed)
    done: dict[str, int] = {}
    if todo:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        encoder = source.get()
        dim = getattr(encoder, "dim", None) or source.card.dim
        check_width([folder / f"{job.slide_id}.h5" for job in jobs], dim)  # of all shards
        elsewhere = _work_off(todo, source, settings, _Outcome(folder, done, failed))
        skipped = (*skipped, *elsewhere)
    return Summary(folder, done, skipped, failed, time.monotonic() - start)


def _work_off(
    todo: Sequence[tuple[Job, Recipe]],
    source: EncoderSource,
    settings: Settings,
    out: _Outcome,
) -> Sequence[str]:
    """Extract slides, those first that no other process works on; the ids of what others did."""
    folder = out.folder
    identity, recipes = source.loaded_identity(), {job.slide_id: recipe for job, recipe in todo}

    def is_current(job: Job) -> bool:
        stored = stored_recipe(folder / f"{job.slide_id}.h5")
        return stored is not None and not recipes[job.slide_id].changes(stored, source)

    work = [(job, recipe.attrs(identity)) for job, recipe in todo]
    turns = Turns(
        work, Leases(folder / LEASES, told_by=lambda _: [folder]), is_current, settings.sharing
    )
    with (
        console.progress(f"Extracting {source.card.name}", None, "patches") as bar,
        closing(turns),
    ):
        pace = _Pace(bar, len(work))
        while True:
            with Stream(turns, folder, settings) as stream:
                pace.begin(stream)
                _Run(source.get(), pace, turns, out).over(stream)
            if not turns.wait():
                break
    out.failed.update(turns.failed)
    return turns.elsewhere


def _sharded(jobs: Sequence[Job], shard: tuple[int, int] | None) -> list[Job]:
    ordered = sorted(jobs, key=lambda job: job.slide_id)
    return ordered if shard is None else ordered[shard[0] :: shard[1]]


def _plan(
    jobs: Sequence[Job], source: EncoderSource, folder: Path, failed: dict[str, str]
) -> tuple[list[tuple[Job, Recipe]], tuple[str, ...]]:
    """Tell what is to be done from what is there."""
    todo: list[tuple[Job, Recipe]] = []
    skipped: list[str] = []
    stale: Counter[str] = Counter()
    for job in jobs:
        try:
            _check_name(job.slide_id)
            recipe = Recipe(job.inputs())
            stored = stored_recipe(folder / f"{job.slide_id}.h5")
        except BAD_INPUT as error:
            _fail(failed, job.slide_id, error)
            continue
        changes = () if stored is None else recipe.changes(stored, source)
        if stored is not None and not changes:
            skipped.append(job.slide_id)
            continue
        todo.append((job, recipe))
        if changes:
            stale["; ".join(changes)] += 1
    _check_series(todo, folder)
    for changed, n in stale.items():
        files = "1 file was" if n == 1 else f"{n} files were"
        again = "is" if n == 1 else "are"
        console.say(f"{files} made otherwise and {again} made again ({changed})")
    return todo, tuple(skipped)


def _check_series(todo: Sequence[tuple[Job, Recipe]], folder: Path) -> None:
    """Refuse to replace the features of one image of a file by those of another.

    Raises:
        DataError: Naming the first such slide.
    """
    for job, recipe in todo:
        stored = stored_recipe(folder / f"{job.slide_id}.h5")
        before = None if stored is None or not stored.hash else stored.values.get("series") or 0
        series = recipe.inputs.get("series") or 0
        if before is not None and before != series:
            raise DataError(
                f"holds features of image {before} of {job.slide_id}, and "
                f"image {series} is asked for",
                where=str(folder),
                fix="Give another --out for this image, or remove these features",
            )


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Turn what the machine answers while results are written into an error that ends the run.

    Raises:
        SystemFaultError: When the disk is full, the place is no folder, and the like.
    """
    try:
        yield
    except OSError as error:
        fault = machine_fault(error)
        if fault is None:
            raise
        raise SystemFaultError(fault.what, where=str(place), fix=fault.fix) from error


def _check_name(slide_id: str) -> None:
    """Refuse what cannot name a features file, before anything is encoded for it.

    Raises:
        DataError: When a name is too long for a file system, or is not text.
    """
    try:
        size = len(slide_id.encode())
    except UnicodeEncodeError as error:
        name = slide_id.encode(errors="backslashreplace").decode()
        raise DataError("the name is not valid UTF-8", where=name, fix="Rename the file") from error
    if size > _LONGEST_NAME:
        raise DataError(
            f"the name is {size} bytes long, and a features file can have {_LONGEST_NAME}",
            where=slide_id,
            fix="Rename the file",
        )


@dataclass(frozen=True)
class _Outcome:
    """Where features go, slide id -> number of patches, and slide id -> why it failed."""

    folder: Path
    done: dict[str, int]
    failed: dict[str, str]


class _Run:
    """Encodes the batches of a stream and writes the slides they complete."""

    def __init__(
        self,
        encoder: PatchEncoder,
        pace: _Pace,
        turns: Turns,
        out: _Outcome,
    ) -> None:
        self._encoder, self._folder, self._pace, self._turns = encoder, out.folder, pace, turns
        self._encode_checked = checked_encode(encoder, finite=False)  # slides are checked whole
        self._done, self._failed = out.done, out.failed
        self._writing: deque[tuple[Open, Future[int]]] = deque()

    def over(self, stream: Stream) -> None:
        """Encode and write everything; one batch waits while as many as possible are encoded."""
        lanes = int(getattr(self._encoder, "lanes", 1))
        encoding: deque[tuple[Batch, Future[np.ndarray]]] = deque()
        encoders, writer = ThreadPoolExecutor(lanes, "encode"), ThreadPoolExecutor(1, "write")
        try:
            for batch in stream:
                encoding.append((batch, encoders.submit(self._encode, batch)))
                while len(encoding) > lanes:
                    self._settle(*encoding.popleft(), writer)
            while encoding:
                self._settle(*encoding.popleft(), writer)
            while self._writing:
                self._written(*self._writing.popleft())
        finally:
            encoders.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True)

    def _encode(self, batch: Batch) -> np.ndarray:
        """Features of a batch, (n, dim) float32."""
        import numpy as np

        if batch.images is None:
            return np.empty((0, 0), dtype=np.float32)
        return self._encode_checked(batch.images)  # (n, dim)

    def _settle(self, batch: Batch, future: Future[np.ndarray], writer: ThreadPoolExecutor) -> None:
        """Wait for a batch, share its features out, and have complete slides written."""
        features, at = future.result(), 0
        for slide, n in batch.pieces:
            slide.features.append(features[at : at + n])
            at += n
        self._pace.encoded(at, batch.pieces[-1][0] if batch.pieces else None)
        for slide in batch.complete:
            self._writing.append(
                (slide, writer.submit(_finish, slide, self._folder, self._encoder))
            )
        while self._writing and self._writing[0][1].done():
            self._written(*self._writing.popleft())

    def _written(self, slide: Open, future: Future[int]) -> None:
        name, why = slide.job.slide_id, None
        try:
            self._done[name] = future.result()
        except SystemFaultError:
            raise  # the next slide would fail alike
        except BAD_INPUT as error:
            why = _fail(self._failed, name, error)
        self._turns.over(name, why)
        self._pace.finished()


def _finish(slide: Open, folder: Path, encoder: PatchEncoder) -> int:
    """Close a slide and write its features; the number of patches.

    Raises:
        DataError: When it failed, or its features are not finite.
        SystemFaultError: When nothing can be written.
    """
    import numpy as np

    patches = slide.patches
    slide.close()
    if slide.error is not None:
        raise slide.error
    assert patches is not None
    rows = np.concatenate(slide.rows)  # (k,)
    with _writing(folder):
        patches.finish(rows)
    if not len(rows):
        raise DataError(f"none of {patches.n} patches is sharp")
    features = np.concatenate(slide.features)  # (k, dim)
    slide.features.clear()
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise DataError(f"{bad} of {len(features)} patches have features that are not finite")
    with _writing(folder):
        write_features(
            folder / f"{slide.job.slide_id}.h5",
            features,
            None if patches.coords is None else patches.coords[rows],
            slide_id=slide.job.slide_id,
            encoder=encoder.card.name,
            barcodes=None if patches.barcodes is None else [patches.barcodes[i] for i in rows],
            attrs={**patches.attrs, **slide.attrs},
        )
    return len(features)


class _Pace:
    """Counts patches, which slides of all sizes have in common; rate and time left follow."""

    def __init__(self, bar: console.Progress, slides: int) -> None:
        self._bar, self._slides = bar, slides
        self._stream: Stream | None = None  # the one that is read at present
        self._finished = 0
        self._encoded = 0
        self._before = 0  # patches of former streams

    def begin(self, stream: Stream) -> None:
        """Count the patches of another stream."""
        self._stream, self._before = stream, self._encoded

    def encoded(self, n: int, slide: Open | None) -> None:
        """Note that ``n`` more patches are encoded, the last of them of ``slide``."""
        self._encoded += n
        assert self._stream is not None
        opened = self._stream.opened
        # Slides not opened yet are taken to be as large as the others.
        expected = sum(opened) * (1 + self._stream.waiting() / max(len(opened), 1))
        self._bar.expect(max(round(self._before + expected), self._encoded))
        name = f", {slide.job.slide_id}" if slide else ""
        self._bar.advance(n, f"({self._finished}/{self._slides} slides{name})")

    def finished(self) -> None:
        """Note that a slide is done or has failed."""
        self._finished += 1
        if self._finished == self._slides:
            self._bar.expect(self._encoded)  # patches that were not sharp are never encoded
        self._bar.advance(0, f"({self._finished}/{self._slides} slides)")


def _fail(failed: dict[str, str], slide_id: str, error: BaseException) -> str:
    """Note that a slide failed, and say it; the line."""
    name = slide_id.encode(errors="backslashreplace").decode()
    if isinstance(error, UserError):
        text = error.at(name)
    else:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    line = text if text.startswith(name) else f"{name}: {text}"
    failed[name] = line
    console.warn(line if line.startswith(f"{name}: {DROPPED}") else f"skipped {line}")
    return line
