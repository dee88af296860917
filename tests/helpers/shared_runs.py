"""Runs that share a folder, and what must be the same whoever did the work."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from spade_bench.evaluation import EvaluationSettings
from spade_bench.results import ResultStore, read_predictions

FLAGS = ["--encoder", "mine", "--task", "toy", "--head", "logistic", "--head", "mean-mlp",
         "--shots", "2,4", "--draws", "2", "--device", "cpu"]  # fmt: skip


def settings_of(study: Any, out: Path, **more: Any) -> EvaluationSettings:
    """What `FLAGS` say."""
    said = {
        **{"encoders": ["mine"], "tasks": ["toy"], "heads": ["logistic", "mean-mlp"]},
        **{"shots": [2, 4], "draws": 2, "device": "cpu"},
        **{"tables": study.table, "features": study.features, "out": out},
    }
    return EvaluationSettings.of({**said, **more})


def assert_same(one: Path, other: Path) -> None:
    """The same cells with the same predictions and metrics, to the bit."""
    rows = [{row.run_id: row for row in ResultStore(out).rows()} for out in (one, other)]
    assert rows[0]
    assert rows[0].keys() == rows[1].keys()
    for run_id, row in rows[0].items():
        assert row.status == rows[1][run_id].status == "ok"
        assert row.metrics == rows[1][run_id].metrics
        told = [read_predictions(out, run_id) for out in (one, other)]
        assert told[0].case_ids == told[1].case_ids
        assert told[0].scores.tobytes() == told[1].scores.tobytes()


def written(out: Path) -> Counter[str]:
    """How often each cell was stored."""
    lines = (out / "results.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["run_id"] for line in lines)
