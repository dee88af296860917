"""How much faster patches are routed here than by the plain procedure, on CPU.

The plain procedure (own code): distances of a batch to all centroids, softmax, then every expert on
every patch, weighted and summed, in default float32. It is tried at several batch sizes and thread
counts and counts at its best. Ours computes only the experts that matter (weight above 1e-6).

    python benchmarks/routing.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair, head_parameters
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo

TAU = 0.1


def make_world(args: argparse.Namespace) -> tuple[SpadeModel, np.ndarray]:
    """Return an untrained model and patches scattered around its centroids.

    By default a patch has weight on about three experts at tau 0.1, as real features have.
    """
    rng = np.random.default_rng(0)
    spread = rng.uniform(args.spread, 0.4, size=(args.centroids, 1))
    centroids = (rng.normal(size=(args.centroids, args.dim)) * spread).astype(np.float32)
    pairs = {e: ExpertPair.create(args.dim, 8, seed=0, expert=e) for e in range(args.experts)}
    weights = {e: ExpertPair(pair.image, None) for e, pair in pairs.items()}
    owner = np.arange(args.centroids) % args.experts
    experts = Experts(centroids, owner, ("",) * args.centroids, args.experts)
    model = SpadeModel(ModelInfo(tau=TAU), experts, (), weights)
    near = centroids[rng.integers(args.centroids, size=args.patches)]
    noise = rng.normal(size=(args.patches, args.dim)).astype(np.float32)
    return model, near + noise


class Plain:
    """All experts on all patches."""

    def __init__(self, model: SpadeModel) -> None:
        self.centroids = torch.from_numpy(model.experts.centroids)
        self.owner = torch.from_numpy(model.experts.centroid_expert)
        self.heads = [_modules(head_parameters(t, "image")) for t in model.heads.values()]

    @torch.no_grad()
    def encode(self, features: np.ndarray, batch: int) -> np.ndarray:
        """Encode (n, D) features in batches, (n, P)."""
        parts = [
            self._encode(torch.from_numpy(features[i : i + batch]))
            for i in range(0, len(features), batch)
        ]
        return torch.cat(parts).numpy()

    def _encode(self, x: Tensor) -> Tensor:
        share = torch.softmax(-torch.cdist(x, self.centroids) / TAU, dim=1)
        out = torch.zeros(len(x), self.heads[0][1].out_features)
        for expert, (projection, fc, norm) in enumerate(self.heads):
            weight = share[:, self.owner == expert].sum(dim=1, keepdim=True)
            p = projection(x)
            out += weight * norm(fc(nn.functional.gelu(p)) + p)
        return out


def _modules(parameters: dict[str, Tensor]) -> tuple[nn.Linear, nn.Linear, nn.LayerNorm]:
    dim, width = parameters["projection.weight"].shape
    head = nn.ModuleDict(
        {
            "projection": nn.Linear(width, dim),
            "fc": nn.Linear(dim, dim),
            "layer_norm": nn.LayerNorm(dim),
        }
    )
    head.load_state_dict(parameters)
    return head["projection"], head["fc"], head["layer_norm"]  # type: ignore[return-value]


def best_time(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the least wall and CPU seconds of several runs, after one to warm up."""
    work()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--patches", type=int, default=4096)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--centroids", type=int, default=240)
    parser.add_argument("--dim", type=int, default=1024, help="width D of the base features")
    parser.add_argument("--spread", type=float, default=0.22, help="least scale of a centroid")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    model, features = make_world(args)
    plain = Plain(model)
    weights = model.route(features)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    reference = plain.encode(features, 1024)
    tried: list[dict[str, Any]] = []
    torch.set_float32_matmul_precision("highest")
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        for batch in (512, args.patches):
            wall, cpu = best_time(partial(plain.encode, features, batch), args.repeats)
            tried.append({"threads": threads, "batch": batch, "seconds": wall, "cpu_seconds": cpu})
    slow = min(tried, key=lambda row: row["seconds"])
    ours: list[dict[str, Any]] = []
    low = SpadeModel(model.info, model.experts, (), dict(model.heads), precision="bf16")
    for name, candidate in (("fp32", model), ("bf16", low)):
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            wall, cpu = best_time(partial(candidate.encode, features), args.repeats)
            ours.append(
                {"precision": name, "threads": threads, "seconds": wall, "cpu_seconds": cpu}
            )
    fast = min((r for r in ours if r["precision"] == "fp32"), key=lambda r: r["seconds"])
    fastest = min((r for r in ours if r["precision"] == "bf16"), key=lambda r: r["seconds"])
    difference = float(np.abs(model.encode(features) - reference).max())
    relative = float(np.linalg.norm(low.encode(features) - reference) / np.linalg.norm(reference))
    result: dict[str, Any] = {
        "benchmark": "routing",
        "sizes": {k: getattr(args, k) for k in ("patches", "experts", "centroids", "dim")}
        | {"tau": TAU, "experts_a_patch": float((weights > 1e-6).sum(1).mean()), "cores": cores},
        "plain": {**slow, "patches_per_second": args.patches / slow["seconds"], "tried": tried},
        "spade_bench": {**fast, "patches_per_second": args.patches / fast["seconds"]},
        "spade_bench_bf16": {**fastest, "patches_per_second": args.patches / fastest["seconds"]},
        "ratio": slow["seconds"] / fast["seconds"],
        "ratio_bf16": slow["seconds"] / fastest["seconds"],
        "ratio_cpu": min(r["cpu_seconds"] for r in tried)
        / min(r["cpu_seconds"] for r in ours if r["precision"] == "fp32"),
        "target": 6.0,
        "equality": {"max_difference": difference, "equal": difference < 1e-3},
        "equality_bf16": {"relative_difference": relative, "equal": relative < 0.01},
        "load_average": list(os.getloadavg()),
    }
    if args.json:
        print(json.dumps(result))
    else:
        rate = result["spade_bench"]["patches_per_second"]
        print(f"{rate:.0f} patches/s, {result['ratio']:.1f}x plain ({result['equality']})")
    return result


if __name__ == "__main__":
    main()
