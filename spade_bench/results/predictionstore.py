"""Case-level predictions on disk, from which every number can be rebuilt.

Cells of one encoder, task and head lie together in Parquet files, the parts,
``predictions/TASK/ENCODER/HEAD-DIGEST.parquet``: one part for each stack of cells that a process
finished (see :mod:`spade_bench.results.predictiontables` for the columns). The digest is that of
the file. A part is written once, under a temporary name that is then changed, and never touched
again, so any number of processes write side by side without a lock, on network file systems too:
where two make the same cells, they write the same file, or two of which the row in
``results.jsonl`` says by its ``predictions_sha256`` which counts.

Genes in the spots of sections have one file per cell, ``predictions/RU/RUN_ID.npz`` (see
:mod:`spade_bench.results.spotpredictions`), and folders of older versions one csv per cell,
``predictions/RU/RUN_ID.csv``; there the row carries the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from spade_bench.errors import DataError
from spade_bench.files import atomic_path, file_name
from spade_bench.results.predictioncsv import predictions_from_csv
from spade_bench.results.predictions import Predictions
from spade_bench.results.predictiontables import TEXTS, PredictionTable, tables_of
from spade_bench.results.spotpredictions import SpotPredictions, spot_bytes, spots_from

__all__ = [
    "StoredPredictions",
    "predictions_path",
    "read_predictions",
    "write_predictions",
    "write_spots",
]

_FOLDER = "predictions"
_PART = re.compile(r"(?P<head>.+)-(?P<digest>[0-9a-f]{16})\.parquet")
_AGAIN = "Repeat the `spade-bench run` command, which computes it again, or copy the file anew"


class Owner(Protocol):
    """Whose predictions: a cell, or its row."""

    @property
    def run_id(self) -> str:
        """Hash of what determines the numbers."""

    @property
    def encoder(self) -> str:
        """Label of the encoder."""

    @property
    def task(self) -> str:
        """Name of the task."""

    @property
    def head(self) -> str:
        """Name of the head."""


def predictions_path(out: Path, run_id: str, suffix: str = "csv") -> Path:
    """Where a cell has a file of its own: npz of spots, csv in folders of older versions."""
    name = file_name(run_id)  # a hash, unless the results come from a stranger
    return out / _FOLDER / name[:2] / f"{name}.{suffix}"


def write_predictions(
    out: Path, encoder: str, task: str, head: str, cells: Mapping[str, Predictions]
) -> dict[str, str]:
    """Write the predictions of cells so that metrics rebuilt from them are the stored ones.

    Args:
        out: Folder of the results.
        encoder: Label of their encoder.
        task: Name of their task.
        head: Name of their head.
        cells: Predictions by run id, not of spots.

    Returns:
        SHA-256 of the predictions by run id, which the rows carry.
    """
    digests: dict[str, str] = {}
    for table in tables_of(cells):
        content = _bytes(table)
        digest = hashlib.sha256(content).hexdigest()[:16]
        folder = out / _FOLDER / file_name(task) / file_name(encoder)
        # Durable: the rows that speak of a part are written after it.
        with atomic_path(folder / f"{file_name(head)}-{digest}.parquet") as temporary:
            temporary.write_bytes(content)
        digests |= {run_id: table.sha256(run_id) for run_id in table.cells}
    return digests


def write_spots(out: Path, run_id: str, spots: SpotPredictions) -> str:
    """Write predictions of genes in spots; return the SHA-256 of the file for the row."""
    content = spot_bytes(spots)
    # Not durable: the row's checksum tells whether the file is whole, and the cell runs again.
    with atomic_path(predictions_path(out, run_id, "npz"), durable=False) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


class StoredPredictions:
    """Reads the predictions of a folder; each part once while cells of its place are asked for.

    Args:
        out: Folder of the results.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._place: tuple[str, str, str] | None = None
        self._folder, self._head = out, ""
        self._parts: dict[Path, PredictionTable | DataError] = {}

    def of(self, owner: Owner, *, sha256: str = "") -> Predictions:
        """Return the predictions of a cell.

        Args:
            owner: The cell, or its row.
            sha256: What its row says of them; empty where an older row says nothing.

        Raises:
            DataError: When they are missing, damaged or not those of the row.
        """
        place = (owner.task, owner.encoder, owner.head)
        if place != self._place:
            self._place, self._parts = place, {}
            inside = self._out / _FOLDER
            self._folder = inside / file_name(owner.task) / file_name(owner.encoder)
            self._head = file_name(owner.head)
        found = self._found(owner.run_id, sha256)
        if found is None:  # perhaps written since
            self._load()
            found = self._found(owner.run_id, sha256)
        if found is not None:
            return _predictions(*found, owner.run_id)
        own_file = _own_file(self._out, owner.run_id, sha256)
        if own_file is not None:
            return own_file
        raise self._missing(owner.run_id)

    def _found(self, run_id: str, sha256: str) -> tuple[Path, PredictionTable] | None:
        for path, part in self._parts.items():
            if isinstance(part, DataError) or run_id not in part.cells:
                continue
            if not sha256 or part.sha256(run_id) == sha256:
                return path, part
        return None

    def _load(self) -> None:
        """Read the parts of a place that have not been read."""
        for path in _parts_in(self._folder, self._head):
            if path not in self._parts:
                try:
                    self._parts[path] = _read_part(path)
                except DataError as error:
                    self._parts[path] = error

    def _missing(self, run_id: str) -> DataError:
        """Say what became of predictions that are not there as the row has them."""
        for path, part in self._parts.items():
            if not isinstance(part, DataError) and run_id in part.cells:
                return DataError(
                    "predictions were damaged or edited: their checksum is not the row's",
                    where=str(path),
                    fix=_AGAIN,
                )
        damaged = [part for part in self._parts.values() if isinstance(part, DataError)]
        if damaged:
            return damaged[0]
        return DataError("no predictions for a finished row", where=str(self._folder))


