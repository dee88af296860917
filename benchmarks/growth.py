"""How time and memory grow: extract, validate, run, report and prepare at n, 2n, 4n and 8n.

    python benchmarks/growth.py --json                       # every part, within ten minutes
    python benchmarks/growth.py --part report --sizes 1000,100000
    python benchmarks/growth.py --write-results DIR --rows 100000

Every size is a process of its own, so that its peak memory is its own. ``exponent`` is the slope of
log seconds over log size: 1 is linear. Start-up (importing, an empty folder) is measured once per
part and subtracted, because it hides growth at small sizes.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench.files import hash_obj
from spade_bench.results import Predictions, ResultStore, Row, write_predictions

SHOTS = (1, 2, 4, 8, 16)
HEADS = ("logistic", "abmil")
DRAWS = 25
CASES = 80
PER_PAIR = len(SHOTS) * len(HEADS) * DRAWS  # rows per encoder and task


def write_results(out: Path, rows: int) -> int:
    """Write a folder as a sweep would: as many encoders as tasks, five shots, two heads.

    Every second encoder sits on the one before it. Of ten tasks one is of survival and one of
    measured values.

    Args:
        out: The folder.
        rows: About how many rows.

    Returns:
        How many rows there are.
    """
    tasks = max(2, round(math.sqrt(rows / PER_PAIR)))
    encoders = max(2, round(rows / PER_PAIR / tasks))
    draws = max(2, round(rows / (tasks * encoders * len(SHOTS) * len(HEADS))))
    store = ResultStore(out)
    for task in range(tasks):
        for encoder in range(encoders):
            for head in HEADS:
                store.append(_stack(out, task, encoder, head, draws))
    return tasks * encoders * draws * len(SHOTS) * len(HEADS)


def _stack(out: Path, task: int, encoder: int, head: str, draws: int) -> list[Row]:
    """Store all shots and draws of an encoder, task and head; return their rows."""
    name, place = f"encoder-{encoder:02d}", (f"encoder-{encoder:02d}", f"task-{task:02d}", head)
    rng = np.random.default_rng([task, encoder, HEADS.index(head)])
    shared = np.random.default_rng(task).normal(size=CASES)
    label = np.arange(CASES) % 2
    cells: dict[str, Predictions] = {}
    about: dict[str, dict[str, Any]] = {}
    for shot in SHOTS:
        for draw in range(draws):
            run_id = hash_obj([*place, shot, draw])
            signal = (0.4 + 0.05 * encoder) * shot**0.3 * (label - 0.5)
            cells[run_id] = _told(task, shared + 0.5 * rng.normal(size=CASES) + signal)
            about[run_id] = {"k_shot": shot, "draw": draw}
    digests = write_predictions(out, *place, cells)
    base = {"base": f"encoder-{encoder - 1:02d}"} if encoder % 2 else {}
    names = {"classification": ("auroc", "balanced_accuracy"), "survival": ("c_index", "ibs")}
    return [
        Row(
            run_id,
            "ok",
            name,
            place[1],
            head,
            "few-shot",
            seed=0,
            metrics=dict.fromkeys(names.get(told.kind, ("pearson", "mae")), 0.5),
            n={"train": 2 * about[run_id]["k_shot"], "test": CASES, "events": None, "pool": 40},
            inputs={
                "cohort": place[1],
                "features": name,
                "head": head,
                "episode": f"{about[run_id]['k_shot']}-{about[run_id]['draw']}",
                **base,
            },
            env={"cohort": "120 cases of table", "head": f"{head} defaults", "device": "cpu"},
            seconds=0.01,
            created_utc="2026-01-01T00:00:00Z",
            predictions_sha256=digests[run_id],
            **about[run_id],
        )
        for run_id, told in cells.items()
    ]


def _told(task: int, logit: np.ndarray) -> Predictions:
    """Predictions of a task of one of three kinds, (CASES,) logits in."""
    ids, rng = tuple(f"case-{i:03d}" for i in range(CASES)), np.random.default_rng([task, 1])
    if task % 10 == 8:
        target = np.stack([np.arange(CASES) % 2, rng.exponential(900, CASES)], axis=1)
        train = rng.exponential(900, 20)
        trained = np.stack([np.arange(20) % 2, train], axis=1)
        more = tuple(f"train-{i:02d}" for i in range(20))
        return Predictions(ids, (), target, logit[:, None], more, trained, logit[:20, None])
    if task % 10 == 9:
        return Predictions(ids, (), rng.normal(size=CASES), logit[:, None])
    p = 1 / (1 + np.exp(-logit))
    return Predictions(ids, ("neg", "pos"), np.arange(CASES) % 2, np.stack([1 - p, p], axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-results", type=Path, help="Only write a folder of results.")
    parser.add_argument("--rows", type=int, default=1000, help="Its rows, about.")
    options = parser.parse_args()
    if options.write_results:
        print(json.dumps({"rows": write_results(options.write_results, options.rows)}))


if __name__ == "__main__":
    main()
