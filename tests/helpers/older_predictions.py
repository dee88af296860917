"""Write predictions as folders of older versions hold them: one csv per cell."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from spade_bench.results import Predictions, ResultStore
from spade_bench.results.predictionstore import StoredPredictions, predictions_path

_SURVIVAL = ["case_id", "part", "event", "duration_days", "risk"]
_REGRESSION = ["case_id", "value", "predicted"]


def write_csv_predictions(out: Path, run_id: str, predictions: Predictions) -> str:
    """Write the csv of a cell; return the SHA-256 of the file, which its row carried."""
    lines = _LINES[predictions.kind](predictions)
    if predictions.patients:
        n = len(predictions.case_ids)
        column = ["patient_id", *predictions.patients, *[""] * (len(lines) - 1 - n)]
        lines = [[*line, patient] for line, patient in zip(lines, column, strict=True)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    content = text.getvalue().encode()
    path = predictions_path(out, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def make_older(out: Path) -> None:
    """Turn a folder of results into one of an older version: a csv per cell, and no parts."""
    store, stored = ResultStore(out), StoredPredictions(out)
    rows = store.rows()
    for at, row in enumerate(rows):
        if row.status == "ok":
            digest = write_csv_predictions(out, row.run_id, stored.of(row))
            rows[at] = replace(row, predictions_sha256=digest)
    for part in (out / "predictions").rglob("*.parquet"):
        part.unlink()
    store.path.write_text("".join(row.to_line() for row in rows), encoding="utf-8")


def _class_lines(predictions: Predictions) -> list[list[str]]:
    lines = [["case_id", "label", *(f"score:{name}" for name in predictions.classes)]]
    for case, target, scores in zip(
        predictions.case_ids, predictions.target, predictions.scores, strict=True
    ):
        # repr keeps every bit.
        lines.append([case, predictions.classes[target], *map(repr, scores.tolist())])
    return lines


def _value_lines(predictions: Predictions) -> list[list[str]]:
    rows = zip(predictions.case_ids, predictions.target, predictions.scores, strict=True)
    return [
        list(_REGRESSION),
        *([case, repr(float(value)), repr(float(said[0]))] for case, value, said in rows),
    ]


def _survival_lines(predictions: Predictions) -> list[list[str]]:
    lines = [list(_SURVIVAL)]
    parts = [("test", predictions.case_ids, predictions.target, predictions.scores)]
    if predictions.train_target is not None and predictions.train_scores is not None:
        train = predictions.train_ids, predictions.train_target, predictions.train_scores
        parts.append(("train", *train))
    for part, ids, target, scores in parts:
        for case, (event, days), risk in zip(ids, target, scores, strict=True):
            lines.append([case, part, str(int(event)), repr(float(days)), repr(float(risk[0]))])
    return lines


_LINES: Mapping[str, Callable[[Predictions], list[list[str]]]] = {
    "classification": _class_lines,
    "regression": _value_lines,
    "survival": _survival_lines,
}