def read_predictions(out: Path, run_id: str, *, sha256: str = "") -> Predictions:
    """Read the predictions of a run id of which nothing else is known: every part is looked at.

    Where there is a row, `StoredPredictions` finds them at once.

    Args:
        out: Folder of the results.
        run_id: Whose.
        sha256: What its row says of them; empty where an older row says nothing.

    Raises:
        DataError: When they are missing, damaged or not those of the row.
    """
    damaged: DataError | None = None
    for path in sorted((out / _FOLDER).glob("*/*/*.parquet")):
        try:
            part = _read_part(path)
        except DataError as error:
            damaged = damaged or error
            continue
        if run_id in part.cells and (not sha256 or part.sha256(run_id) == sha256):
            return _predictions(path, part, run_id)
    own_file = _own_file(out, run_id, sha256)
    if own_file is not None:
        return own_file
    raise damaged or DataError("no predictions for a finished row", where=str(out / _FOLDER))


def _own_file(out: Path, run_id: str, sha256: str) -> Predictions | None:
    """Predictions of a cell that has a file of its own; None where it has none."""
    for suffix in ("csv", "npz"):
        path = predictions_path(out, run_id, suffix)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise DataError(
                "predictions were damaged or edited: their checksum is not the row's",
                where=str(path),
                fix=_AGAIN,
            )
        if suffix == "npz":
            return Predictions.of_spots(spots_from(content, str(path)))
        return predictions_from_csv(content, str(path))
    return None


def _predictions(path: Path, part: PredictionTable, run_id: str) -> Predictions:
    try:
        return part.predictions(run_id)
    except ValueError as error:
        raise DataError(f"damaged predictions ({error})", where=str(path)) from error


def _parts_in(folder: Path, head: str) -> Iterable[Path]:
    """Parts of a head, by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = ((name, _PART.fullmatch(name)) for name in names)
    return [folder / name for name, match in matches if match and match["head"] == head]


def _bytes(table: PredictionTable) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    texts = ["run_id", *(name for name in table.names if name in table.texts)]
    pq.write_table(table.to_arrow(), buffer, compression="zstd", use_dictionary=texts)
    return buffer.getvalue()


def _read_part(path: Path) -> PredictionTable:
    """Read a part.

    Raises:
        DataError: When its content is not that of its name, or it is not of predictions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content, named = path.read_bytes(), _PART.fullmatch(path.name)
    if named is None or hashlib.sha256(content).hexdigest()[:16] != named["digest"]:
        raise DataError(
            "predictions were damaged or edited: their checksum is not that in the name of the "
            "file",
            where=str(path),
            fix=_AGAIN,
        )
    try:
        # `read_table` looks for a data set of many files, and imports pandas.
        there = pq.ParquetFile(pa.BufferReader(content)).schema_arrow
        texts = [one.name for one in there if one.name in TEXTS and not one.type.num_fields]
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"damaged predictions ({error})", where=str(path)) from error
    return PredictionTable.from_arrow(table, str(path))
