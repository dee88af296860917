"""What a session with a real GPU should run, beside the tests: numbers, seconds, memory, as JSON.

`gpu.sh` runs it. Each part is short, says what it compares with, and needs nothing beyond torch,
timm, h5py and scikit-learn. Pretraining runs at the scale of HEST-1k (534,000 spots, 7,986 genes,
16 experts): a few epochs tell an epoch from what is done once, and 100 epochs are computed from
that. The plain sides (own code the usual way, everything already in GPU memory) are
timed on a part.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --rehearse            # tiny sizes, on any machine
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

from spade_bench.device import autocast, resolve_device, setup_numerics
from spade_bench.encoders.common.timmodel import HALF, TimmEncoder
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.pretraining.beside import training_beside
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, train_experts
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, grid_points
from spade_bench.heads.abmil import AbmilConfig
from spade_bench.registry import heads
from spade_bench.types import EncoderCard, LoadOptions

GRID = {"lr": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3), "hidden": (128, 256, 384, 512)}
FIXED = {"dropout": 0.0, "balanced": False, "min_steps": 0, "attention": 64}


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that the work took on the GPU, and what it returned."""
    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - start, result


def wait() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_spots(args: argparse.Namespace, experts: int) -> TrainingData:
    """Return made-up spots; the expression of a few thousand is repeated, the work is the same."""
    rng = np.random.default_rng(0)
    n, drawn = args.spots, min(args.spots, 4096)
    block = sparse.random(drawn, args.genes, 0.14, "csr", np.float32, random_state=0)
    repeats = -(-n // drawn)
    counts = np.tile(np.diff(block.indptr), repeats)[:n]
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    data, indices = (np.tile(a, repeats)[: indptr[-1]] for a in (block.data, block.indices))
    matrix = sparse.csr_matrix((data, indices.astype(np.int32), indptr), (n, args.genes))
    return TrainingData(
        rng.standard_normal((n, args.dim), np.float32),
        matrix,
        np.arange(n) % experts,
        np.where(rng.random(n) < 0.1, "val", "train"),
        experts,
        fingerprint=f"made up {n} {experts}",
    )


def agreement(args: argparse.Namespace) -> dict[str, Any]:
    """Train experts and an attention head on both devices; how far apart they end."""
    small = argparse.Namespace(spots=2000, genes=300, dim=64)
    data = make_spots(small, 4)
    config = TrainingConfig(epochs=3, lr=1e-4, batch_size=64, proj_dim=32, layout="grouped")
    found = {}
    for device in ("cpu", args.device):
        with tempfile.TemporaryDirectory() as name:
            found[device] = train_experts(data, config, Path(name), device=device).weights
    apart = moved = 0.0
    for expert, weights in found["cpu"].items():
        start = ExpertPair.create(64, 300, 32, seed=0, expert=expert).state_dict()
        for key, tensor in weights.items():
            apart += float((tensor - found[args.device][expert][key]).square().sum())
            moved += float((tensor - start[key]).square().sum())
    rng = np.random.default_rng(0)
    bags = [rng.standard_normal((200, 64), np.float32) for _ in range(12)]
    label, cases = np.arange(12) % 2, np.arange(12)
    fits = [Fit(cases[:8], label[:8], cases[8:], seed) for seed in range(4)]
    said = {}
    for device in ("cpu", args.device):
        params = {"epochs": 5, "dropout": 0.0, "min_steps": 0}
        head = heads.get("abmil").load(HeadOptions(device, params))
        said[device] = np.stack(head.fit_predict(CaseBags(bags.__getitem__, 12, 64), fits, 2))
    difference = float(np.abs(said["cpu"] - said[args.device]).max())
    return {
        "weights_apart_over_moved": (apart / moved) ** 0.5,
        "largest_difference_of_probabilities": difference,
        "agree": (apart / moved) ** 0.5 < 0.1 and difference < 1e-3,
    }


def pretraining(args: argparse.Namespace) -> dict[str, Any]:
    """Train the experts, and the K = 1 control, alone and side by side."""
    data = {"experts": make_spots(args, 16)}
    data["control"] = dataclasses.replace(
        data["experts"], expert=np.zeros(args.spots, np.int64), n_experts=1, fingerprint="one"
    )
    result: dict[str, Any] = {"spots": args.spots, "genes": args.genes}
    alone: dict[tuple[str, str], tuple[float, float]] = {}
    for precision in args.precisions:
        for name, of in data.items():
            once, epoch = alone[name, precision] = _trained(
                of, args.epochs[name], precision, args.device
            )
            steps = -(-int((of.split == "train").sum()) // of.n_experts // 128)
            result[f"{name}_{precision}"] = {
                "seconds_per_epoch": epoch,
                "seconds_once": once,
                "milliseconds_per_step": 1000 * epoch / steps,
                "seconds_of_100_epochs": once + 100 * epoch,
            }
    for precision in args.precisions:
        beside = _side_by_side(data, args.epochs, precision, args.device)
        once = max(once for once, _ in beside.values())
        experts, control = (beside[name][1] for name in ("experts", "control"))
        # Until the experts have ended both share the GPU; then the control has it alone.
        shared = 100 * experts
        rest = max(0.0, 100 - shared / control) * alone["control", precision][1]
        result[f"side_by_side_{precision}"] = {
            "seconds_per_epoch_of_experts": experts,
            "seconds_per_epoch_of_control": control,
            "seconds_once": once,
            "seconds_of_100_epochs": once + shared + rest,
        }
    if args.device == "cuda":
        seconds = _plain_step(data["experts"])
        result["plain"] = {"milliseconds_per_step_of_one_expert": 1000 * seconds}
    return result


def _trained(data: TrainingData, epochs: int, precision: str, device: str) -> tuple[float, float]:
    """Return the seconds of what is done once, and those of an epoch.

    An epoch's are the median without the first two, in which kernels are chosen and captured.
    """
    config = TrainingConfig(epochs=epochs, lr=1e-4, layout="grouped")
    config = dataclasses.replace(config, precision=precision)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        seconds, got = clock(partial(train_experts, data, config, Path(name), device=device))
    each = [float(row["seconds"]) for row in got.history if row["expert"] == 0]
    epoch = float(np.median(each[2:] or each[-1:]))
    return max(0.0, seconds - epochs * epoch), epoch


def _side_by_side(
    data: dict[str, TrainingData], epochs: dict[str, int], precision: str, device: str
) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}

    def train(name: str) -> None:
        found[name] = _trained(data[name], epochs[name], precision, device)

    with training_beside(lambda _: train("control")):
        train("experts")
    return found


def _plain_step(data: TrainingData) -> float:
    """Return the seconds of a step of one expert whose data lies in GPU memory."""
    rows = data.rows(0, "train")[:20_000]
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
    drawn = [rng.standard_normal((args.patches, 1024), np.float32) for _ in range(8)]
    for x in drawn[1::2]:
        x[: args.patches // 10] += 0.3
    drawn = [x.astype(np.float16) for x in drawn]
    bags = [drawn[case % 8] for case in range(args.bags)]  # as many bags on the GPU all the same
    folds = np.arange(args.bags) // 2 % 5
    fits = [
        Fit(np.flatnonzero(folds != f), label[folds != f], np.flatnonzero(folds == f), 0, params=p)
        for f in range(5)
        for p in grid_points(GRID)
    ]
    result: dict[str, Any] = {"models": len(fits), "bags": args.bags, "patches": args.patches}
    visits = sum(len(fit.train) for fit in fits)
    for precision in args.precisions:
        taken = []
        for epochs in args.head_epochs:
            settings = {**FIXED, "epochs": epochs, "precision": precision}
            head = heads.get("abmil").load(HeadOptions(args.device, settings))
            case_bags = CaseBags(bags.__getitem__, len(bags), 1024)
            seconds, got = clock(partial(head.fit_predict, case_bags, fits, 2))
            taken.append(seconds)
        epoch = (taken[1] - taken[0]) / (args.head_epochs[1] - args.head_epochs[0])
        once = max(0.0, taken[0] - args.head_epochs[0] * epoch)
        result[precision] = {
            "seconds_per_epoch": epoch,
            "seconds_once": once,
            "bags_per_second": visits / epoch,
            "finite": bool(all(np.isfinite(p).all() for p in got)),
            "seconds_of_500_bags_20_epochs": (once + 20 * epoch) * 500 / args.bags,
        }
    if args.device == "cuda":
        on_card = [torch.from_numpy(x).cuda() for x in bags[:50]]
        _plain_models(on_card, label[:50], 1)
        seconds, _ = clock(lambda: _plain_models(on_card, label[:50], 2))
        result["plain"] = {"bags_per_second": 2 * 50 / seconds}
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


def routing(args: argparse.Namespace) -> dict[str, Any]:
    """Encode patches from host memory; beside it every expert on every patch."""
    world = argparse.Namespace(patches=args.route, experts=16, centroids=240, dim=1024, spread=0.22)
    cpu, features = make_world(world)
    result: dict[str, Any] = {"patches": args.route}
    want = cpu.encode(features[:4096])
    for precision in args.precisions:
        model = SpadeModel(
            cpu.info, cpu.experts, (), dict(cpu.heads), device=args.device, precision=precision
        )
        model.encode(features[:4096])
        seconds, got = clock(partial(model.encode, features))
        error = np.linalg.norm(got[:4096] - want) / np.linalg.norm(want)
        result[precision] = {
            "patches_per_second": args.route / seconds,
            "relative_difference_to_cpu": float(error),
        }
    if args.device != "cuda":
        return result
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


def extraction(args: argparse.Namespace) -> dict[str, Any]:
    """Encode patches from host memory by a ViT; its share of what the GPU alone could do."""
    import timm

    name = "vit_tiny_patch16_224" if args.rehearse else "vit_large_patch16_224"
    model: Any = timm.create_model(name, num_classes=0)
    dim = int(model.num_features)
    card = EncoderCard(name, "image", dim, "random weights", patch_px=224, mpp=0.5)
    card = dataclasses.replace(card, normalisation=HALF)
    options = LoadOptions(device=args.device, precision="bf16")
    encoder = TimmEncoder(card, model, options)
    batch = 4 if args.rehearse else 256
    images = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), np.uint8)
    encoder.encode(images)
    lanes = max(2, encoder.lanes)

    def stream() -> None:
        with ThreadPoolExecutor(lanes) as pool:
            list(pool.map(lambda _: encoder.encode(images), range(args.batches)))

    def alone() -> None:
        x = torch.from_numpy(images).to(encoder.device)
        with torch.inference_mode(), autocast(encoder.device, "bf16"):
            for _ in range(args.batches):
                encoder.model(x.float().permute(0, 3, 1, 2))

    alone()
    seconds, busy = clock(stream)[0], clock(alone)[0]
    return {
        "model": name,
        "patches_per_second": batch * args.batches / seconds,
        "busy_share": busy / seconds,
    }


