"""How often 95% intervals of reports cover, by simulation, and how often `compare` rejects a truth.

For each metric, shape of scores and size of the classes the share of intervals that hold the value
of an endless cohort, with its Monte Carlo error, the mean width, and the coverage of the plain
percentile bootstrap beside it. The claim is 93% from 5 cases of a class on, for sensitivity at 90%
specificity from 50; below, no interval is given.

    python benchmarks/coverage.py --json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import norm

from spade_bench.report.values import Values, at_hand, single
from spade_bench.statistics.delong_draws import auroc_influence, delong_over_draws
from spade_bench.statistics.evaluate import bounds, evaluate
from spade_bench.statistics.intervals import case_weights
from spade_bench.statistics.score_intervals import least_cases

SIZES = ((50, 2), (50, 3), (50, 5), (50, 10), (50, 20), (5, 5), (10, 10), (20, 20), (50, 50),
         (100, 100))  # fmt: skip
SHAPES = ((0.5, 1.0), (1.5, 1.0), (3.0, 1.0), (1.5, 2.0), (3.0, 2.0), (1.5, 0.5))
METRICS = ("auroc", "auprc", "balanced_accuracy", "f1_macro", "kappa_quadratic",
           "sensitivity_at_90_specificity", "brier")  # fmt: skip
CLAIM = 0.93


def cases(
    rng: np.random.Generator, sizes: tuple[int, ...], shift: float, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and probabilities; positives lie ``shift`` higher and vary by ``spread``."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=len(label)) * np.where(label == 1, spread, 1.0) + shift * label
    p = 1 / (1 + np.exp(shift / 2 - x))
    return label, np.stack([1 - p, p], axis=1)


def coverage(
    metric: str, sizes: tuple[int, ...], shape: tuple[float, float], args: argparse.Namespace
) -> dict[str, Any]:
    """Simulate one metric, shape and size."""
    factor = 60_000 // min(sizes)
    truth = float(norm.cdf(shape[0] / np.hypot(1, shape[1])))
    if metric != "auroc":
        big = tuple(n * factor for n in sizes)
        truth = float(evaluate(metric, *cases(np.random.default_rng(0), big, *shape))[0])
    low, high = bounds(metric, 2)
    hits, plain_hits, widths = [], [], []
    for seed in range(args.repeats):
        label, scores = cases(np.random.default_rng([*sizes, seed]), sizes, *shape)
        weights = case_weights(label, args.resamples, seed)
        plain, boot = evaluate(metric, label, scores), evaluate(metric, label, scores, weights)
        found = auroc_influence(label, scores) if metric == "auroc" else None
        values = Values(
            ((0, -1),), plain, at_hand(boot[None]), True, 8.0, len(label), label,
            None if found is None else found[1][None], min(sizes), len(label),
        )  # fmt: skip
        got = single(values, metric)
        if got is None or not low <= got.low <= got.high <= high:
            raise SystemExit(f"{metric} with {sizes} cases: no interval")
        hits.append(got.low <= truth <= got.high)
        widths.append(got.high - got.low)
        ends = np.nanquantile(boot, [0.025, 0.975])
        plain_hits.append(ends[0] <= truth <= ends[1])
    rate = float(np.mean(hits))
    return {
        "metric": metric,
        "cases": list(sizes),
        "shift": shape[0],
        "spread": shape[1],
        "truth": round(truth, 4),
        "coverage": round(rate, 4),
        "error": round(float(np.sqrt(max(rate * (1 - rate), 1e-4) / args.repeats)), 4),
        "width": round(float(np.mean(widths)), 3),
        "percentile_coverage": round(float(np.mean(plain_hits)), 4),
    }


def rejection(sizes: tuple[int, ...], args: argparse.Namespace) -> dict[str, Any]:
    """How often two equally good encoders are told apart at 5%."""
    label, rejected = np.repeat([0, 1], sizes), []
    for seed in range(2 * args.repeats):
        rng = np.random.default_rng([*sizes, seed])
        case, found = rng.normal(size=len(label)), []
        for _ in range(2):
            x = (case + rng.normal(size=len(label))) / np.sqrt(2) + label
            one = auroc_influence(label, np.stack([-x, x], axis=1))
            found.append((0.0, np.zeros(len(label))) if one is None else one)
        (a, moved), (b, other) = found
        got = delong_over_draws(label, np.array([a - b]), (moved - other)[None])
        rejected.append(got is not None and got.p is not None and got.p < 0.05)
    rate = float(np.mean(rejected))
    error = float(np.sqrt(max(rate * (1 - rate), 1e-4) / len(rejected)))
    return {"cases": list(sizes), "rejected": round(rate, 4), "error": round(error, 4)}


def grid(
    metrics: tuple[str, ...],
) -> Iterator[tuple[str, tuple[int, ...], tuple[float, float]]]:
    """Metrics, sizes and shapes for which an interval is given."""
    for metric in metrics:
        for sizes in SIZES:
            if min(sizes) >= least_cases(metric):
                yield from ((metric, sizes, shape) for shape in SHAPES)


def main() -> None:
    """Simulate everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    started = time.perf_counter()
    found = [coverage(*place, args) for place in grid(tuple(args.metrics))]
    tests = [rejection(sizes, args) for sizes in SIZES]
    held = [one for one in found if min(one["cases"]) >= 5]
    worst = {m: min((o for o in held if o["metric"] == m), key=lambda o: o["coverage"])
             for m in args.metrics}  # fmt: skip
    content = {
        "schema": "spade-bench/coverage/1",
        "repeats": args.repeats,
        "claim": CLAIM,
        "holds": all(one["coverage"] + 2 * one["error"] >= CLAIM for one in held),
        "least": worst,
        "intervals": found,
        "tests": tests,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if args.json:
        print(json.dumps(content, indent=1))
        return
    for one in found:
        print(*(f"{key} {value}" for key, value in one.items()))
    for test in tests:
        print("compare", *(f"{key} {value}" for key, value in test.items()))
    for metric, one in worst.items():
        print(f"least from 5 cases on, {metric}: {one['coverage']} +- {one['error']}")


if __name__ == "__main__":
    main()
