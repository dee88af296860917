"""Predictions of older folders: one csv per cell. They are read; new ones are not written.

Classification: ``case_id, label`` and a column ``score:CLASS`` per class. Regression: ``case_id,
value, predicted``. Survival: ``case_id, part, event, duration_days, risk``. Where the cases are
slides, a last column ``patient_id``. What the columns mean stands in
:mod:`spade_bench.results.predictiontables`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

from spade_bench.errors import DataError
from spade_bench.results.predictions import Predictions
from spade_bench.results.predictiontables import (
    PATIENT,
    REGRESSION,
    SCORE,
    SURVIVAL,
    are_predictions,
)

__all__ = ["predictions_from_csv"]


def predictions_from_csv(content: bytes, where: str) -> Predictions:
    """Read the csv of a cell.

    Args:
        content: Bytes of the file.
        where: Its name, for errors.

    Raises:
        DataError: When it is no such file, or damaged.
    """
    try:
        header, *lines = list(csv.reader(io.StringIO(content.decode(), newline=""))) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"damaged predictions ({error})", where=where) from error
    odd = next((i for i, line in enumerate(lines, 2) if len(line) != len(header)), 0)
    if odd:
        raise DataError(
            f"damaged predictions (line {odd} has {len(lines[odd - 2])} columns, not "
            f"{len(header)})",
            where=where,
        )
    patients: tuple[str, ...] = ()
    if header[-1:] == [PATIENT]:
        patients = tuple(line[-1] for line in lines)
        header, lines = header[:-1], [line[:-1] for line in lines]
    if not lines or not are_predictions(header):
        raise DataError("not a file of predictions", where=where)
    try:
        if header == SURVIVAL:
            predictions = _read_survival(lines)
        elif header == REGRESSION:
            predictions = _read_values(lines)
        else:
            predictions = _read_classes(header, lines)
        return replace(predictions, patients=patients[: len(predictions.case_ids)])
    except (KeyError, ValueError) as error:
        raise DataError(f"damaged predictions ({error})", where=where) from error


def _read_classes(header: list[str], lines: list[list[str]]) -> Predictions:
    import numpy as np

    classes = tuple(name.removeprefix(SCORE) for name in header[2:])
    index = {name: i for i, name in enumerate(classes)}
    target = np.array([index[line[1]] for line in lines], dtype=np.int64)
    scores = np.array([[float(cell) for cell in line[2:]] for line in lines])
    return Predictions(tuple(line[0] for line in lines), classes, target, scores)


def _read_values(lines: list[list[str]]) -> Predictions:
    import numpy as np

    numbers = np.array([[float(cell) for cell in line[1:]] for line in lines])  # (m, 2)
    return Predictions(tuple(line[0] for line in lines), (), numbers[:, 0], numbers[:, 1:])


def _read_survival(lines: list[list[str]]) -> Predictions:
    import numpy as np

    parts: dict[str, tuple[tuple[str, ...], Any, Any]] = {}
    for part in ("test", "train"):
        of_part = [line for line in lines if line[1] == part]
        target = np.array([[float(line[2]), float(line[3])] for line in of_part]).reshape(-1, 2)
        scores = np.array([[float(line[4])] for line in of_part]).reshape(-1, 1)
        parts[part] = tuple(line[0] for line in of_part), target, scores
    if len(parts["test"][0]) + len(parts["train"][0]) != len(lines) or not parts["test"][0]:
        raise ValueError("a part is neither test nor train")
    ids, target, scores = parts["train"]
    return Predictions(
        parts["test"][0],
        (),
        *parts["test"][1:],
        train_ids=ids,
        train_target=target if ids else None,
        train_scores=scores if ids else None,
    )