PARTS = {
    "agreement": agreement,
    "pretrain": pretraining,
    "grid": attention_grid,
    "routing": routing,
    "extraction": extraction,
}
REHEARSAL = {
    "spots": 2600, "genes": 60, "dim": 32, "epochs": {"experts": 3, "control": 3},
    "bags": 10, "patches": 16,
    "head_epochs": [1, 2], "route": 600, "batches": 2, "precisions": ["fp32"],
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="also write the results there, part by part")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, without a GPU too")
    parser.add_argument("--only", choices=sorted(PARTS), help="run one part")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no part after these")
    args = parser.parse_args(arguments)
    sizes = {
        "spots": 534_000, "genes": 7986, "dim": 1024, "epochs": {"experts": 10, "control": 4},
        "bags": 100, "patches": 10_000, "head_epochs": [1, 4], "route": 500_000, "batches": 40,
        "precisions": ["fp32", "bf16"],
    }  # fmt: skip
    vars(args).update(REHEARSAL if args.rehearse else sizes)
    if not torch.cuda.is_available() and not args.rehearse:
        raise SystemExit("no CUDA device here; --rehearse runs the parts at tiny sizes")
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    setup_numerics(resolve_device(args.device))
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    results: dict[str, Any] = {"benchmark": "gpu", "device": name, "torch": torch.__version__}
    results["rehearsal"] = args.rehearse
    began = time.monotonic()
    for part, run in PARTS.items():
        if args.only not in (None, part):
            continue
        if time.monotonic() - began > 60 * args.minutes:
            results[part] = {"not_run": f"{args.minutes:g} minutes were over"}
            continue
        results[part] = _measured(partial(run, args), args.device)
        print(json.dumps({part: results[part]}), flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps(results, indent=1))
    return results


def _measured(run: Callable[[], dict[str, Any]], device: str) -> dict[str, Any]:
    """Run a part; one that fails says so and leaves the others their turn."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    try:
        found = run()
    except Exception as error:
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}"}
    found["part_seconds"] = time.monotonic() - began
    if device == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


if __name__ == "__main__":
    main()
