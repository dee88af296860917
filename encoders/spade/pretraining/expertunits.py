"""Experts trained by several workers: which of them each gets, and what a worker does.

An expert keeps its own order of spots, initial weights and dropout, and leaves its checkpoint in
the folder of the model. So on the CPU it does not matter who trains it, to the bit; on a card the
experts that train together share products, and differ by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench import config
from spade_bench.device import resolve_device
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.preparedspots import Spots
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import (
    TrainingData,
    arithmetic_of,
    train_experts,
)
from spade_bench.errors import UserError
from spade_bench.executors import ExecutorSettings, spread, worker_count

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["parts_of", "spread_experts", "train_share", "training_data"]


def training_data(spots: Spots, expert: np.ndarray, n_experts: int) -> TrainingData:
    """Return what experts train on.

    Args:
        spots: The prepared spots.
        expert: Expert of each spot, (n,).
        n_experts: How many experts there are.
    """
    return TrainingData(
        features=spots.features,
        expression=spots.expression,
        expert=np.asarray(expert, dtype=np.int64),
        split=spots.obs["split"].astype(str).to_numpy(),
        n_experts=n_experts,
        group=spots.panel_group,
    )


def spread_experts(
    data: TrainingData,
    training: TrainingConfig,
    out: Path,
    executor: ExecutorSettings,
    *,
    experts: Sequence[int] | None,
    seed: int,
    device: str,
    initial: bool,
) -> str | None:
    """Train experts on workers; their checkpoints lie in the folder of the model then.

    Args:
        data: The spots.
        training: Settings of the training.
        out: Folder of the model, with its `spots.h5ad`.
        executor: Where the workers run.
        experts: Which experts; None for all.
        seed: Seed.
        device: `auto`, `cpu` or `cuda`.
        initial: Whether they start from the heads of the single expert in `controls/k1`.

    Returns:
        By what arithmetic they trained, see `train_experts`; None where none has run yet.

    Raises:
        UserError: What a worker meets, when workers die again and again, or when some trained on
            cards and others on cores.
    """
    wanted = range(data.n_experts) if experts is None else experts
    sizes = {expert: len(data.rows(expert, "train")) for expert in wanted}
    arguments = {
        "out": str(out),
        # A worker is one process, and what it gets of the machine is its own.
        "training": config.to_dict(replace(training, workers=1)),
        "n_experts": data.n_experts,
        "seed": seed,
        "device": device,
        "initial": initial,
    }
    parts = [{"experts": part} for part in parts_of(sizes, worker_count(executor))]
    found = spread("experts", arguments, out, executor, parts=parts)
    kinds = {one["arithmetic"] for one in found}
    if len(kinds) > 1:
        raise UserError(
            f"workers trained by unlike arithmetic ({' and '.join(sorted(kinds))})",
            where="--executor",
            fix="Give all of them a card, or none; --device says which",
        )
    return kinds.pop() if kinds else None


def parts_of(sizes: Mapping[int, int], n: int) -> list[list[int]]:
    """Share experts out so that the largest part is small: each to the least so far, by size.

    Args:
        sizes: Expert -> number of training spots.
        n: How many parts at most.
    """
    parts: list[list[int]] = [[] for _ in range(min(n, len(sizes)))]
    loads = [0] * len(parts)
    for expert in sorted(sizes, key=lambda e: (-sizes[e], e)):
        # Of equal loads the part with fewest, so that none is empty where experts have no spots.
        least = min(range(len(parts)), key=lambda i: (loads[i], len(parts[i])))
        parts[least].append(expert)
        loads[least] += sizes[expert]
    return [sorted(part) for part in parts]


def train_share(arguments: Mapping[str, Any], seat: tuple[int, int]) -> dict[str, Any]:
    """Train the experts of a worker.

    Args:
        arguments: What `spread_experts` gives it.
        seat: Which worker it is.
    """
    out = Path(arguments["out"])
    spots = Spots(out / "spots.h5ad")
    data = training_data(spots, spots.obs["expert"].to_numpy(), arguments["n_experts"])
    initial: Mapping[str, Tensor] | None = None
    if arguments["initial"]:
        initial = SpadeModel.load(out / "controls" / "k1", device="cpu").heads[0]
    training = config.build(TrainingConfig, arguments["training"], "unit")
    result = train_experts(
        data,
        training,
        out,
        experts=arguments["experts"],
        seed=arguments["seed"],
        device=arguments["device"],
        initial=initial,
    )
    where = resolve_device(arguments["device"])
    return {"experts": sorted(result.weights), "arithmetic": arithmetic_of(training, where)}
