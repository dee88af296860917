"""How time and memory grow: report, validate and run at n, 2n, 4n and 8n.

    python benchmarks/growth.py --json                       # every part, within ten minutes
    python benchmarks/growth.py --part report --sizes 1000,100000
    python benchmarks/growth.py --write-results DIR --rows 100000

Sizes are rows for `report`, slides for `validate` and cases for `run`. Every size is a process of
its own, so that its peak memory is its own; seconds are those of the processor, which others
disturb less. ``exponent`` is the slope of log seconds over log size: 1 is linear. The start of a
command that does nothing is measured once per part and subtracted, because it hides growth.
`benchmarks/extract.py` and `benchmarks/prepare.py` time extraction and the preparation of sections.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
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


def write_study(folder: Path, cases: int) -> None:
    """Write a table of cases of two classes, and a feature file of 64 patches for each."""
    from spade_bench.features.bags import write_features

    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,label"]
    for i in range(cases):
        name, label = f"case-{i:05d}", i % 2
        values = rng.normal(0.3 * label, 1, size=(64, 64)).astype(np.float32)
        coords = np.arange(128, dtype=np.int64).reshape(64, 2)
        write_features(
            folder / "features" / f"{name}.h5",
            values,
            coords,
            slide_id=name,
            encoder="made-up",
            attrs={"mpp": 0.5},
        )
        lines.append(f"{name},{name},{'ab'[label]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepared(part: str, size: int, folder: Path) -> list[list[str]]:
    """Write what a part needs at a size; return the commands that are timed, by name first."""
    results, study = str(folder / "results"), [str(folder / "table.csv"), str(folder / "features")]
    if part == "report":
        write_results(folder / "results", size)
        return [["report", "report", results, "--no-plots"]]
    write_study(folder, size)
    if part == "validate":
        check = ["validate", "--table", study[0], "--features", study[1]]
        return [["validate", *check], ["validate again", *check]]
    common = ["--encoder", "made-up", "--task", "classification:label", "--table", study[0],
              "--features", study[1], "--protocol", "cv", "--folds", "4", "--no-controls",
              "--device", "cpu"]  # fmt: skip
    few = ["--set", "abmil.epochs=2", "--set", "abmil.min_steps=1"]
    return [
        ["run logistic", "run", *common, "--head", "logistic", "--out", f"{results}-l"],
        ["run abmil", "run", *common, "--head", "abmil", *few, "--out", f"{results}-a"],
    ]


PARTS = {"report": 2000, "validate": 250, "run": 100}


def timed(command: list[str]) -> tuple[float, int]:
    """Run a command in a process of its own; return its CPU seconds and its peak memory."""
    import subprocess
    import sys

    code = (
        "import resource, sys\n"
        "from spade_bench.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stopped:\n    done = stopped.code or 0\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, done, file=sys.stderr)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    seconds, peak, done = told.stderr.split()[-3:]
    if done != "0":
        raise SystemExit(f"{' '.join(command)} failed:\n{told.stderr}")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(seconds), int(peak) * unit


def grown(part: str, sizes: list[int]) -> list[dict[str, Any]]:
    """Time a part at each size; return a row per command with its exponent."""
    start, _ = timed(["show", "head", "logistic"])
    found: dict[str, list[tuple[float, int]]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            for name, *command in prepared(part, size, Path(scratch)):
                found.setdefault(name, []).append(timed(command))
    rows = []
    for name, turns in found.items():
        seconds = [turn[0] for turn in turns]
        net = [max(0.01, one - start) for one in seconds]
        slope = float(np.polyfit(np.log(sizes), np.log(net), 1)[0]) if len(sizes) > 1 else None
        rows.append({"part": name, "sizes": sizes, "seconds": [round(s, 2) for s in seconds],
                     "bytes": [turn[1] for turn in turns],
                     "exponent": None if slope is None else round(slope, 2)})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), help="Only this one.")
    parser.add_argument("--sizes", help="Sizes, such as 1000,100000. Default: n, 2n, 4n, 8n.")
    parser.add_argument("--write-results", type=Path, help="Only write a folder of results.")
    parser.add_argument("--rows", type=int, default=1000, help="Its rows, about.")
    parser.add_argument("--json", action="store_true", help="Print JSON on one line.")
    options = parser.parse_args()
    if options.write_results:
        print(json.dumps({"rows": write_results(options.write_results, options.rows)}))
        return
    rows = []
    for part in [options.part] if options.part else PARTS:
        sizes = [PARTS[part] * factor for factor in (1, 2, 4, 8)]
        if options.sizes:
            sizes = [int(size) for size in options.sizes.split(",")]
        rows += grown(part, sizes)
    print(json.dumps({"parts": rows}, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
