"""The append-only ``results.jsonl``: safe for several writers, mended after a crash."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from spade_bench.console import warn
from spade_bench.errors import DataError, name_some
from spade_bench.leases import exclusive
from spade_bench.results.predictions import Predictions
from spade_bench.results.predictionstore import StoredPredictions
from spade_bench.results.rows import EditedRowError, Row

__all__ = ["Finished", "ResultStore", "stored_in", "whole_predictions"]

_STORED = ("results.jsonl", "results.jsonl.lock", "predictions", "heads", "episodes", "configs",
           "cohorts", "plans", "jobs")  # fmt: skip

_LOOKS, _PAUSE = 100, 0.02  # at a file that is longer than what is read of it, and seconds between

# Windows has a mode in which it writes other line ends than it is given.
_APPENDING = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


def stored_in(folders: Iterable[Path]) -> list[Path]:
    """Return what `run` keeps in some results folders, which no output may replace."""
    return [folder / name for folder in folders for name in _STORED]


class ResultStore:
    """Rows of one output folder.

    Args:
        out: The folder; it is made when the first row is written.

    Attributes:
        problems: Lines that :meth:`rows` could not read, each as a sentence.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out / "results.jsonl"
        self.problems: list[str] = []
        self._read = 0  # bytes of whole lines that were read

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows in one write, one process at a time; a torn line before them is mended."""
        text = "".join(row.to_line() for row in rows).encode()
        if not text:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with exclusive(self.out / ".results.lease"):
            handle = os.open(self.path, _APPENDING, 0o644)
            try:
                _mend(handle, self.path)
                view = memoryview(text)
                while view:  # one write in practice; a signal may cut it short
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
            finally:
                os.close(handle)

    def rows(self) -> list[Row]:
        """Return the standing row of every run id, in order of first appearance.

        A finished row stands against failed ones, a later row against an earlier one of the same
        status. A row that failed before its inputs were known (it has none) stands until the same
        encoder, task, head and protocol finish a cell. A torn last line is passed over, with a
        warning; a complete line that is no row, was edited, is of another version, or has the run
        id of another cell is named in `problems`, unless it was edited and its cell has been
        computed again.
        """
        self.problems = []
        self._read = 0
        if not self.path.exists():
            return []
        standing: dict[str, Row] = {}
        problems: list[DataError] = []
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                row = Row.from_line(line, f"{self.path} line {number}")
            except DataError as error:
                problems.append(error)
                continue
            before = standing.get(row.run_id)
            if before is not None and before.cell != row.cell:
                what = f"has the run id {row.run_id} of another cell, which stands above it"
                problems.append(DataError(what, where=f"{self.path} line {number}"))
                continue
            if before is None or row.status == "ok" or before.status != "ok":
                standing[row.run_id] = row
        whole = {row.run_id for row in standing.values() if row.status == "ok"}
        self.problems = [
            str(error)
            for error in problems
            if not (isinstance(error, EditedRowError) and error.run_id in whole)
        ]
        done = {_name(row) for row in standing.values() if row.status == "ok"}
        return [row for row in standing.values() if not (_unknown(row) and _name(row) in done)]

    def _lines(self) -> Iterator[str]:
        """Lines one by one: all at once, 100,000 of them would take three times their size."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                # An editor's mark may lead.
                text = line.decode("utf-8" if number else "utf-8-sig", errors="replace")
                if line.endswith(b"\n"):
                    self._read += len(line)
                    yield text
                    continue
                if text:
                    warn(f"{self.path}: the last line is incomplete and is not counted")
                return  # its rest, written meanwhile by another process, is no line

    def appended(self) -> list[Row]:
        """Return rows that came after those that were read last, by this process or another."""
        whole = self._tail().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        rows = []
        for line in whole.decode("utf-8", errors="replace").split("\n") if whole else ():
            with contextlib.suppress(DataError):  # `rows` names what is no row
                rows.append(Row.from_line(line, str(self.path)))
        return rows

    def _tail(self) -> bytes:
        """What stands behind the lines that were read; empty where there is no file."""
        tail = b""
        for _ in range(_LOOKS):
            try:
                with self.path.open("rb") as file:  # to open it is what makes clients of NFS ask
                    size = os.fstat(file.fileno()).st_size
                    file.seek(self._read)
                    tail = file.read()
            except FileNotFoundError:
                break
            if self._read + len(tail) >= size:
                break
            time.sleep(_PAUSE)  # a client may know the new length before it has the new content
        return tail


