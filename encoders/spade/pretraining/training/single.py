"""One expert on one device: the layout for CPU, where each process trains an expert on a core."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adamw import adamw

from spade_bench.encoders.spade.experts import contrastive_loss, head_parameters, project, refine
from spade_bench.encoders.spade.numerics import no_denormals
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training.gene_layer import RARE, GeneBatch, gene_layer
from spade_bench.encoders.spade.pretraining.training.job import Job
from spade_bench.encoders.spade.pretraining.training.schedule import Schedule
from spade_bench.encoders.spade.pretraining.training.state import ExpertState
from spade_bench.encoders.spade.pretraining.training.trainingdata import ExpertRows
from spade_bench.encoders.spade.streams import dropout_keep, dropout_keys

__all__ = ["train_in_turn", "train_one"]

_GENES = "spot.projection.weight"
_RARE = "spot.projection.weight of rare genes"


def train_in_turn(job: Job, experts: Sequence[int]) -> None:
    """Train experts one after the other in this process.

    Args:
        job: The run.
        experts: The experts to train, in this order.
    """
    with no_denormals():
        for expert in experts:
            train_one(job, expert)


def train_one(job: Job, expert: int) -> ExpertState:
    """Train an expert from its checkpoint, or from the start, to its end; return its last state."""
    state, schedule = job.state(expert), job.schedule(expert)
    if state.step < schedule.total_steps:
        share = RARE[job.config.precision] if job.device.type == "cpu" else 0.0
        run = _Run(state, ExpertRows(job.data, expert, share), schedule, job.device)
        if job.chooses_start(state, schedule):
            run.start()
        while state.step < schedule.total_steps:
            _train_epoch(job, run)
        run.settle()
    state.finish()
    job.keeper.save(state)
    return state


def _train_epoch(job: Job, run: _Run) -> None:
    """Train what is left of an epoch, saving the state between steps whenever that is due."""
    state, schedule = run.state, run.schedule
    epoch, first = divmod(state.step, schedule.steps_per_epoch)
    keys = run.keys(epoch)
    clock = time.perf_counter()
    for i, batch in enumerate(schedule.batches(epoch)[first:], first):
        run.step(batch, keys[:, i])
        now = time.perf_counter()
        state.seconds += now - clock
        clock = now
        if i + 1 < schedule.steps_per_epoch and job.keeper.due():
            run.settle()
            job.keeper.save(state)
    job.report(run.end_epoch())
    if job.keeper.due():
        run.settle()
        job.keeper.save(state)


class _Run:
    """Parameters, optimiser and buffers of one expert."""

    def __init__(
        self, state: ExpertState, rows: ExpertRows, schedule: Schedule, device: torch.device
    ) -> None:
        self.state, self.rows, self.schedule, self.device = state, rows, schedule, device
        self.config: TrainingConfig = schedule.config
        self.low = self.config.precision == "bf16"
        groups = (state.params, state.exp_avg, state.exp_avg_sq)
        self.groups = [self._sorted(group) for group in groups]
        self.best = self._sorted(state.best) if state.best else {}
        self.params = self.groups[0]
        for tensor in self.params.values():
            tensor.requires_grad_(True)
        self.image = head_parameters(self.params, "image")
        self.spot = head_parameters(self.params, "spot")
        self.steps = [torch.tensor(float(state.step), device=device) for _ in self.params]
        size = self.config.batch_size
        self._x = np.empty((size, rows.feature_dim), dtype=np.float32)
        self._g = np.empty((size, rows.genes.n_dense), dtype=np.float32)

    def settle(self) -> None:
        """Bring the tensors, whose gene weights are held as sorted rows, back into the state.

        Needed before the state is saved or finished; too slow to do at every epoch.
        """
        state = self.state
        state.params, state.exp_avg, state.exp_avg_sq = map(self._in_panel_order, self.groups)
        state.best = self._in_panel_order(self.best) if self.best else {}

    def _sorted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        common, rare = self.rows.genes.split(moved[_GENES])
        return {**moved, _GENES: common, _RARE: rare}

    def _in_panel_order(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        plain = {name: tensor.detach() for name, tensor in tensors.items() if name != _RARE}
        return {**plain, _GENES: self.rows.genes.join(plain[_GENES], tensors[_RARE].detach())}

    def keys(self, epoch: int) -> Tensor:
        """Return the dropout keys of an epoch's steps, (2, steps)."""
        plan = self.schedule
        start = epoch * plan.steps_per_epoch
        stop = start + plan.steps_per_epoch
        return dropout_keys(plan.seed, plan.expert, start, stop).to(self.device)

    def step(self, batch: NDArray[np.int64], keys: Tensor) -> None:
        """Take one optimiser step on a batch."""
        config = self.config
        keep = dropout_keep(keys, len(batch), config.proj_dim, config.dropout)  # (2, n, P)
        image, spot = self._project(batch, keep)  # (n, P), (n, P)
        how = config.temperature, config.detach_targets, self._group(batch)
        loss = contrastive_loss(image, spot, *how)
        self._adamw(torch.autograd.grad(loss, list(self.params.values())))
        self.state.step += 1
        self.state.loss_sum += float(loss.detach()) * len(batch)

    @torch.no_grad()
    def _adamw(self, grads: Sequence[Tensor]) -> None:
        """Apply fused AdamW, by its function: the class alone takes over a second to import."""
        params, exp_avg, exp_avg_sq = (list(group.values()) for group in self.groups)
        adamw(
            params,
            # The fused kernel walks gradients as if they lay like their parameters.
            [grad.contiguous() for grad in grads],
            exp_avg,
            exp_avg_sq,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.schedule.lr(self.state.step),
            weight_decay=self.config.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    @torch.no_grad()
    def start(self) -> None:
        """Keep the given heads as the best so far, by their validation loss."""
        self.state.start_from(self.validate())
        self._keep()

    @torch.no_grad()
    def end_epoch(self) -> dict[str, Any]:
        """Validate and record the epoch that just ended."""
        clock = time.perf_counter()
        val_loss = self.validate() if self.schedule.validates else None
        self.state.seconds += time.perf_counter() - clock
        if self.state.improves(val_loss):
            self._keep()
        lr = self.schedule.lr(self.state.step - 1)
        return self.state.end_epoch(self.rows.n_train, val_loss, lr)

    def _keep(self) -> None:
        if not self.best:
            self.best = {k: torch.empty_like(v) for k, v in self.params.items()}
        for name, tensor in self.params.items():
            self.best[name].copy_(tensor)

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss over the validation spots, without dropout."""
        total = 0.0
        for batch in self.schedule.validation_batches():
            image, spot = self._project(batch, None)  # (n, P), (n, P)
            group = self._group(batch)  # (n,) or None
            loss = contrastive_loss(image, spot, self.config.temperature, group=group)
            total += float(loss) * len(batch)
        return total / self.rows.n_val

    def _group(self, batch: NDArray[np.int64]) -> Tensor | None:
        group = self.rows.group(batch)
        return None if group is None else torch.from_numpy(group).to(self.device)  # (n,)

    def _project(self, batch: NDArray[np.int64], keep: Tensor | None) -> tuple[Tensor, Tensor]:
        n = len(batch)
        rare = self.rows.read(batch, self._x[:n], self._g[:n])
        x = torch.from_numpy(self._x[:n]).to(self.device)  # (n, D)
        common = torch.from_numpy(self._g[:n]).to(self.device)  # (n, G_dense)
        first, second = (None, None) if keep is None else (keep[0], keep[1])  # (n, P), (n, P)
        image = project(x, self.image, first, self.low)  # (n, P)
        weights = self.params[_GENES], self.params[_RARE], self.spot["projection.bias"]
        p = gene_layer(GeneBatch(common, rare), *weights, low_precision=self.low)  # (n, P)
        return image, refine(p, self.spot, second, self.low)  # (n, P), (n, P)
