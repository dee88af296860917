"""How fast training, heads and routing are on one GPU, each beside a plain implementation on it.

Plain means own code the usual way, everything already in GPU memory: SPADE's experts one after the
other with torch modules and AdamW; ABMIL one model after the other, one bag per step; every expert
on every patch in routing. The plain side of the first two is timed on a part and its rate counts,
so that the run stays short. Results are compared with the CPU's or the plain ones.

    python benchmarks/gpu.py --json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from heads import PlainAbmil
from pretrain import PlainHead, plain_loss
from routing import Plain, make_world
from scipy import sparse
from torch import nn

from spade_bench.device import setup_numerics
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, train_experts
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, grid_points
from spade_bench.heads.abmil import AbmilConfig
from spade_bench.registry import heads

GRID = {"lr": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3), "hidden": (128, 256, 384, 512)}
FIXED = {"dropout": 0.0, "balanced": False, "min_steps": 0, "attention": 64}


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that the work took on the GPU, and what it returned."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


def pretraining(args: argparse.Namespace) -> dict[str, Any]:
    """Train 16 experts grouped; beside them one expert the plain way."""
    rng = np.random.default_rng(0)
    n, genes, experts = args.spots, 7986, 16
    expression = sparse.random(n, genes, 0.14, "csr", np.float32, random_state=0)
    data = TrainingData(
        rng.normal(size=(n, 1024)).astype(np.float32),
        expression,
        np.arange(n) % experts,
        np.where(rng.random(n) < 0.1, "val", "train"),
        experts,
    )
    steps = max(-(-len(data.rows(e, "train")) // 128) for e in range(experts))  # an epoch
    visits = int((data.split == "train").sum())
    result: dict[str, Any] = {"spots": n, "epochs": args.epochs, "genes": genes}
    for precision in ("fp32", "bf16"):
        taken = {}
        for epochs in (1, args.epochs):  # two lengths tell an epoch from what is done once
            config = TrainingConfig(epochs=epochs, lr=1e-4, layout="grouped")
            config = dataclasses.replace(config, precision=precision)
            with tempfile.TemporaryDirectory() as name:
                work = partial(train_experts, data, config, Path(name), device="cuda")
                taken[epochs], _ = clock(work)
        epoch = (taken[args.epochs] - taken[1]) / (args.epochs - 1)
        result[precision] = {
            "seconds": taken[args.epochs],
            "seconds_once": taken[1] - epoch,
            "spots_per_second": visits / epoch,
            "ms_per_step_of_16": 1000 * epoch / steps,
        }
    seconds = _plain_step(data)
    plain = 128 / seconds
    result["plain"] = {"spots_per_second": plain, "ms_per_step": 1000 * seconds}
    result["ratio"] = result["fp32"]["spots_per_second"] / plain
    result["ratio_bf16"] = result["bf16"]["spots_per_second"] / plain
    return result


def _plain_step(data: TrainingData) -> float:
    """Return the seconds of a step of one expert whose data lies in GPU memory."""
    rows = data.rows(0, "train")
    x = torch.from_numpy(data.features[rows]).cuda()
    g = torch.from_numpy(data.expression[rows].toarray()).cuda()
    model = nn.ModuleList(
        [PlainHead(1024, 256, nn.Dropout(0.1)), PlainHead(g.shape[1], 256, nn.Dropout(0.1))]
    ).cuda()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def steps(count: int) -> None:
        for _ in range(count):
            pick = torch.randint(len(x), (128,), device="cuda")
            loss = plain_loss(model[0](x[pick]), model[1](g[pick]))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

    steps(10)  # kernels are chosen and loaded
    return clock(partial(steps, 200))[0] / 200


def attention_grid(args: argparse.Namespace) -> dict[str, Any]:
    """Train 5 rates x 4 widths x 5 folds stacked; beside them some models the plain way."""
    rng = np.random.default_rng(0)
    label = np.arange(args.bags) % 2
    bags = [rng.standard_normal((args.patches, 1024), np.float32) for _ in label]
    for x, y in zip(bags, label, strict=True):
        x[: args.patches // 10] += 0.3 * y
    bags = [x.astype(np.float16) for x in bags]
    folds = np.arange(args.bags) // 2 % 5
    fits = [
        Fit(np.flatnonzero(folds != f), label[folds != f], np.flatnonzero(folds == f), 0, params=p)
        for f in range(5)
        for p in grid_points(GRID)
    ]
    result: dict[str, Any] = {"models": len(fits), "bags": args.bags, "patches": args.patches}
    visits = sum(len(fit.train) for fit in fits) * args.head_epochs
    for precision in ("fp32", "bf16"):
        settings = {**FIXED, "epochs": args.head_epochs, "precision": precision}
        head = heads.get("abmil").load(HeadOptions("cuda", settings))
        case_bags = CaseBags(bags.__getitem__, len(bags), 1024)
        seconds, got = clock(partial(head.fit_predict, case_bags, fits, 2))
        result[precision] = {
            "seconds": seconds,
            "bags_per_second": visits / seconds,
            "finite": bool(all(np.isfinite(p).all() for p in got)),
        }
    on_card = [torch.from_numpy(x).cuda() for x in bags]
    _plain_models(on_card, label, 1)
    seconds, _ = clock(lambda: _plain_models(on_card, label, 2))
    result["plain"] = {"bags_per_second": 2 * len(label) / seconds}
    for name, precision in (("ratio", "fp32"), ("ratio_bf16", "bf16")):
        result[name] = result[precision]["bags_per_second"] / result["plain"]["bags_per_second"]
    return result


def _plain_models(bags: Sequence[torch.Tensor], label: np.ndarray, models: int) -> None:
    """Train models one after the other for one epoch."""
    target = torch.from_numpy(label).cuda()
    for seed in range(models):
        model = PlainAbmil(1024, AbmilConfig(hidden=384), seed).cuda()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for case, x in enumerate(bags):
            loss = nn.functional.cross_entropy(model(x.float())[None], target[case : case + 1])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()


def linear_sweep(args: argparse.Namespace) -> dict[str, Any]:
    """Fit 6 shots x 20 draws as one batch, as a task with one encoder does; agree with the CPU."""
    rng = np.random.default_rng(1)
    label = np.arange(400) % 2
    x = rng.normal(size=(400, 1024)) + 0.15 * rng.normal(size=1024) * label[:, None]
    bags = CaseBags(x.astype(np.float32)[:, None].__getitem__, len(x), 1024)
    bags.pooled()
    fits = []
    for k in (1, 2, 4, 8, 16, 32):
        for draw in range(20):
            stream = np.random.default_rng([k, draw])
            train = np.concatenate(
                [stream.choice(np.flatnonzero(label[:200] == c), k, False) for c in (0, 1)]
            )
            fits.append(Fit(train, label[train], np.arange(200, 400), seed=draw))
    out: dict[str, Any] = {"fits": len(fits)}
    got = {}
    for device in ("cpu", "cuda"):
        head = heads.get("logistic").load(HeadOptions(device))
        head.fit_predict(bags, fits[:2], 2)
        out[device], got[device] = clock(partial(head.fit_predict, bags, fits, 2))
    far = max(np.abs(a - b).max() for a, b in zip(got["cpu"], got["cuda"], strict=True))
    return out | {"probability_difference": float(far), "equal": bool(far < 1e-5)}


def routing(args: argparse.Namespace) -> dict[str, Any]:
    """Encode patches from host memory; beside it every expert on every patch."""
    world = argparse.Namespace(patches=args.route, experts=16, centroids=240, dim=1024, spread=0.22)
    cpu, features = make_world(world)
    result: dict[str, Any] = {"patches": args.route}
    want = cpu.encode(features[:4096])
    for precision in ("fp32", "bf16"):
        model = SpadeModel(
            cpu.info, cpu.experts, (), dict(cpu.heads), device="cuda", precision=precision
        )
        model.encode(features[:4096])
        seconds, got = clock(partial(model.encode, features))
        error = np.linalg.norm(got[:4096] - want) / np.linalg.norm(want)
        result[precision] = {
            "patches_per_second": args.route / seconds,
            "relative_difference_to_cpu": float(error),
        }
    plain = Plain(cpu)
    plain.centroids, plain.owner = plain.centroids.cuda(), plain.owner.cuda()
    plain.heads = [tuple(m.cuda() for m in head) for head in plain.heads]  # type: ignore[misc]

    @torch.no_grad()
    def dense() -> None:
        for i in range(0, args.route, 16_384):
            x = torch.from_numpy(features[i : i + 16_384]).cuda()
            out = torch.zeros(len(x), 256, device="cuda")
            share = torch.softmax(-torch.cdist(x, plain.centroids) / 0.1, dim=1)
            for expert, (projection, fc, norm) in enumerate(plain.heads):
                weight = share[:, plain.owner == expert].sum(dim=1, keepdim=True)
                p = projection(x)
                out += weight * norm(fc(nn.functional.gelu(p)) + p)
            out.cpu()

    dense()
    seconds, _ = clock(dense)
    result["plain"] = {"patches_per_second": args.route / seconds}
    for name, precision in (("ratio", "fp32"), ("ratio_bf16", "bf16")):
        ours = result[precision]["patches_per_second"]
        result[name] = ours / result["plain"]["patches_per_second"]
    return result


PARTS = {
    "pretrain": pretraining,
    "grid": attention_grid,
    "sweep": linear_sweep,
    "routing": routing,
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--spots", type=int, default=64_000, help="spots of all 16 experts")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of pretraining, 2 or more")
    parser.add_argument("--bags", type=int, default=50)
    parser.add_argument("--patches", type=int, default=10_000, help="patches per bag")
    parser.add_argument("--head-epochs", type=int, default=2)
    parser.add_argument("--route", type=int, default=500_000, help="patches to route")
    parser.add_argument("--only", choices=sorted(PARTS), help="run one of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object a part")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; the CPU benchmarks are the other files")
    setup_numerics(torch.device("cuda"))
    results: dict[str, Any] = {"benchmark": "gpu", "device": torch.cuda.get_device_name()}
    print(results["device"], flush=True)
    for name, part in PARTS.items():
        if args.only in (None, name):
            torch.cuda.reset_peak_memory_stats()
            results[name] = part(args)
            results[name]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            print(json.dumps({name: results[name]}), flush=True)
    return results


if __name__ == "__main__":
    main()
