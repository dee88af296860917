"""Predictions of many cells as one table: a row per cell and case, the cells one after another.

Every table has ``run_id`` and ``case_id``. Then, for classification: ``label`` and a column
``score:CLASS`` per class; for regression: ``value, predicted``; for survival: ``part, event,
duration_days, risk`` where the part is test or train: metrics that correct for censoring need the
training cases, which are never part of a score. Where the cases are slides, a last column
``patient_id`` says whose they are, blank for training cases.

What a cell's row proves of its predictions (``predictions_sha256``) is a SHA-256 over the canonical
JSON of the names of the columns without ``run_id``, followed for each of them by its content: the
SHA-256 of the JSON of the list of texts, or the little-endian bytes of float64 numbers. It depends
on nothing else: not on the file, its compression, or which cells stand beside.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.results.predictions import Predictions

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["PATIENT", "REGRESSION", "SCORE", "SURVIVAL", "TEXTS", "PredictionTable",
           "are_predictions", "predictions_sha256", "tables_of"]  # fmt: skip

TEXTS = ("run_id", "case_id", "label", "part", "patient_id")
SURVIVAL = ["case_id", "part", "event", "duration_days", "risk"]
REGRESSION = ["case_id", "value", "predicted"]
SCORE, PATIENT = "score:", "patient_id"


@dataclass(frozen=True)
class _Texts:
    """A column of texts: each distinct text once, and which it is row by row."""

    codes: NDArray[np.int64]
    values: tuple[str, ...]


@dataclass(frozen=True)
class PredictionTable:
    """Predictions of cells that have the same columns.

    Attributes:
        texts: Columns of texts, ``run_id`` among them.
        numbers: Columns of float64 numbers.
        names: Names of the columns without ``run_id``, in order.
    """

    texts: Mapping[str, _Texts]
    numbers: Mapping[str, NDArray[np.float64]]
    names: tuple[str, ...]

    @classmethod
    def from_arrow(cls, table: pa.Table, where: str) -> PredictionTable:
        """Look at a table that was read.

        Raises:
            DataError: When it is not one of predictions, a column holds something else than texts
                or numbers, a value is absent, or the rows of a cell do not stand together.
        """
        import pyarrow as pa

        names = tuple(name for name in table.column_names if name != "run_id")
        whole = len(set(table.column_names)) == table.num_columns == len(names) + 1
        if not whole or not are_predictions([name for name in names if name != PATIENT]):
            raise DataError("not a file of predictions", where=where)
        try:
            columns = {name: table.column(name).combine_chunks() for name in table.column_names}
            texts = {name: _texts(name, columns[name]) for name in columns if name in TEXTS}
            numbers = {n: _numbers(n, columns[n]) for n in columns if n not in TEXTS}
            found = cls(texts, numbers, names)
            found._stand_together()
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"damaged predictions ({error})", where=where) from error
        return found

    def to_arrow(self) -> pa.Table:
        """Return the table as Arrow has it, texts as dictionaries."""
        import pyarrow as pa

        columns: dict[str, Any] = {}
        for name in ("run_id", *self.names):
            if name in self.texts:
                column = self.texts[name]
                codes = pa.array(column.codes, pa.int32())
                values = pa.array(column.values, pa.string())
                columns[name] = pa.DictionaryArray.from_arrays(codes, values)
            else:
                columns[name] = pa.array(self.numbers[name], pa.float64())
        return pa.table(columns)

    @cached_property
    def cells(self) -> dict[str, slice]:
        """Rows of each run id, which stand together."""
        return dict(self._runs)

    @cached_property
    def _runs(self) -> list[tuple[str, slice]]:
        """Stretches of rows with one run id, in order."""
        import numpy as np

        run = self.texts["run_id"]
        edges = np.flatnonzero(np.diff(run.codes)) + 1
        starts = [0, *edges.tolist()] if len(run.codes) else []
        ends = [*edges.tolist(), len(run.codes)] if starts else []
        return [
            (run.values[run.codes[start]], slice(start, end))
            for start, end in zip(starts, ends, strict=True)
        ]

    def _stand_together(self) -> None:
        """Refuse cells whose rows lie apart: it is not known which of them count.

        Raises:
            ValueError: Naming the first.
        """
        if len(self.cells) != len(self._runs):
            times = Counter(run_id for run_id, _ in self._runs)
            raise ValueError(f"the rows of cell {times.most_common(1)[0][0]} do not stand together")

    @cached_property
    def _seen(self) -> dict[tuple[str, bytes], tuple[tuple[str, ...], bytes]]:
        """Lists of texts that cells share, such as their cases, with the digest of each."""
        return {}

    def _listed(self, name: str, rows: slice) -> tuple[tuple[str, ...], bytes]:
        """Texts of some rows with their digest; equal ones are made once."""
        column = self.texts[name]
        codes = column.codes[rows]
        key = (name, codes.tobytes())
        if key not in self._seen:
            texts = tuple(column.values[i] for i in codes.tolist())
            digest = hashlib.sha256(json.dumps(texts).encode()).digest()
            self._seen[key] = texts, digest
        return self._seen[key]

    @cached_property
    def _headed(self) -> hashlib._Hash:
        """Digest of the names alone, with which that of every cell begins."""
        return hashlib.sha256(json.dumps(list(self.names)).encode())

    def sha256(self, run_id: str) -> str:
        """Return the digest of the predictions of a cell, which its row carries."""
        rows = self.cells[run_id]
        digest = self._headed.copy()
        for name in self.names:
            if name in self.texts:
                digest.update(self._listed(name, rows)[1])
            else:
                digest.update(self.numbers[name][rows].astype("<f8", copy=False).tobytes())
        return digest.hexdigest()

    def predictions(self, run_id: str) -> Predictions:
        """Return the predictions of a cell; arrays are views of the table where they can be.

        Raises:
            ValueError: When a label is no class, or a part neither test nor train.
        """
        rows = self.cells[run_id]
        found = self._survival(rows) if "part" in self.texts else self._cases(rows)
        if PATIENT in self.texts:
            patients, _ = self._listed(PATIENT, rows)
            found = replace(found, patients=patients[: len(found.case_ids)])
        return found

    @cached_property
    def _scores(self) -> NDArray[np.float64]:
        """Scores of all rows, (rows, C)."""
        import numpy as np

        columns = [n for n in self.names if n.startswith(SCORE) or n in {"predicted", "risk"}]
        return np.stack([self.numbers[name] for name in columns], axis=1)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(n.removeprefix(SCORE) for n in self.names if n.startswith(SCORE))

    @cached_property
    def _targets(self) -> NDArray[Any]:
        """Target of every row: (rows,) class or value, or (rows, 2) event and days."""
        import numpy as np

        if "label" in self.texts:
            label = self.texts["label"]
            index = {name: i for i, name in enumerate(self._classes)}
            at = np.array([index.get(name, -1) for name in label.values], dtype=np.int64)
            return at[label.codes]
        if "event" in self.numbers:
            return np.stack([self.numbers["event"], self.numbers["duration_days"]], axis=1)
        return self.numbers["value"]

    @cached_property
    def _shared(self) -> dict[bytes, NDArray[Any]]:
        """Targets that cells share, by their bytes."""
        return {}

    def _target(self, rows: slice) -> NDArray[Any]:
        """Target of some rows; equal ones are one array, so that who compares sees it at once."""
        target = self._targets[rows]
        key = target.tobytes()
        if key not in self._shared:
            if self._classes and (target < 0).any():
                raise ValueError("a label is none of the classes")
            self._shared[key] = target.copy()  # a view would keep those of all rows
        return self._shared[key]

    def _cases(self, rows: slice) -> Predictions:
        target = self._target(rows)
        ids, _ = self._listed("case_id", rows)
        return Predictions(ids, self._classes, target, self._scores[rows])

    def _survival(self, rows: slice) -> Predictions:
        ids, _ = self._listed("case_id", rows)
        parts, _ = self._listed("part", rows)
        n = parts.count("test")
        if not n or parts != ("test",) * n + ("train",) * (len(parts) - n):
            raise ValueError("a part is neither test nor train")
        tested, trained = slice(rows.start, rows.start + n), slice(rows.start + n, rows.stop)
        told = Predictions(ids[:n], (), self._target(tested), self._scores[tested])
        if n == len(ids):
            return told
        return replace(
            told,
            train_ids=ids[n:],
            train_target=self._target(trained),
            train_scores=self._scores[trained],
        )


def are_predictions(columns: Sequence[str]) -> bool:
    """Whether columns, those of run id and patient left out, are those of predictions."""
    of_classes = (
        list(columns[:2]) == ["case_id", "label"]
        and len(columns) > 2
        and all(name.startswith(SCORE) for name in columns[2:])
        and len(set(columns)) == len(columns)
    )
    return of_classes or list(columns) in (SURVIVAL, REGRESSION)


def _texts(name: str, column: pa.Array) -> _Texts:
    """Look at a column of texts.

    Raises:
        ValueError: When it holds something else, or a text is absent.
    """
    import numpy as np
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"{name} holds {kind}, not texts")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = column.dictionary.to_pylist()
    if None in values:  # a null may also stand among the texts themselves
        raise ValueError(f"{name} is empty in some rows")
    codes = _plain_numbers(name, column.indices).astype(np.int64)
    return _Texts(codes, tuple(values))


def _numbers(name: str, column: pa.Array) -> NDArray[np.float64]:
    """Look at a column of numbers.

    Raises:
        ValueError: When it holds something else, or a number is absent.
    """
    import numpy as np
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ValueError(f"{name} holds {column.type}, not numbers")
    return _plain_numbers(name, column).astype(np.float64)


def _plain_numbers(name: str, column: pa.Array) -> NDArray[Any]:
    """Numbers of an Arrow array; `to_numpy` would import pandas, which takes its time.

    Raises:
        ValueError: When one is absent.
    """
    import numpy as np

    if column.null_count:
        raise ValueError(f"{name} is empty in {column.null_count} of {len(column)} rows")
    return np.from_dlpack(column)


def predictions_sha256(predictions: Predictions) -> str:
    """Return the digest that the row of a cell carries, whatever its predictions are stored in."""
    return _table({"": predictions}).sha256("")


def tables_of(cells: Mapping[str, Predictions]) -> Iterator[PredictionTable]:
    """Make tables of the predictions of cells, those with the same columns in one.

    Args:
        cells: Predictions by run id.
    """
    alike: dict[tuple[str, tuple[str, ...], bool], dict[str, Predictions]] = {}
    for run_id, one in cells.items():
        key = (one.kind, one.classes, bool(one.patients))
        alike.setdefault(key, {})[run_id] = one
    yield from map(_table, alike.values())


def _table(cells: Mapping[str, Predictions]) -> PredictionTable:
    import numpy as np

    every = list(cells.values())
    first = every[0]
    texts: dict[str, _Texts] = {}
    numbers: dict[str, NDArray[np.float64]] = {}
    survival = first.survival
    ids = [[*one.case_ids, *(one.train_ids if survival else ())] for one in every]
    sizes = [len(one) for one in ids]
    texts["run_id"] = _Texts(np.repeat(np.arange(len(every)), sizes), tuple(cells))
    texts["case_id"] = _coded(ids)
    targets, scores = zip(*(_rows_of(one) for one in every), strict=True)
    target, score = np.concatenate(targets), np.concatenate(scores)  # (rows, ...), (rows, C)
    if first.classes:
        names = ["case_id", "label", *(f"{SCORE}{name}" for name in first.classes)]
        texts["label"] = _Texts(target.astype(np.int64), first.classes)
        numbers |= {name: score[:, i] for i, name in enumerate(names[2:])}
    elif survival:
        names = list(SURVIVAL)
        parts = [[*["test"] * len(one.case_ids), *["train"] * len(one.train_ids)] for one in every]
        texts["part"] = _coded(parts)
        numbers |= {"event": target[:, 0], "duration_days": target[:, 1], "risk": score[:, 0]}
    else:
        names = list(REGRESSION)
        numbers |= {"value": target.astype(np.float64), "predicted": score[:, 0]}
    if first.patients:
        names.append(PATIENT)
        blank = [[""] * (size - len(one.patients)) for one, size in zip(every, sizes, strict=True)]
        owners = [[*one.patients, *rest] for one, rest in zip(every, blank, strict=True)]
        texts[PATIENT] = _coded(owners)
    return PredictionTable(texts, numbers, tuple(names))


def _rows_of(one: Predictions) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Targets and scores of the test cases, and for survival of the training cases after them."""
    import numpy as np

    target, scores = one.target, np.asarray(one.scores, dtype=np.float64)
    if not one.survival or one.train_target is None or one.train_scores is None:
        return target, scores
    return (
        np.concatenate([target, one.train_target]).astype(np.float64),
        np.concatenate([scores, one.train_scores]),
    )


def _coded(lists: list[list[str]]) -> _Texts:
    """Number texts in the order in which they come first."""
    import numpy as np

    index: dict[str, int] = {}
    codes = [index.setdefault(text, len(index)) for one in lists for text in one]
    return _Texts(np.array(codes, dtype=np.int64), tuple(index))