class Finished:
    """Which cells are done: a row says so, and its predictions are whole.

    Predictions are read when a cell is asked for, once each; damaged ones are named, and then
    their cell counts as not done.

    Args:
        out: Folder of the results.
        rows: Standing rows.
    """

    def __init__(self, out: Path, rows: Iterable[Row]) -> None:
        self._stored = StoredPredictions(out)
        self._rows = {row.run_id: row for row in rows if row.status == "ok"}
        self._whole: dict[str, bool] = {}

    def __contains__(self, run_id: object) -> bool:
        """Whether a run id is done and need not run again."""
        row = self._rows.get(str(run_id))
        if row is None:
            return False
        if row.run_id not in self._whole:
            try:
                whole_predictions(self._stored, row)
                self._whole[row.run_id] = True
            except DataError as error:
                self._whole[row.run_id] = False
                warn(f"{error} The cell runs again")
        return self._whole[row.run_id]

    def predictions(self, run_id: str) -> Predictions:
        """Return the predictions of a cell that is done.

        Raises:
            DataError: When it is not done, or they are missing or damaged.
        """
        row = self._rows.get(run_id)
        if row is None:
            raise DataError("has not finished", where=f"cell {run_id}")
        return self._stored.of(row, sha256=row.predictions_sha256)

    def add(self, rows: Iterable[Row]) -> None:
        """Count cells that have just been stored."""
        for row in rows:
            self._rows[row.run_id] = row
            self._whole[row.run_id] = True


def whole_predictions(stored: StoredPredictions, row: Row) -> Predictions:
    """Read the predictions behind a finished row, and make sure that they are the row's.

    Args:
        stored: The predictions of its folder.
        row: The row.

    Raises:
        DataError: When they are missing, damaged, hold what cannot be, or are of another number
            of cases.
    """
    from spade_bench.statistics.evaluate import metrics_of

    name = f"{row.encoder} {row.head} on {row.task}"
    try:
        predictions = stored.of(row, sha256=row.predictions_sha256)
    except DataError as error:
        raise DataError(str(error), where=name) from error
    if fault := predictions.fault():
        raise DataError(f"{fault} (cell {row.run_id})", where=name)
    known = metrics_of(predictions.kind)
    if unknown := [metric for metric in row.metrics if metric not in known]:
        what = f"its predictions are of {predictions.kind}, which this version does not score by"
        raise DataError(f"{what} {name_some(unknown)} (cell {row.run_id})", where=name)
    wanted = row.n.get("test")
    if wanted is not None and len(predictions.case_ids) != wanted:
        what = f"its predictions hold {len(predictions.case_ids)} of {wanted} cases"
        raise DataError(f"{what} (cell {row.run_id})", where=name)
    return predictions


def _unknown(row: Row) -> bool:
    """Whether a row failed before its inputs and episodes were known."""
    place = (row.k_shot, row.draw, row.fold)
    return row.status == "failed" and not row.inputs and place == (None, None, None)


def _name(row: Row) -> tuple[str, str, str, str]:
    return row.encoder, row.task, row.head, row.protocol


def _mend(handle: int, path: Path) -> None:
    """Cut a line that a crash left unfinished; called under the lock."""
    size = os.fstat(handle).st_size
    if size == 0 or _read_at(handle, 1, size - 1) == b"\n":
        return
    end, block = size, 1 << 16
    while end > 0:
        start = max(0, end - block)
        newline = _read_at(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    warn(f"{path}: removing an incomplete last line of {size - end} bytes")
    os.ftruncate(handle, end)


def _read_at(handle: int, size: int, offset: int) -> bytes:
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, size)
