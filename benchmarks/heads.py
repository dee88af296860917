"""How much faster heads train here than by the plain procedure, on CPU.

Two comparisons, each with equal results. The attention grid: every combination of learning rate
and width on the same bags; plain is one torch module after another, one bag per step, each bag read
from its HDF5 file (float16, in chunks of one row as CLAM and TRIDENT write it, or contiguous) at
every epoch, as public MIL code does it. The few-shot
sweep: logistic regression at k = 1 to 32 with 20 draws each; plain is a loop over scikit-learn's
LogisticRegression with its default settings, centred and scaled alike (its results are compared at
a tight tolerance, untimed). Plain counts at its best number of threads.

    python benchmarks/heads.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn

from spade_bench import config
from spade_bench.device import setup_numerics
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, grid_points
from spade_bench.heads.abmil import AbmilConfig, initial
from spade_bench.registry import heads

SHOTS = (1, 2, 4, 8, 16, 32)
GRID = {"lr": (1e-5, 1e-4, 1e-3), "hidden": (128, 256, 384, 512)}
FIXED = {"dropout": 0.0, "balanced": False, "min_steps": 0, "attention": 64}


def make_bags(folder: Path, args: argparse.Namespace) -> tuple[list[Path], NDArray[np.int64]]:
    """Write one file per case; a tenth of a positive case's patches lean one way."""
    rng = np.random.default_rng(0)
    label = np.arange(args.bags + args.test_bags) % 2
    axis = rng.normal(size=args.dim)
    paths = []
    for case, y in enumerate(label):
        x = rng.normal(size=(args.patches, args.dim))
        x[: args.patches // 10] += 0.3 * y * axis
        paths.append(folder / f"case{case}.h5")
        with h5py.File(paths[-1], "w") as file:
            chunks = (1, args.dim) if args.layout == "rows" else None
            file.create_dataset("features", data=x.astype(np.float16), chunks=chunks)
    return paths, label


def read(path: Path) -> torch.Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file["features"][:]).float()


