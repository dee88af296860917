"""All experts in lockstep as stacked tensors: the layout for GPUs.

A GPU finishes one expert's step long before the next can be launched. Here the parameters of the A
experts in training are stacked to (A, ...) and a batch of each is served by one batched matrix
product. Each expert keeps its own order, dropout, rate and stopping point; one that has finished
leaves the stack. Everything is plain torch, so tests compare it with single training on CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spade_bench.encoders.spade.experts import (
    LAYER_NORM_EPS,
    MASKED,
    contrastive_loss,
    head_parameters,
    project,
)
from spade_bench.encoders.spade.numerics import exact_float32
from spade_bench.encoders.spade.pretraining.training.job import Job
from spade_bench.encoders.spade.pretraining.training.resident import ResidentData
from spade_bench.encoders.spade.pretraining.training.schedule import Schedule
from spade_bench.encoders.spade.pretraining.training.state import ExpertState
from spade_bench.encoders.spade.streams import dropout_keep, dropout_keys

__all__ = ["grouped_loss", "grouped_project", "train_together"]

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


def train_together(job: Job, experts: Sequence[int]) -> None:
    """Train several experts at once on one device, from their checkpoints to their ends.

    Args:
        job: The run.
        experts: The experts to train.
    """
    members: list[_Member] = []
    for expert in experts:
        member = _Member(job.state(expert), job.schedule(expert))
        if member.state.step < member.schedule.total_steps:
            members.append(member)
        else:
            member.state.finish()
            job.keeper.save(member.state)
    if not members:
        return
    rows = {
        m.state.expert: np.concatenate(
            [job.data.rows(m.state.expert, split) for split in ("train", "val")]
        )
        for m in members
    }
    stacked = _ExpertStack(members, ResidentData(job.data, rows, job.device), job)
    stacked.start([m for m in members if job.chooses_start(m.state, m.schedule)])
    while stacked.members:
        finished = stacked.step(job.report)
        for member in finished:
            job.keeper.save(member.state)
        if finished:
            stacked.stack([m for m in stacked.members if not m.state.done])
        if job.keeper.due():
            stacked.settle()
            for member in stacked.members:
                job.keeper.save(member.state)


def grouped_project(
    z: Tensor, parameters: dict[str, Tensor], keep: Tensor | None, low_precision: bool
) -> Tensor:
    """Run the projection heads of A experts; the stacked form of `experts.project`.

    Args:
        z: Inputs (A, n, in).
        parameters: Stacked parameters (A, ...).
        keep: Dropout multipliers (A, n, P), or None.
        low_precision: Whether the linear layers multiply in bfloat16.

    Returns:
        Embeddings (A, n, P).
    """
    p = _linear(z, parameters["projection.weight"], parameters["projection.bias"], low_precision)
    h = _linear(
        functional.gelu(p), parameters["fc.weight"], parameters["fc.bias"], low_precision
    )  # (A, n, P)
    if keep is not None:
        h = h * keep  # (A, n, P)
    normal = functional.layer_norm(h + p, (p.shape[-1],), eps=LAYER_NORM_EPS)  # (A, n, P)
    scale, shift = parameters["layer_norm.weight"], parameters["layer_norm.bias"]  # (A, P)
    return normal * scale[:, None] + shift[:, None]  # (A, n, P)


def grouped_loss(
    image: Tensor,
    spot: Tensor,
    valid: Tensor,
    temperature: float = 1.0,
    detach_targets: bool = False,
    *,
    group: Tensor | None = None,
) -> Tensor:
    """Return the contrastive loss of A batches, each over its valid rows.

    Args:
        image: Image embeddings (A, n, P).
        spot: Expression embeddings (A, n, P).
        valid: Which rows are real, (A, n) bool; at least one a batch.
        temperature: T.
        detach_targets: Whether the soft targets are held constant in the backward pass.
        group: Which genes each spot measures, as a number, (A, n); None: all the same.

    Returns:
        (A,) losses; see `experts.contrastive_loss`.
    """
    with exact_float32(image.device):
        logits = spot @ image.mT / temperature  # (A, n, n)
        similarity = (image @ image.mT + spot @ spot.mT) * (temperature / 2)  # (A, n, n)
    rows, columns = valid[:, :, None], valid[:, None, :]  # (A, n, 1), (A, 1, n)
    if group is not None:
        alike = group[:, :, None] == group[:, None, :]  # (A, n, n)
        rows, columns = rows & alike, columns & alike  # (A, n, n)
    targets = torch.softmax(similarity.masked_fill(~columns, MASKED), dim=2) * rows  # (A, n, n)
    if detach_targets:
        targets = targets.detach()
    by_row = torch.log_softmax(logits.masked_fill(~columns, MASKED), dim=2)  # (A, n, n)
    by_column = torch.log_softmax(logits.masked_fill(~rows, MASKED), dim=1)  # (A, n, n)
    total = -(targets * (by_row + by_column)).sum(dim=(1, 2))  # (A,)
    return total / (2 * valid.sum(dim=1))  # (A,)


class _Member:
    """One expert of the group."""

    def __init__(self, state: ExpertState, schedule: Schedule) -> None:
        self.state, self.schedule = state, schedule
        self.epoch = -1
        self.order = np.empty(0, dtype=np.int64)
        self.keys = torch.empty(2, 0, dtype=torch.int64)

    def keep(self) -> None:
        """Copy the parameters as the best so far."""
        self.state.best = {n: tensor.detach().clone() for n, tensor in self.state.params.items()}

    def next_batch(self) -> tuple[np.ndarray, Tensor]:
        """Return the positions (n,) and dropout keys (2,) of the next step."""
        plan, per_epoch = self.schedule, self.schedule.steps_per_epoch
        epoch, i = divmod(self.state.step, per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, plan.order(epoch)
            start = epoch * per_epoch
            self.keys = dropout_keys(plan.seed, plan.expert, start, start + per_epoch)
        size = plan.config.batch_size
        return self.order[i * size : (i + 1) * size], self.keys[:, i]


class _ExpertStack:
    """Stacked parameters and moments of the experts in training."""

    def __init__(self, members: list[_Member], data: ResidentData, job: Job) -> None:
        self.data, self.config, self.device = data, job.config, job.device
        self.low = job.config.precision == "bf16"
        self.clock = time.perf_counter()
        self.members: list[_Member] = []
        self.stack(members)

    def stack(self, members: list[_Member]) -> None:
        """Stack these members' states; each state's tensors become views of the stack."""
        self.settle()
        self.members = members
        if not members:
            return
        states = [m.state for m in members]
        self.groups: list[dict[str, Tensor]] = []
        for kind in ("params", "exp_avg", "exp_avg_sq"):
            single = [getattr(state, kind) for state in states]
            stacked = {k: torch.stack([s[k] for s in single]).to(self.device) for k in single[0]}
            for a, state in enumerate(states):
                setattr(state, kind, {k: tensor[a] for k, tensor in stacked.items()})
            self.groups.append(stacked)
        for tensor in self.groups[0].values():
            tensor.requires_grad_(True)
        self.losses = torch.zeros(len(members), dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def start(self, members: Sequence[_Member]) -> None:
        """Keep the given heads as the best so far, by their validation loss."""
        for member in members:
            member.state.start_from(self._validate(member))
            member.keep()
        self.clock = time.perf_counter()

    def settle(self) -> None:
        """Move running sums into the states, so that they can be saved."""
        now = time.perf_counter()
        if self.members:
            for member, loss in zip(self.members, self.losses.tolist(), strict=True):
                member.state.loss_sum += loss
                member.state.seconds += now - self.clock
            self.losses.zero_()
        self.clock = now

    def step(self, report: Callable[[dict[str, Any]], None]) -> list[_Member]:
        """Take one step of every member; return those that have finished."""
        batches, keys = zip(*[m.next_batch() for m in self.members], strict=True)
        longest = max(len(batch) for batch in batches)
        index = np.zeros((len(batches), longest), dtype=np.int64)
        valid = np.zeros((len(batches), longest), dtype=bool)
        for a, (member, batch) in enumerate(zip(self.members, batches, strict=True)):
            index[a, : len(batch)] = self.data.place(member.state.expert, batch)
            valid[a, : len(batch)] = True
        self._update(index, valid, torch.stack(keys, dim=1))
        ended = []
        for member in self.members:
            member.state.step += 1
            if member.state.step % member.schedule.steps_per_epoch == 0:
                ended.append(member)
        if ended:
            self.settle()
        for member in ended:
            report(self._end_epoch(member))
        return [m for m in ended if m.state.done]

    def _update(self, index: np.ndarray, valid: np.ndarray, keys: Tensor) -> None:
        config, (n_experts, n) = self.config, index.shape
        params = self.groups[0]
        place = torch.from_numpy(index)
        x, g = self.data.read(place)  # (A, n, D), (A, n, G)
        group = self.data.group(place)  # (A, n) or None
        mask = torch.from_numpy(valid).to(self.device)  # (A, n)
        keep = dropout_keep(keys.reshape(-1).to(self.device), n, config.proj_dim, config.dropout)
        keep = keep.view(2, n_experts, n, config.proj_dim)  # (2, A, n, P)
        image = grouped_project(x, head_parameters(params, "image"), keep[0], self.low)  # (A, n, P)
        spot = grouped_project(g, head_parameters(params, "spot"), keep[1], self.low)  # (A, n, P)
        how = config.temperature, config.detach_targets
        losses = grouped_loss(image, spot, mask, *how, group=group)  # (A,)
        grads = torch.autograd.grad(losses.sum(), list(params.values()))
        self._adamw(grads)
        self.losses += losses.detach().double() * mask.sum(dim=1)

    @torch.no_grad()
    def _adamw(self, grads: Sequence[Tensor]) -> None:
        """Apply AdamW with each expert's own rate and step count."""
        steps = [m.state.step + 1 for m in self.members]
        rates = [m.schedule.lr(m.state.step) for m in self.members]
        first = [lr / (1 - _BETA1**t) for lr, t in zip(rates, steps, strict=True)]
        second = [(1 - _BETA2**t) ** 0.5 for t in steps]
        decay = [1 - lr * self.config.weight_decay for lr in rates]
        table = torch.tensor([first, second, decay]).to(self.device)  # (3, A)
        for (name, p), grad in zip(self.groups[0].items(), grads, strict=True):
            m, v = self.groups[1][name], self.groups[2][name]
            size, root, shrink = table.view(3, -1, *[1] * (p.ndim - 1))
            m.lerp_(grad, 1 - _BETA1)
            v.mul_(_BETA2).addcmul_(grad, grad, value=1 - _BETA2)
            p.mul_(shrink).sub_(m / (v.sqrt().div_(root).add_(_EPS)) * size)

    @torch.no_grad()
    def _end_epoch(self, member: _Member) -> dict[str, Any]:
        state, plan = member.state, member.schedule
        clock = time.perf_counter()
        val_loss = self._validate(member) if plan.validates else None
        state.seconds += time.perf_counter() - clock
        if state.improves(val_loss):
            member.keep()
        row = state.end_epoch(plan.n_train, val_loss, plan.lr(state.step - 1))
        if state.step == plan.total_steps:
            state.finish()
        return row

    def _validate(self, member: _Member) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        image_head = head_parameters(member.state.params, "image")
        spot_head = head_parameters(member.state.params, "spot")
        for batch in member.schedule.validation_batches():
            index = torch.from_numpy(self.data.place(member.state.expert, batch))
            x, g = self.data.read(index)  # (n, D), (n, G)
            image = project(x, image_head, None, self.low)  # (n, P)
            spot = project(g, spot_head, None, self.low)  # (n, P)
            group = self.data.group(index)  # (n,) or None
            loss = contrastive_loss(image, spot, self.config.temperature, group=group)
            total += loss.double() * len(batch)
        return float(total) / member.schedule.n_val


def _linear(z: Tensor, weight: Tensor, bias: Tensor, low_precision: bool) -> Tensor:
    if not low_precision:
        return torch.baddbmm(bias[:, None], z, weight.mT)  # (A, n, out)
    product = torch.bmm(z.to(torch.bfloat16), weight.to(torch.bfloat16).mT)  # (A, n, out)
    return product.to(bias.dtype) + bias[:, None]  # (A, n, out)
