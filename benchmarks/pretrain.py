"""How much faster SPADE's experts train here than by the plain procedure, on CPU.

The plain procedure (own code) is the one of the public SPADE release: one expert after the other,
a DataLoader whose dataset looks up a pandas row, opens one .npy a spot and takes a strided column
of the genes x spots matrix, AdamW and a cosine per step. It is tried at several settings of threads
and loader workers and counts at its best. Both sides train the same spots for the same epochs with
validation at each and end with the best weights; our side starts from packed arrays on disk, which
preparation leaves behind, and includes starting its processes, checkpoints and collecting.

    python benchmarks/pretrain.py --json
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from budget import budget
from scipy import sparse
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig, settled
from spade_bench.encoders.spade.pretraining.training import TrainingData, TrainResult, train_experts
from spade_bench.encoders.spade.pretraining.training.schedule import Schedule
from spade_bench.encoders.spade.streams import dropout_keep, dropout_keys

SAMPLES = 8
SEED = 0


@dataclasses.dataclass(frozen=True)
class World:
    """Made-up spots, packed and in the layout of the public release."""

    data: TrainingData
    table: pd.DataFrame
    matrices: list[np.ndarray]


def make_world(folder: Path, args: argparse.Namespace) -> World:
    """Write both layouts.

    About 14% of the counts are above zero, spread over genes as in sections: a few genes are in
    most spots, half of them in fewer than one spot in twenty.
    """
    rng = np.random.default_rng(SEED)
    sizes = rng.integers(args.spots // 2, args.spots * 3 // 2, args.experts)
    n = int(sizes.sum())
    latent = rng.normal(size=(n, 8)).astype(np.float32)
    weights = rng.normal(size=(8, args.dim)).astype(np.float32)
    features = latent @ weights + rng.normal(size=(n, args.dim)).astype(np.float32)
    # Counts are drawn for some spots and repeated: the work does not depend on it.
    drawn = min(n, 2400)
    rates = rng.lognormal(-3.2, 1.9, args.genes)
    programme = np.exp(0.3 * latent[:drawn] @ rng.normal(size=(8, args.genes)))
    dense = np.log1p(rng.poisson(rates * programme)).astype(np.float32)
    dense = dense[np.arange(n) % drawn]
    table = pd.DataFrame(
        {
            "id": rng.integers(SAMPLES, size=n),
            "expert": np.repeat(np.arange(args.experts), sizes),
            "split": np.where(rng.random(n) < 0.1, "val", "train"),
        }
    )
    table["bead"] = table.groupby("id").cumcount()
    table["file"] = [
        str(folder / f"{sample}_{bead}.npy")
        for sample, bead in zip(table["id"], table["bead"], strict=True)
    ]
    matrices = []
    for sample in range(SAMPLES):
        rows = np.flatnonzero(table["id"] == sample)
        matrices.append(np.ascontiguousarray(dense[rows].T))  # genes x spots
    for path, row in zip(table["file"], features, strict=True):
        np.save(path, row)
    np.save(folder / "features.npy", features)
    packed = np.load(folder / "features.npy", mmap_mode="r")
    expert, split = table["expert"].to_numpy(np.int64), table["split"].to_numpy(str)
    data = TrainingData(packed, sparse.csr_matrix(dense), expert, split, args.experts)
    return World(data, table, matrices)


class PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """One spot at a time: a pandas row, a file, a column of the matrix."""

    def __init__(self, table: pd.DataFrame, matrices: list[np.ndarray]) -> None:
        self.table, self.matrices = table, matrices

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        row = self.table.iloc[i]
        feature = np.load(row["file"])
        expression = self.matrices[row["id"]][:, row["bead"]]
        return torch.from_numpy(feature), torch.from_numpy(np.ascontiguousarray(expression))


class PlainHead(nn.Module):
    """A projection head written the usual way."""

    def __init__(self, width: int, dim: int, dropout: nn.Module) -> None:
        super().__init__()
        self.projection = nn.Linear(width, dim)
        self.gelu = nn.GELU()
        self.fc = nn.Linear(dim, dim)
        self.dropout = dropout
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, z: Tensor) -> Tensor:
        """Embed (n, in) as (n, P)."""
        p = self.projection(z)
        h: Tensor = self.layer_norm(self.dropout(self.fc(self.gelu(p))) + p)
        return h


class KeyedDropout(nn.Module):
    """The dropout stream of spade_bench, so that results can be compared."""

    def __init__(self, expert: int, head: int) -> None:
        super().__init__()
        self.expert, self.head, self.count = expert, head, 0

    def forward(self, h: Tensor) -> Tensor:
        """Drop elements of (n, P) in training."""
        if not self.training:
            return h
        keys = dropout_keys(SEED, self.expert, self.count, self.count + 1)[self.head]
        self.count += 1
        return h * dropout_keep(keys, h.shape[0], h.shape[1], 0.1)[0]


def plain_loss(image: Tensor, spot: Tensor) -> Tensor:
    logits = spot @ image.T
    targets = torch.softmax((image @ image.T + spot @ spot.T) / 2, dim=-1)
    by_spot = (-targets * nn.functional.log_softmax(logits, dim=-1)).sum(1)
    by_image = (-targets.T * nn.functional.log_softmax(logits.T, dim=-1)).sum(1)
    return ((by_spot + by_image) / 2).mean()


def train_plain(
    world: World, expert: int, config: TrainingConfig, *, workers: int, keyed: bool = False
) -> tuple[dict[str, Tensor], int]:
    """Train one expert the plain way; return its best weights and the training spots visited."""
    inside = world.table[world.table["expert"] == expert]
    parts = [inside[inside["split"] == split].reset_index(drop=True) for split in ("train", "val")]
    train, val = (PlainDataset(part, world.matrices) for part in parts)
    plan = Schedule(SEED, expert, len(train), len(val), config)
    start = ExpertPair.create(
        world.data.features.shape[1], len(world.matrices[0]), seed=SEED, expert=expert
    )
    heads = [
        PlainHead(h.in_dim, h.dim, KeyedDropout(expert, i) if keyed else nn.Dropout(0.1))
        for i, h in enumerate((start.image, start.spot))
        if h is not None
    ]
    model = nn.ModuleDict(dict(zip(("image", "spot"), heads, strict=True)))
    model.load_state_dict(start.state_dict())
    rate, epochs = settled(config.lr, "training.lr"), settled(config.epochs, "training.epochs")
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.total_steps)
    val_batches = [(batch - len(train)).tolist() for batch in plan.validation_batches()]
    val_loader = DataLoader(val, batch_sampler=val_batches, num_workers=workers)
    best, best_weights = math.inf, copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        batches = [batch.tolist() for batch in plan.batches(epoch)]
        loader = DataLoader(train, batch_sampler=batches, num_workers=workers)
        model.train()
        for x, g in loader:
            loss = plain_loss(model["image"](x), model["spot"](g))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
        model.eval()
        total = 0.0
        with torch.no_grad():
            for x, g in val_loader:
                total += float(plain_loss(model["image"](x), model["spot"](g))) * len(x)
        if total < best:
            best, best_weights = total, copy.deepcopy(model.state_dict())
    return best_weights, len(train) * epochs


def tune_plain(world: World, cores: int) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Try thread and worker settings on one expert for an epoch; return the best and all rates."""
    tried: list[dict[str, Any]] = []
    config = TrainingConfig(epochs=1, lr=1e-4)
    inside = world.table[world.table["expert"] == 0].head(640)
    world = dataclasses.replace(world, table=inside)
    torch.set_float32_matmul_precision("highest")
    settings = dict.fromkeys((t, w) for t in (1, cores) for w in (0, 1, cores))
    for threads, workers in settings:
        torch.set_num_threads(threads)
        clock = time.perf_counter()
        _, visited = train_plain(world, 0, config, workers=workers)
        rate = visited / (time.perf_counter() - clock)
        tried.append({"threads": threads, "workers": workers, "spots_per_second": round(rate)})
    best = max(tried, key=lambda row: row["spots_per_second"])
    return {"threads": best["threads"], "workers": best["workers"]}, tried


