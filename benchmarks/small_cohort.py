"""Does SPADE learn from five sections? HER2ST with the default settings, one section left out.

    python benchmarks/small_cohort.py --hest DIR --work DIR --json

``--hest`` is the folder `hest_her2st` of CONTRIBUTING.md; the base encoder is EfficientNet-Lite0.
Each run trains on four sections and is measured on the fifth, which chose nothing: the mean
percentile of the true partner among the spots of its section (0 is best, 0.5 is chance), for SPADE
and for its single-expert control, and their paired difference with its 95% interval over spots.
Intervals of the mean over sections treat the sections as given. The same ``--work`` continues.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from coupling import BASE, command

WAYS = ("image_to_expression", "expression_to_image")
KEY = "mean_percentile"
BAR = 0.40  # mean percentile up to which the cohort counts as learnt from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hest", type=Path, required=True, help="Sections in HEST-1k layout.")
    parser.add_argument("--work", type=Path, required=True, help="Folder to keep.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="Setting of pretrain.")
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    options = parser.parse_args()
    start = time.perf_counter()
    names = sorted(path.stem for path in (options.hest / "st").glob("*.h5ad"))
    runs = [left_out(name, options) for name in names]
    result = {
        "settings": options.set,
        "seed": options.seed,
        "sections": runs,
        "mean": pooled(runs),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=None if options.json else 1))


def left_out(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Pretrain without one section and read how well it is matched."""
    out = options.work / name
    settings = [f"split.test_samples=[{name}]", *options.set]
    command(
        *("pretrain", "--hest", str(options.hest), "--encoder", BASE, "--device", "cpu"),
        *("--seed", str(options.seed), "--out", str(out)),
        *(item for text in settings for item in ("--set", text)),
    )
    found = json.loads((out / "validation.json").read_text(encoding="utf-8"))
    model = json.loads((out / "spade.json").read_text(encoding="utf-8"))
    part = found["splits"]["test"]
    single = part["methods"].get("k1", part["methods"]["spade"])  # K = 1 is its own control
    gap = part["differences"].get("spade - k1")
    return {
        "section": name,
        "spots": part["n_spots"],
        "K": model["K"],
        "tau": model["tau"],
        "best_epochs": [row["best_epoch"] for row in found["experts"]],
        "by_rule": model["extra"]["by_rule"],
        "spade": {way: round(part["methods"]["spade"][way][KEY]["value"], 4) for way in WAYS},
        "k1": {way: round(single[way][KEY]["value"], 4) for way in WAYS},
        "difference": {
            way: [round(gap[way][KEY][end], 4) if gap else 0.0 for end in ("value", "low", "high")]
            for way in WAYS
        },
    }


def pooled(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Average sections and directions; the interval combines those of the paired differences."""
    means = {
        name: round(sum(run[name][way] for run in runs for way in WAYS) / (2 * len(runs)), 4)
        for name in ("spade", "k1")
    }
    gaps = [run["difference"][way] for run in runs for way in WAYS]
    difference = sum(gap[0] for gap in gaps) / len(gaps)
    # Both directions rank the same spots, so their errors count as one.
    errors = [
        max(run["difference"][way][2] - run["difference"][way][1] for way in WAYS) / (2 * 1.96)
        for run in runs
    ]
    half = 1.96 * math.sqrt(sum(error**2 for error in errors)) / len(runs)
    return {
        **means,
        "difference": round(difference, 4),
        "ci": [round(difference - half, 4), round(difference + half, 4)],
        "learns": means["spade"] <= BAR,
        "not_worse_than_k1": difference - half <= 0,
    }


if __name__ == "__main__":
    main()
