"""Store and damage the predictions of single cells."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from spade_bench.files import file_name
from spade_bench.results import Predictions, Row, write_predictions

__all__ = ["part_of", "store_predictions"]


def store_predictions(out: Path, row: Row, predictions: Predictions) -> str:
    """Store the predictions of one row; return the digest that it should carry."""
    cells = {row.run_id: predictions}
    return write_predictions(out, row.encoder, row.task, row.head, cells)[row.run_id]


def part_of(out: Path, row: Row) -> Path:
    """Return the only part that holds the predictions of a row."""
    folder = out / "predictions" / file_name(row.task) / file_name(row.encoder)
    parts = [p for p in folder.iterdir() if row.run_id in pd.read_parquet(p)["run_id"].tolist()]
    (part,) = parts
    return part