def clocked(work: Callable[[], object]) -> dict[str, float]:
    """Return wall seconds, and CPU seconds of this process and its children: the busy machine's
    view and what the work itself took.
    """
    before, clock = os.times(), time.perf_counter()
    work()
    wall, after = time.perf_counter() - clock, os.times()
    return {"seconds": wall, "cpu_seconds": sum(after[:4]) - sum(before[:4])}


def run_plain(world: World, config: TrainingConfig, setting: dict[str, int]) -> None:
    """Train every expert the plain way."""
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(setting["threads"])
    for expert in range(world.data.n_experts):
        train_plain(world, expert, config, workers=setting["workers"])


def run_ours(world: World, config: TrainingConfig, out: Path) -> None:
    """Train every expert as `spade-bench pretrain` does."""
    train_experts(world.data, config, out, seed=SEED, device="cpu")


def compare(world: World, folder: Path) -> dict[str, Any]:
    """Train one expert for two epochs both ways, dropout alike, and compare what comes out."""
    config = TrainingConfig(epochs=2, lr=1e-4)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    plain, _ = train_plain(world, 1, config, workers=0, keyed=True)
    ours: TrainResult = train_experts(
        world.data, config, folder / "equal", experts=[1], seed=SEED, device="cpu"
    )
    start = ExpertPair.create(
        world.data.features.shape[1], len(world.matrices[0]), seed=SEED, expert=1
    ).state_dict()
    difference, change = (
        math.sqrt(sum(float((t - other[k]).square().sum()) for k, t in ours.weights[1].items()))
        for other in (plain, start)
    )
    # Adam turns rounding noise in vanishing gradients into steps of full size, so single weights
    # may differ by a step; as a whole the two end at the same place.
    return {
        "weight_difference": difference,
        "weight_change_in_training": change,
        "equal": difference < 5e-3 * change,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--spots", type=int, default=1200, help="spots per expert, on average")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--dim", type=int, default=1024, help="width D of the base features")
    parser.add_argument("--genes", type=int, default=7986, help="genes G of the panel")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--budget", action="store_true", help="print what a GPU would need, counted (budget.py)"
    )
    args = parser.parse_args(arguments)
    if args.budget:
        counted = budget()
        print(json.dumps(counted, indent=1))
        return counted
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    config = TrainingConfig(epochs=args.epochs, lr=1e-4, layout="processes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = make_world(folder, args)
        visits = int((world.table["split"] == "train").sum()) * args.epochs
        equality = compare(world, folder)
        setting, tried = tune_plain(world, cores)
        plain = clocked(partial(run_plain, world, config, setting))
        ours = {}
        for precision in ("fp32", "bf16"):
            exact = dataclasses.replace(config, precision=precision)
            ours[precision] = clocked(partial(run_ours, world, exact, folder / precision))
    matrix = world.data.expression

    def rate(row: dict[str, float]) -> dict[str, float]:
        return {"spots_per_second": visits / row["seconds"]}

    result = {
        "benchmark": "pretrain",
        "sizes": {
            "experts": args.experts,
            "training_spots": visits // args.epochs,
            "epochs": args.epochs,
            "D": args.dim,
            "G": args.genes,
            "batch": config.batch_size,
            "gene_density": round(matrix.nnz / (matrix.shape[0] * matrix.shape[1]), 3),
            "cores": cores,
        },
        "plain": plain | rate(plain) | setting | {"tried": tried},
        "spade_bench": ours["fp32"] | rate(ours["fp32"]),
        "spade_bench_bf16": ours["bf16"] | rate(ours["bf16"]),
        "ratio": plain["seconds"] / ours["fp32"]["seconds"],
        "ratio_bf16": plain["seconds"] / ours["bf16"]["seconds"],
        "ratio_cpu": plain["cpu_seconds"] / ours["fp32"]["cpu_seconds"],
        "target": 5.0,
        "equality": equality,
        "load_average": list(os.getloadavg()),
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{ours['fp32']['seconds']:.1f} s, {result['ratio']:.1f}x plain ({equality})")
    return result


if __name__ == "__main__":
    main()
