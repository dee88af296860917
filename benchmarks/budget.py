"""What pretraining and the attention grid must cost on one H100, counted without a GPU.

The very steps that run on a GPU are run here on tensors without content (torch's fake tensors) at
full size. Every operation is counted as the kernels that it is on CUDA, with the bytes it reads and
writes and, for matrix products, its multiplications. A kernel takes what its bytes or its
multiplications take, whichever is more, and never less than a launch inside a graph. What cannot be
counted so (the rates below, the time between kernels of a graph) is an assumption, and named.

    python benchmarks/pretrain.py --budget
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training.grouped import ExpertStack
from spade_bench.heads._objectives import OBJECTIVES
from spade_bench.heads.abmil import AbmilConfig, forward, initial
from spade_bench.heads.training.modelstack import fold_scaling

BYTES_PER_SECOND = 3e12  # memory of an H100, measured
FLOPS = {"fp32": 50e12, "bf16": 600e12}  # three quarters of what was measured, or of the data sheet
KERNEL_SECONDS = 2e-6  # from one kernel of a graph to the next, its work included, at least
HOST_SECONDS = 12e-6  # of a launch of a graph
PINNED_BYTES_PER_SECOND = 20e9
HOST_COPY = 2e9  # bytes of sparse rows per second into pinned memory, values rounded, one core
_PRODUCTS = {"bmm", "baddbmm", "mm", "addmm"}
_OPTIMISER = {"_fused_adamw_"}
_NO_KERNELS = {"device", "empty", "new_empty", "empty_like", "empty_strided", "detach"}

HEST: dict[str, Any] = {
    "spots": 534_000, "experts": 16, "genes": 7986, "dim": 1024, "epochs": 100, "nonzero": 0.14,
}  # fmt: skip


@dataclass
class Cost:
    """What a piece of work asks of the GPU."""

    kernels: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    busy: float = 0.0  # seconds of memory or multipliers alone, without waiting between kernels
    by_kind: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, moved: float, flops: float, rate: float, kernels: int = 1) -> None:
        """Count an operation."""
        work = max(moved / BYTES_PER_SECOND, flops / rate)
        self.kernels += kernels
        self.bytes, self.flops, self.busy = self.bytes + moved, self.flops + flops, self.busy + work
        seconds = max(work, kernels * KERNEL_SECONDS)
        self.seconds += seconds
        self.by_kind[kind] = self.by_kind.get(kind, 0.0) + seconds

    def summary(self) -> dict[str, Any]:
        """As plain numbers."""
        kinds = {k: round(v * 1e6, 1) for k, v in sorted(self.by_kind.items(), key=lambda x: -x[1])}
        return {
            "kernels": self.kernels,
            "megabytes": round(self.bytes / 1e6, 1),
            "gigaflops": round(self.flops / 1e9, 2),
            "milliseconds": round(self.seconds * 1e3, 4),
            "busy_milliseconds": round(self.busy * 1e3, 4),
            "microseconds_of": kinds,
        }


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is run under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _OPTIMISER:  # parameters, gradients, two moments read; all but gradients written
            size = sum(_size(t) for t in args[0])
            self.cost.add(name, 7 * size, 0.0, 1.0)
            return None
        out = func(*args, **kwargs)
        returned = [r.alias_info for r in func._schema.returns]
        view = bool(returned) and all(a is not None and not a.is_write for a in returned)
        if view or name in {
            "device",
            "empty",
            "new_empty",
            "empty_like",
            "detach",
            "empty_strided",
        }:
            return out
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        written = sum(_size(t) for t in made)
        # A gather reads what it writes, not all that there is.
        moved = 2 * written if name in {"index_select", "index"} else written + _read(given)
        if name in _PRODUCTS:
            left = given[-2]
            rate = FLOPS["bf16" if left.dtype == torch.bfloat16 else "fp32"]
            flops = 2.0 * made[0].numel() * left.shape[-1]
            self.cost.add("products", moved, flops, rate, 1 + (name == "baddbmm"))
            return out
        self.cost.add(name, moved, 0.0, 1.0)
        return out


def _size(t: Tensor) -> float:
    return float(t.numel() * t.element_size())


def _read(tensors: list[Tensor]) -> float:
    """Bytes of the tensors, of which broadcast ones are read once."""
    total = 0.0
    for t in tensors:
        own = math.prod(n for n, s in zip(t.shape, t.stride(), strict=True) if s) if t.ndim else 1
        total += own * t.element_size()
    return total


def counted(work: Callable[[], object]) -> Cost:
    """Run work on fake tensors and count it."""
    counter = Counter()
    with counter:
        work()
    return counter.cost


class _Fake:
    """Stands for `ResidentData` with dense expression in half precision on the device."""

    resident = True

    def __init__(self, spots: int, dim: int, genes: int, low: bool) -> None:
        self.x = torch.empty(spots, dim)
        self.g = torch.empty(spots, genes, dtype=torch.bfloat16 if low else torch.float16)

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """As `ResidentData.read`."""
        return self.x.index_select(0, index), self.g.index_select(0, index)

    def group(self, index: Tensor) -> None:
        """All spots measure all genes."""


def training_cost(experts: int, precision: str, *, size: dict[str, Any]) -> dict[str, Cost]:
    """Count a training step, a validation batch and a block of dropout of ``experts`` experts."""
    config = TrainingConfig(epochs=1, lr=1e-4, precision=precision)  # type: ignore[arg-type]
    n, p, a = config.batch_size, config.proj_dim, experts
    shapes = {
        "image": (a, size["dim"], p),
        "spot": (a, size["genes"], p),
        "first_bias": (a, 2, p),
        "second": (a, 2, p, p),
        "second_bias": (a, 2, p),
        "gain": (a, 2, p),
        "shift": (a, 2, p),
    }
    with FakeTensorMode(allow_non_fake_inputs=True):
        stack = ExpertStack.__new__(ExpertStack)
        stack.config, stack.device, stack.low = config, torch.device("cpu"), precision == "bf16"
        spots = _Fake(size["spots"], size["dim"], size["genes"], stack.low)
        stack.data = spots  # type: ignore[assignment]
        stack.groups = [{k: torch.empty(v) for k, v in shapes.items()} for _ in range(3)]
        stack.members = [None] * a  # type: ignore[list-item]
        stack.lanes = []  # kernels that run side by side take as long as their bytes
        stack.sums = torch.zeros(2, a, dtype=torch.float64)
        stack.at = torch.zeros(2, dtype=torch.int64)
        tables: Any = SimpleNamespace(
            places=torch.zeros(260, a, n, dtype=torch.int64),
            sizes=torch.zeros(260, a, dtype=torch.int64),
            numbers=torch.zeros(260, 3, a),
            rows=torch.arange(n),
            masks=torch.empty(16, a, 2, n, p),
        )
        stack.tables = stack.val_tables = tables
        return {
            "step": counted(lambda: stack._update(a)),
            "validation": counted(stack._validate_batch),
        }


def pretraining_budget(precision: str = "fp32") -> dict[str, Any]:
    """Return what pretraining at the scale of HEST-1k costs, alone and with its control."""
    size, n = HEST, 128
    per_epoch = math.ceil(size["spots"] / size["experts"] / n)
    val = math.ceil(0.1 * size["spots"] / size["experts"] / n)
    result: dict[str, Any] = {"precision": precision, "sizes": size}
    seconds = {}
    for name, experts, steps, val_steps in (
        ("experts", size["experts"], per_epoch, val),
        ("control", 1, math.ceil(size["spots"] / n), math.ceil(0.1 * size["spots"] / n)),
    ):
        cost = training_cost(experts, precision, size=size)
        total = {}
        for what in ("seconds", "busy"):
            step, batch = getattr(cost["step"], what), getattr(cost["validation"], what)
            masks = 0.13e-6 * experts * 256 / 16 * 0.25  # 20 passes over 8 bytes per pair, per step
            total[what] = size["epochs"] * (steps * (step + masks) + val_steps * batch)
        total["host"] = size["epochs"] * (steps + val_steps) * HOST_SECONDS
        seconds[name] = total
        result[name] = {
            "step": cost["step"].summary(),
            "validation": cost["validation"].summary(),
            "steps": steps * size["epochs"],
            "launches_outside_a_graph_per_step": 0,
            "seconds": round(total["seconds"], 1),
            "busy_seconds": round(total["busy"], 1),
            "host_seconds": round(total["host"], 1),
        }
    sparse = size["spots"] * size["genes"] * size["nonzero"] * 8
    dense = size["spots"] * size["dim"] * 4
    once = sparse / HOST_COPY + (sparse * 0.75 + dense) / PINNED_BYTES_PER_SECOND
    many, single = seconds["experts"], seconds["control"]
    # The control is a chain of short kernels, between which the experts' find room.
    both = max(single["seconds"], many["busy"] + single["busy"]) + once
    result["once_seconds"] = round(once, 1)
    result["seconds"] = round(many["seconds"] + once, 1)
    result["seconds_with_control"] = round(both, 1)
    result["bars"] = {"seconds": 25, "seconds_with_control": 90}
    return result


def grid_budget(precision: str = "fp32") -> dict[str, Any]:
    """Return what 5 rates x 4 widths x 5 folds of attention pooling cost: 20 epochs of 500 bags."""
    patches, dim, members, steps = 10_000, 1024, 25, 500 * 0.8 * 20
    total, kernels = 0.0, 0
    with FakeTensorMode(allow_non_fake_inputs=True):
        for hidden in (128, 256, 384, 512):
            settings = AbmilConfig(hidden=hidden, attention=64, precision=precision)  # type: ignore[arg-type]
            one = initial(dim, 2, settings, torch.Generator())
            weights = {k: torch.empty(members, *w.shape) for k, w in one.items()}

            def step(weights: dict[str, Tensor] = weights) -> None:
                leaves = {k: w.detach().requires_grad_() for k, w in weights.items()}
                x = torch.empty(1, patches, dim, dtype=torch.float16).float()
                p = fold_scaling(leaves, None, torch.ones(members, dim))
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    out = forward(x, None, p, None)
                target = torch.zeros(members, 1, 2)
                loss = OBJECTIVES["classes"].loss(out.float(), target).sum()
                grads = torch.autograd.grad(loss, list(leaves.values()))
                for g in grads:
                    g.contiguous()

            cost = counted(step)
            floats = sum(w.numel() for w in weights.values())
            # Directions from zero, seven passes and a fill; then two products and a sum.
            cost.add("_fused_adamw_", 15 * 4 * floats, 0.0, 1.0, members)
            total, kernels = total + cost.seconds, kernels + cost.kernels
    # Each bag is seen by four fifths of the folds, and the order of a fold is that of all: 500
    # steps an epoch of 20 members each width on average cost what 400 of 25 do.
    return {
        "precision": precision,
        "models": 100,
        "kernels_per_step": kernels,
        "milliseconds_per_step": round(total * 1e3, 2),
        "steps": int(steps),
        "seconds": round(total * steps, 1),
        "bar": 120,
    }


def budget() -> dict[str, Any]:
    """Return all that is counted, with the assumptions it rests on."""
    return {
        "benchmark": "budget",
        "device": "one H100, computed",
        "assumed": {
            "bytes_per_second": BYTES_PER_SECOND,
            "flops": FLOPS,
            "seconds_per_kernel_of_a_graph": KERNEL_SECONDS,
            "seconds_per_launch_of_a_graph": HOST_SECONDS,
        },
        "pretrain": {p: pretraining_budget(p) for p in ("fp32", "bf16")},
        "grid": {p: grid_budget(p) for p in ("fp32", "bf16")},
    }
