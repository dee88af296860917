"""Results on disk: one append-only line per cell, and case-level predictions beside it."""

from __future__ import annotations

from spade_bench.results.plans import absent_cells, write_plan
from spade_bench.results.predictions import Predictions
from spade_bench.results.predictionstore import (
    StoredPredictions,
    read_predictions,
    write_predictions,
    write_spots,
)
from spade_bench.results.rows import SCHEMA, Row, environment
from spade_bench.results.store import Finished, ResultStore, stored_in

__all__ = [
    "SCHEMA",
    "Finished",
    "Predictions",
    "ResultStore",
    "Row",
    "StoredPredictions",
    "absent_cells",
    "environment",
    "read_predictions",
    "stored_in",
    "write_plan",
    "write_predictions",
    "write_spots",
]
