"""What a step of the attention grid costs the host, without the GPU's own work.

With `pretend_cuda` loaded but no numbers computed, torch's own CUDA code runs and kernels do
nothing: what is left is the time in which the host prepares and launches them, for which a fast GPU
waits. The driver's part of a launch (some microseconds) is missing, so launches are counted too.

    python benchmarks/host.py --tools ../shared/tools/pretend_cuda --json
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

GRID = {"lr": (5e-6, 1e-5, 5e-5, 1e-4, 1e-3), "hidden": (128, 256, 384, 512)}
FOLDS, CASES, PATCHES, DIM = 5, 50, 16, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="Folder of pretend_cuda.")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    options = parser.parse_args()
    sys.path.insert(0, str(options.tools))
    pretend_cuda = importlib.import_module("pretend_cuda")  # before torch, which then finds it
    if reason := pretend_cuda.why_not():
        raise SystemExit(f"CUDA cannot be pretended: {reason}")
    result = {name: grid(pretend_cuda, name, options.epochs) for name in ("fp32", "bf16")}
    print(json.dumps(result, indent=None if options.json else 1))


def grid(pretend_cuda: Any, precision: str, epochs: int) -> dict[str, float]:
    """Milliseconds of the processor and launches per case, for all models that train on it."""
    import torch

    from spade_bench.features.casebags import CaseBags
    from spade_bench.heads import Fit, HeadOptions, grid_points
    from spade_bench.registry import heads

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    label = np.arange(CASES) % 2
    folds = np.arange(CASES) // 2 % FOLDS
    bags = [rng.standard_normal((PATCHES, DIM), np.float32) for _ in range(CASES)]
    fits = []
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fits += [Fit(train, label[train], test, 0, params=p) for p in grid_points(GRID)]

    def timed(passes: int) -> tuple[float, Any]:
        settings = {"epochs": passes, "min_steps": 0, "precision": precision}
        head: Any = heads.get("abmil").load(HeadOptions("cuda", settings))
        with pretend_cuda.census() as seen:
            start = time.process_time()
            head.fit_predict(CaseBags(bags.__getitem__, CASES, DIM), fits, 2)
        return time.process_time() - start, seen.counts

    timed(1)  # what is loaded once
    (once, few), (whole, many) = timed(1), timed(1 + epochs)
    ticks = epochs * CASES
    return {
        "models": len(fits) * (FOLDS - 1) // FOLDS,
        "ms": round((whole - once) / ticks * 1e3, 2),
        "launches": round((many["launches"] - few["launches"]) / ticks, 1),
        "copies": round((many["h2d"] - few["h2d"]) / ticks, 1),
        "waits": round((many["stream_syncs"] - few["stream_syncs"]) / ticks, 2),
    }


if __name__ == "__main__":
    main()
