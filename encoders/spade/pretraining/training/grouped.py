"""All experts in lockstep as stacked tensors: the layout for GPUs.

A GPU finishes one expert's step long before the next can be launched. Here the parameters of the A
experts in training are stacked to (A, ...) and a batch of each is served by one batched matrix
product. An epoch of one is an epoch of all: the experts are sorted by what is left of it, so that
those still at work at any step are the first of the stack, and all validate together at its end.
Each keeps its own order, dropout, rate and stopping point.

The host prepares an epoch, uploads it once, launches one graph per step (`replay.py`) and waits
once, at the epoch's end. Everything is plain torch, so tests compare it with single training on a
CPU. A product of several experts may round otherwise than that of one: up to that, and no further,
an expert depends on who trains beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_bench.encoders.spade.pretraining.training.epochtables import BatchTable, EpochTables
from spade_bench.encoders.spade.pretraining.training.job import Job
from spade_bench.encoders.spade.pretraining.training.replay import (
    Replay,
    lanes_of,
    stream_of_its_own,
)
from spade_bench.encoders.spade.pretraining.training.resident import ResidentData
from spade_bench.encoders.spade.pretraining.training.schedule import Schedule
from spade_bench.encoders.spade.pretraining.training.stackedpairs import (
    adamw_step,
    pack,
    stacked_agreement,
    stacked_project,
    unpack,
)
from spade_bench.encoders.spade.pretraining.training.state import ExpertState

__all__ = ["ExpertStack", "Member", "train_together"]


def train_together(job: Job, experts: Sequence[int]) -> None:
    """Train several experts at once on one device, from their checkpoints to their ends.

    Args:
        job: The run.
        experts: The experts to train.
    """
    members: list[Member] = []
    for expert in experts:
        member = Member(job.state(expert), job.schedule(expert))
        if member.epochs_left:
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
    with stream_of_its_own(job.device):
        low = job.config.precision == "bf16"
        stack = ExpertStack(members, ResidentData(job.data, rows, job.device, low), job)
        stack.start([m for m in members if job.chooses_start(m.state, m.schedule)])
        while stack.members:
            finished = stack.epoch()
            for member in finished:
                job.keeper.save(member.state)
            if finished:
                stack.stack([m for m in stack.members if not m.state.done])


class Member:
    """One expert of the group."""

    def __init__(self, state: ExpertState, schedule: Schedule) -> None:
        self.state, self.schedule = state, schedule

    @property
    def epochs_left(self) -> int:
        """Epochs that have not ended; none without training spots."""
        if not self.schedule.total_steps:
            return 0
        epochs = self.schedule.total_steps // self.schedule.steps_per_epoch
        return epochs - self.state.epochs_done

    @property
    def left(self) -> int:
        """Steps to the end of its epoch: 0 where only the others have some left."""
        return (self.state.epochs_done + 1) * self.schedule.steps_per_epoch - self.state.step

    def spots(self, step: int) -> np.ndarray:
        """Return the order of its spots from a step to the end of that epoch, as positions."""
        epoch, taken = divmod(step, self.schedule.steps_per_epoch)
        return self.schedule.order(epoch)[taken * self.schedule.config.batch_size :]


class ExpertStack:
    """Stacked parameters and moments of the experts in training.

    Args:
        members: The experts.
        data: Their spots.
        job: The run.

    Attributes:
        members: Those in training, longest epoch first.
    """

    def __init__(self, members: list[Member], data: ResidentData, job: Job) -> None:
        self.data, self.config, self.device, self.job = data, job.config, job.device, job
        self.low = job.config.precision == "bf16"
        self.clock = time.perf_counter()
        self.members: list[Member] = []
        self.replay = Replay(self.device)
        self.lanes = lanes_of(self.device)
        self.stack(members)

    def stack(self, members: Sequence[Member]) -> None:
        """Stack these members' states; each state's tensors become views of the stack."""
        self.settle()
        self.replay.forget()
        self.members = sorted(members, key=lambda m: -m.left)
        if not members:
            return
        states = [m.state for m in self.members]
        self.groups = [pack([s.params for s in states], self.device)]
        self.groups += [
            pack([getattr(s, kind) for s in states], self.device)
            for kind in ("exp_avg", "exp_avg_sq")
        ]
        self.best = pack([s.best or s.params for s in states], self.device)
        for a, state in enumerate(states):
            state.params, state.exp_avg, state.exp_avg_sq = (unpack(g, a) for g in self.groups)
            state.best = unpack(self.best, a) if state.best else {}
        self._make_tables()

    def _make_tables(self) -> None:
        count, device, config = len(self.members), self.device, self.config
        steps = max(m.schedule.steps_per_epoch for m in self.members)
        self.tables = EpochTables(steps, count, config, device)
        own = [self.data.place(m.state.expert, m.schedule.validation_order()) for m in self.members]
        self.val_steps = max(-(-len(rows) // config.batch_size) for rows in own)
        self.val_tables = BatchTable(self.val_steps, count, config.batch_size, device)
        self.val_tables.load(own)
        # Sums over an epoch: training and validation loss times batch size.
        self.sums = torch.zeros(2, count, dtype=torch.float64, device=device)
        self.at = torch.zeros(2, dtype=torch.int64, device=device)  # step, row among the masks
        if not self.data.resident:
            n = count * config.batch_size
            self.x = torch.empty(n, self.data.dim, device=device)
            self.g = torch.empty(n, self.data.n_genes, dtype=self.data.kind, device=device)

    def start(self, members: Sequence[Member]) -> None:
        """Keep the given heads as the best so far, by their validation loss."""
        if members:
            self._validate()
            sums = self.sums[1].tolist()
            self.sums.zero_()
            for member, total in zip(self.members, sums, strict=True):
                if member in members:
                    member.state.start_from(total / member.schedule.n_val)
            self._keep([a for a, m in enumerate(self.members) if m in members])
        self.clock = time.perf_counter()

    def settle(self) -> list[float]:
        """Move running sums into the states, so that they can be saved; return those of validation.

        This waits for the device.
        """
        val: list[float] = []
        if self.members:
            train, val = self.sums.tolist()
            self.sums.zero_()
            now = time.perf_counter()
            for member, loss in zip(self.members, train, strict=True):
                member.state.loss_sum += loss
                member.state.seconds += now - self.clock
        self.clock = time.perf_counter()
        return val

    def epoch(self) -> list[Member]:
        """Train what is left of an epoch of every member; return those that have finished."""
        if any(a.left < b.left for a, b in zip(self.members, self.members[1:], strict=False)):
            self.stack(self.members)
        left = np.array([m.left for m in self.members])
        self.load()
        keeper = self.job.keeper
        for step in range(int(left[0])):
            at_work = int((left > step).sum())
            self.step(step, at_work)
            for member in self.members[:at_work]:
                member.state.step += 1
            if step + 1 < left[0] and keeper.due():
                self.settle()
                for member in self.members:
                    keeper.save(member.state)
        self._validate()
        if all(m.epochs_left > 1 for m in self.members):
            # While the device still works; not where the stack will be another one.
            steps = [m.state.step for m in self.members]
            self.tables.prepare([m.schedule for m in self.members], steps, self._spots(steps))
        return self._end_epoch(self.job.report)

    def load(self) -> None:
        """Upload what the rest of the epoch needs."""
        schedules, steps = [m.schedule for m in self.members], [m.state.step for m in self.members]
        self.tables.load_epoch(schedules, steps, partial(self._spots, steps))
        self.at.zero_()

    def _spots(self, steps: Sequence[int]) -> list[np.ndarray]:
        """Where the spots of each member lie, in the order in which it sees them from its step."""
        return [
            self.data.place(m.state.expert, m.spots(step))
            for m, step in zip(self.members, steps, strict=True)
        ]

    def step(self, step: int, at_work: int) -> None:
        """Launch a step of the first ``at_work`` members; ``step`` counts from :meth:`load`."""
        if step % self.tables.block == 0:
            self.tables.draw_masks(step)
            self.at[1:].zero_()
        if not self.data.resident:
            places = self.tables.host_places(step, at_work)
            self.data.fetch(places, self.x, self.g)
        self.replay.run(at_work, partial(self._update, at_work))

    def _update(self, a: int) -> None:
        """Take a step of the first a members: on the device alone, nothing comes from the host."""
        config, tables = self.config, self.tables
        step, mask = self.at[:1], self.at[1:]  # (1,) each
        x, g, outside, group = self._batch(tables, step, a)
        keep = tables.masks.index_select(0, mask)[0, :a]  # (a, 2, n, P)
        parameters = {k: w[:a].detach().requires_grad_() for k, w in self.groups[0].items()}
        embedded = stacked_project(x, g, parameters, keep, self.low)  # (a, 2, n, P)
        how = config.temperature, config.detach_targets
        agreement = stacked_agreement(embedded, outside, *how, group=group)  # (a,)
        rates, counts, share = tables.numbers.index_select(0, step)[0, :, :a]  # (a,) each
        slopes = torch.autograd.grad(agreement, list(parameters.values()), grad_outputs=share)
        gradients = dict(zip(parameters, slopes, strict=True))
        with torch.no_grad():
            decay = config.weight_decay
            adamw_step(self.groups, gradients, rates, counts, decay, lanes=self.lanes)
            # The loss of a batch, times its size.
            self.sums[0, :a].add_(agreement.detach(), alpha=-0.5)
            self.at.add_(1)

    @torch.no_grad()
    def _validate(self) -> None:
        """Launch the validation of all members: their batches side by side, without dropout."""
        if not any(m.schedule.validates for m in self.members):
            return
        self.at.zero_()
        for step in range(self.val_steps):
            if not self.data.resident:
                places = self.val_tables.host_places(step, len(self.members))
                self.data.fetch(places, self.x, self.g)
            self.replay.run("validation", self._validate_batch)

    @torch.no_grad()
    def _validate_batch(self) -> None:
        step = self.at[:1]  # (1,)
        x, g, outside, group = self._batch(self.val_tables, step, len(self.members))
        embedded = stacked_project(x, g, self.groups[0], None, self.low)  # (A, 2, n, P)
        temperature = self.config.temperature
        agreement = stacked_agreement(embedded, outside, temperature, group=group)  # (A,)
        self.sums[1].add_(agreement, alpha=-0.5)
        self.at.add_(1)

    def _batch(
        self, tables: BatchTable, step: Tensor, a: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return features (a, n, D), expression (a, n, G), unused rows (a, n) and gene groups."""
        places = tables.places.index_select(0, step)[0, :a]  # (a, n)
        n = places.shape[1]
        if self.data.resident:
            x, g = self.data.read(places.reshape(-1))  # (a n, D), (a n, G)
        else:
            x, g = self.x[: a * n], self.g[: a * n]  # (a n, D), (a n, G)
        size = tables.sizes.index_select(0, step)[0, :a]  # (a,)
        outside = tables.rows >= size[:, None]  # (a, n)
        return x.view(a, n, -1), g.view(a, n, -1), outside, self.data.group(places)

    def _end_epoch(self, report: Callable[[dict[str, Any]], None]) -> list[Member]:
        """Record the epoch of every member; return those that have finished."""
        val = self.settle()
        better: list[int] = []
        rows = []
        for a, (member, total) in enumerate(zip(self.members, val, strict=True)):
            state, plan = member.state, member.schedule
            val_loss = total / plan.n_val if plan.validates else None
            if state.improves(val_loss):
                better.append(a)
            rows.append(state.end_epoch(plan.n_train, val_loss, plan.lr(state.step - 1)))
        self._keep(better)
        finished = [m for m in self.members if not m.epochs_left]
        for member in finished:
            member.state.finish()
        for row in rows:
            report(row)
        return finished

    @torch.no_grad()
    def _keep(self, which: Sequence[int]) -> None:
        """Copy the parameters of these members as their best so far."""
        places = [tensor[a] for tensor in self.best.values() for a in which]
        if places:
            torch._foreach_copy_(places, [w[a] for w in self.groups[0].values() for a in which])
        for a in which:
            self.members[a].state.best = unpack(self.best, a)
