"""Does aligned expression help? Once where it should (coupling 1), once where it cannot (0).

Simulates a study per seed, extracts features once (the images do not depend on the coupling),
pretrains SPADE on the coupled and on the uncoupled expression, an expert an organ, and
compares it with its base encoder on the same few-shot episodes. All numbers are SIMULATED.

    python benchmarks/coupling.py --json --seeds 3,4,5 --work DIR

Every step is an ordinary command of `spade-bench` and continues where it stopped when the same
``--work`` is given again. Reported are the difference of each study with its interval over test
cases and draws, and the mean over studies with the interval that those combine to.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BASE = "efficientnet-lite0"
# An expert an organ, and a learning rate that arrives within some hundred steps; nothing by rule.
SETTINGS = (
    "clustering.k_organ=1",
    "clustering.k_experts=2",
    "training.epochs=20",
    "training.lr=0.001",
    "training.init=none",
    "routing.tau=0.1",
    "split.validation=samples",
    "split.test_fraction=0",
)
COUPLINGS = {"on": 1.0, "off": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="3,4,5", help="Studies to simulate.")
    parser.add_argument("--size", default="small", help="tiny or small.")
    parser.add_argument("--task", default="crc_braf", help="crc_braf or sim_subtype.")
    parser.add_argument("--shots", default="1,2,4,8")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="Folder to keep; default: a temporary one.")
    parser.add_argument("--set", action="append", default=[], help="Setting of pretrain.")
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as name:
        work = options.work or Path(name)
        seeds = [int(text) for text in options.seeds.split(",")]
        studies = [study(work / f"seed{seed}", seed, options) for seed in seeds]
    result = {
        "simulated": True,
        "size": options.size,
        "task": options.task,
        "pretrain": [*SETTINGS, *options.set],
        "coupling": {
            f"{value:g}": {
                "studies": [one[key] for one in studies],
                "pooled": pooled([one[key]["mean"] for one in studies]),
            }
            for key, value in COUPLINGS.items()
        },
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=None if options.json else 1))


def study(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Simulate, extract, and compare under both couplings."""
    for key, value in COUPLINGS.items():
        if not (folder / key / "truth.json").exists():
            where = ["--seed", str(seed), "--size", options.size, "--coupling", str(value)]
            if key != "on":
                where += ["--images-of", str(folder / "on")]
            command("simulate", str(folder / key), *where)
    device = ["--device", options.device]
    for kind in ("slides", "hest"):
        source = ["--" + kind, str(folder / "on" / kind), "--no-preview"]
        command("extract", "--encoder", BASE, *source, *device, "--out", str(folder / kind))
    return {key: compare(folder, key, seed, device, options) for key in COUPLINGS}


def compare(
    folder: Path, key: str, seed: int, device: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Pretrain on one of the two expressions and compare SPADE with its base."""
    weights, runs = folder / f"spade-{key}", folder / f"runs-{key}"
    settings = [item for text in [*SETTINGS, *options.set] for item in ("--set", text)]
    command(
        *("pretrain", "--hest", str(folder / key / "hest"), "--encoder", BASE, *device),
        *("--features", str(folder / "hest"), "--seed", str(seed), *settings),
        *("--out", str(weights)),
    )
    command(
        *("run", "--encoder", "spade", "--weights", str(weights), "--task", options.task, *device),
        *("--table", str(folder / "on" / "tables" / f"{options.task}.csv")),
        *("--features", str(folder / "slides"), "--shots", options.shots),
        *("--draws", str(options.draws), "--seed", str(seed), "--out", str(runs)),
    )
    rows = json.loads(command("report", str(runs), "--json", "--no-plots"))["rows"]
    level = {
        (row["encoder"], row["k_shot"]): row["mean"]
        for row in rows
        if row["metric"] == "auroc" and "control:permuted-labels" not in row["flags"]
    }
    out: dict[str, Any] = {"seed": seed, "shots": {}}
    for other in (BASE, "spade-k1"):
        found = json.loads(
            command("compare", str(runs), "--a", "spade" if other == BASE else other,
                    "--b", BASE, "--json")
        )  # fmt: skip
        for one in found["differences"]:
            if one["metric"] != "auroc":
                continue
            numbers = {
                "difference": round(one["mean"], 4),
                "ci": [round(one["ci_low"], 4), round(one["ci_high"], 4)],
            }
            if other != BASE:
                if one["k_shot"] is None:
                    out["one_expert"] = numbers
            elif one["k_shot"] is None:
                out["mean"] = numbers
            else:
                k = one["k_shot"]
                out["shots"][str(k)] = {
                    "base": round(level[BASE, k], 4),
                    "spade": round(level["spade", k], 4),
                    **numbers,
                }
    return out


def pooled(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Average independent studies; the interval combines their paired intervals.

    It speaks of these studies (their cases and draws); the spread of the studies' differences
    beside it shows how much another seed may differ.
    """
    n = len(found)
    differences = [one["difference"] for one in found]
    mean = sum(differences) / n
    errors = [(one["ci"][1] - one["ci"][0]) / (2 * 1.96) for one in found]
    half = 1.96 * math.sqrt(sum(error**2 for error in errors)) / n
    return {
        "studies": n,
        "difference": round(mean, 4),
        "ci": [round(mean - half, 4), round(mean + half, 4)],
        "beats_base": mean - half > 0,
        "least": min(differences),
        "greatest": max(differences),
    }


def command(*arguments: str) -> str:
    """Run one `spade-bench` command; its messages go to stderr, its result is returned."""
    program = [sys.executable, "-m", "spade_bench.cli.main", "--quiet", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, env=environment, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