class PlainAbmil(nn.Module):
    """Gated attention pooling written the usual way."""

    def __init__(self, dim: int, s: AbmilConfig, seed: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dim, s.hidden), nn.ReLU())
        self.v = nn.Sequential(nn.Linear(s.hidden, s.attention), nn.Tanh())
        self.u = nn.Sequential(nn.Linear(s.hidden, s.attention), nn.Sigmoid())
        self.w = nn.Linear(s.attention, 1, bias=False)
        self.classify = nn.Linear(s.hidden, 2)
        start = initial(dim, 2, s, torch.Generator().manual_seed(seed))
        v, u = start["gate"].T.chunk(2)
        wanted = {"project.0.weight": start["w1"], "v.0.weight": v, "u.0.weight": u,
                  "w.weight": start["score"].T, "classify.weight": start["out"].T}  # fmt: skip
        for name, p in self.named_parameters():
            p.data = wanted.get(name, torch.zeros_like(p)).clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify one bag, (n, D) -> (2,)."""
        h = self.project(x)  # (n, H)
        attention = torch.softmax(self.w(self.v(h) * self.u(h)), dim=0)  # (n, 1)
        logits: torch.Tensor = self.classify((attention.T @ h).squeeze(0))
        return logits


def train_plain(
    paths: Sequence[Path], label: NDArray[np.int64], n_train: int, s: AbmilConfig, dim: int
) -> NDArray[np.float64]:
    """Train one configuration and return the probabilities of the test bags."""
    mean, square = torch.zeros(dim), torch.zeros(dim)
    for path in paths[:n_train]:
        x = read(path)
        mean += x.mean(dim=0) / n_train
        square += (x * x).mean(dim=0) / n_train
    scale = (square - mean**2).sqrt()
    model = PlainAbmil(dim, s, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=s.lr, weight_decay=s.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, s.epochs * n_train)
    for epoch in range(s.epochs):
        for case in np.random.default_rng([0, epoch]).permutation(len(paths)):
            if case >= n_train:
                continue
            logits = model((read(paths[case]) - mean) / scale)
            loss = nn.functional.cross_entropy(logits[None], torch.tensor([label[case]]))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        rows = [model((read(p) - mean) / scale).softmax(dim=0) for p in paths[n_train:]]
    return torch.stack(rows).double().numpy()


def attention_grid(args: argparse.Namespace, cores: int) -> dict[str, Any]:
    points = list(grid_points(GRID))
    settings = {**FIXED, "epochs": args.epochs}
    every = [config.build(AbmilConfig, {**settings, **point}) for point in points]
    with tempfile.TemporaryDirectory() as name:
        paths, label = make_bags(Path(name), args)
        tried, few = {}, [*paths[: min(4, args.bags)], paths[-1]]
        train_plain(few, label, len(few) - 1, every[0], args.dim)  # warm caches before the timing
        for threads in dict.fromkeys((1, cores)):
            torch.set_num_threads(threads)
            short = replace(every[1], epochs=1)
            tried[threads] = clock(partial(train_plain, few, label, len(few) - 1, short, args.dim))[
                0
            ]
        best = min(tried, key=lambda threads: tried[threads])

        torch.set_num_threads(best)
        torch.set_float32_matmul_precision("highest")
        plain, wanted = clock(
            lambda: [train_plain(paths, label, args.bags, s, args.dim) for s in every]
        )

        setup_numerics(torch.device("cpu"))
        train, test = np.arange(args.bags), np.arange(args.bags, len(paths))
        fits = [Fit(train, label[train], test, seed=0, params=point) for point in points]

        def stacked(precision: str) -> list[NDArray[np.float64]]:
            head = heads.get("abmil").load(HeadOptions(params={**settings, "precision": precision}))
            bags = CaseBags.from_files([[path] for path in paths], args.dim)
            return list(head.fit_predict(bags, fits, 2))

        ours, got = clock(lambda: stacked("fp32"))
        half, got_half = clock(lambda: stacked("bf16"))
        torch.set_float32_matmul_precision("highest")
    far = float(max(np.abs(a - b).max() for a, b in zip(wanted, got, strict=True)))
    far_half = float(max(np.abs(a - b).max() for a, b in zip(wanted, got_half, strict=True)))
    return {
        "configurations": len(points),
        "sizes": {
            "bags": args.bags,
            "patches": args.patches,
            "D": args.dim,
            "epochs": args.epochs,
            "layout": args.layout,
        },
        "plain": {"seconds": plain, "threads": best, "tried": tried},
        "spade_bench": {"seconds": ours, "threads": best, "precision": "fp32"},
        "spade_bench_bf16": {"seconds": half},
        "ratio": plain / ours,
        "ratio_bf16": plain / half,
        "target": 2.0,
        "probability_difference": far,
        "probability_difference_bf16": far_half,
        "equal": far < 1e-2,
    }


def few_shot_sweep(args: argparse.Namespace, cores: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    label = np.arange(400) % 2
    x = rng.normal(size=(400, args.dim)) + 0.15 * rng.normal(size=args.dim) * label[:, None]
    bags = CaseBags(x.astype(np.float32)[:, None].__getitem__, len(x), args.dim)
    pooled, test = bags.pooled(), np.arange(200, 400)
    fits = []
    for k, draw in product(SHOTS, range(args.draws)):
        stream = np.random.default_rng([k, draw])
        groups = [stream.choice(np.flatnonzero(label[:200] == c), k, False) for c in (0, 1)]
        train = np.concatenate(groups)
        fits.append(Fit(train, label[train], test, seed=draw))

    def loop(**settings: Any) -> list[NDArray[np.float64]]:
        out = []
        for fit in fits:
            mean = pooled[fit.train].mean(axis=0)
            size = np.sqrt(((pooled[fit.train] - mean) ** 2).mean())
            model = LogisticRegression(C=1.0, **settings)
            model.fit((pooled[fit.train] - mean) / size, fit.target)
            out.append(model.predict_proba((pooled[fit.test] - mean) / size))
        return out

    head = heads.get("logistic").load(HeadOptions())
    ours, plain = [], {threads: [] for threads in dict.fromkeys((1, cores))}  # type: ignore[var-annotated]
    got = head.fit_predict(bags, fits, 2)
    for _ in range(args.repeats):  # in turns, so that both meet the same weather
        ours.append(clock(lambda: head.fit_predict(bags, fits, 2))[0])
        for threads, seconds in plain.items():
            with threadpool_limits(threads):
                seconds.append(clock(loop)[0])
    wanted = loop(tol=1e-10, max_iter=10_000)
    far = float(max(np.abs(a - b).max() for a, b in zip(wanted, got, strict=True)))
    medians = {threads: statistics.median(seconds) for threads, seconds in plain.items()}
    best = min(medians, key=lambda threads: medians[threads])
    return {
        "fits": len(fits),
        "sizes": {"shots": SHOTS, "draws": args.draws, "D": args.dim, "test": len(test)},
        "plain": {"seconds": medians[best], "threads": best, "tried": medians},
        "spade_bench": {"seconds": statistics.median(ours)},
        "ratio": medians[best] / statistics.median(ours),
        "target": 10.0,
        "probability_difference": far,
        "equal": far < 1e-5,
    }


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--bags", type=int, default=20, help="training bags of the grid")
    parser.add_argument("--test-bags", type=int, default=4)
    parser.add_argument("--patches", type=int, default=2000, help="patches per bag")
    parser.add_argument("--dim", type=int, default=1024, help="width D of the features")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--layout", choices=("rows", "contiguous"), default="rows", help="of the files of the grid"
    )
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5, help="timings of the sweep, their median")
    parser.add_argument("--only", choices=("grid", "sweep"), help="run one of the two")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    result: dict[str, Any] = {"benchmark": "heads", "cores": cores}
    if args.only != "grid":
        result["few_shot_linear"] = few_shot_sweep(args, cores)
    if args.only != "sweep":
        result["abmil_grid"] = attention_grid(args, cores)
    result["load_average"] = list(os.getloadavg())
    if args.json:
        print(json.dumps(result))
    else:
        for name in ("few_shot_linear", "abmil_grid"):
            if name in result:
                row = result[name]
                print(
                    f"{name}: plain {row['plain']['seconds']:.3g} s, here "
                    f"{row['spade_bench']['seconds']:.3g} s: {row['ratio']:.1f}x "
                    f"(target {row['target']:.0f}x, results equal: {row['equal']})"
                )
    return result


if __name__ == "__main__":
    main()
