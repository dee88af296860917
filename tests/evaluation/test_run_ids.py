"""Run ids of requests as they have always been: results that were stored before stay finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import run_main

from spade_bench.files import hash_obj

# Name -> (cohort, options, number of rows, hash of the sorted run ids).
PINNED: dict[str, tuple[str, str, int, str]] = {
    "few-shot": ("study", "--shots 4,1 --draws 2", 28, "d3e9de037c2bab5a"),
    "usual": ("study", "--draws 1 --head knn --no-controls", 4, "29025476aeaf1857"),
    "settings": (
        "study",
        "--shots 2 --draws 1 --head knn --set knn.k=3 --seed 7",
        7,
        "003d0b303bcc3e08",
    ),
    "cv": ("study", "--protocol cv --folds 3 --repeats 2 --no-controls", 6, "d207620e94a3086d"),
    "holdout": (
        "study",
        "--protocol cv --folds 3 --holdout 0.25 --select --head knn",
        28,
        "93c309848071a10a",
    ),
    "positive": (
        "study",
        "--shots 1 --draws 1 --positive normal --permutations 2",
        4,
        "f07eb082fbfdf9a4",
    ),
    "external": ("study", "--test-table {other} --test-features {features}", 7, "53012f77c4398bf8"),
    "survival": ("survival", "--shots 2 --draws 2", 14, "66d5f3f71bfe1e72"),
    "sites": (
        "survival",
        "--protocol cv --folds 3 --group-by-site --no-controls",
        3,
        "f93454cd5e9a88cb",
    ),
}

CONFIG_KEYS = {
    *("encoders", "tasks", "heads", "features", "any_features", "test_features"),
    *("any_test_features", "protocol", "shots", "draws", "folds", "repeats", "holdout"),
    *("group_by_site", "select", "allow_leaky_splits", "seed", "controls", "permutations"),
    *("allow_missing", "device", "match_ids", "positive", "as_is", "pretrained_on", "keep_heads"),
}
"""What `configs/run-*.json` holds."""


@pytest.mark.parametrize("name", PINNED)
def test_run_ids_are_those_of_before(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    study: Any,
    survival: Any,
    other_study: Any,
    half: str,
    weights: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    cohort, options, n_rows, hashed = PINNED[name]
    data = {"study": study, "survival": survival}[cohort]
    words = options.format(
        other=other_study.table, features=other_study.features, weights=weights
    ).split()
    encoder = () if "--encoder" in words else ("--encoder", "mine")
    files = ("--table", data.table, "--features", data.features)
    assert run_main("run", *encoder, *files, "--task", "t", "--device", "cpu", "--out", "o",
                    *words) == 0  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "o/results.jsonl").read_text().splitlines()]
    ids = sorted(row["run_id"] for row in rows)
    assert (len(ids), hash_obj(ids)) == (n_rows, hashed)
    (config,) = (tmp_path / "o" / "configs").glob("run-*.json")
    assert set(json.loads(config.read_text())) == CONFIG_KEYS
