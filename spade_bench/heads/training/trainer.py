"""Train many models side by side over the same bags: each bag is read once for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spade_bench import console
from spade_bench.device import to_device
from spade_bench.heads._objectives import target_scale
from spade_bench.heads.training.modelstack import Batch, ModelStack
from spade_bench.heads.training.workers import Workers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.heads._base import Fit, Model
    from spade_bench.heads._objectives import Objective
    from spade_bench.heads.training.reader import Reader

__all__ = ["Member", "Trainer"]

CPU_ROOM = 4 << 20  # bytes of activations that stay in a core's cache
ASIDE = 1 << 18  # outputs that are allocated together
LARGE = 200_000  # numbers kept for the gradient from which a model's step is worth a thread


@dataclass
class Member:
    """One fit with its hyperparameters, and how far it has come.

    Attributes:
        fit: The fit.
        settings: Its hyperparameters.
        stack: Number of the stack of models of its shape.
        slot: Its place in the stack.
        epochs: Passes it takes at most.
        best: Best loss on its tuning cases.
        waited: Epochs since then.
        stopped: Whether it stopped early.
    """

    fit: Fit
    settings: Any
    stack: int = 0
    slot: int = 0
    epochs: int = 0
    best: float = math.inf
    waited: int = 0
    stopped: bool = False
    rows: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def chunks(self) -> int:
        """Steps an epoch."""
        return -(-len(self.fit.train) // int(self.settings.batch))

    @property
    def wanted_epochs(self) -> int:
        """Epochs asked for, or as many as make `min_steps` steps."""
        needed = math.ceil(int(self.settings.min_steps) / self.chunks)
        return max(int(self.settings.epochs), needed)


class _Aside:
    """Keeps small outputs where they are in nobody's way.

    Allocated beside a bag, an output that stays keeps the C library from using the place of the bag
    for the next one, and memory would grow with the cohort. Does nothing on a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cpu, self._block, self._filled = device.type == "cpu", torch.empty(0), 0

    def put(self, out: torch.Tensor) -> torch.Tensor:
        """Return a copy in a block of many."""
        if not self._on_cpu:
            return out
        n = out.numel()
        if self._filled + n > len(self._block) or self._block.dtype != out.dtype:
            self._block, self._filled = out.new_empty(max(n, ASIDE)), 0
        kept = self._block[self._filled : self._filled + n].view(out.shape)
        self._filled += n
        return kept.copy_(out)


class Trainer:
    """Trains one stack.

    Cases are shown in one order for all (`Fit.order`), of which each fit skips what it does not
    train on; at each bag all members that train on it take a step. With steps of several cases
    these must be the fit's own, so only members with the same training cases share them.

    Args:
        members: What to train.
        reader: Bags on the device.
        model: Architecture.
        objective: Loss and prediction.
        n_outputs: Classes, or 1.
        name: What to call them while they train.
        room: Bytes that the activations of one step may take.
        workers: Cores to spread models over.
    """

    def __init__(
        self,
        members: Sequence[Member],
        reader: Reader,
        model: Model,
        objective: Objective,
        n_outputs: int,
        *,
        name: str,
        room: int,
        workers: Workers,
    ) -> None:
        self._workers, self._budget, self._name = workers, room, name
        self._members, self._reader = members, reader
        self._model, self._objective, self._n_outputs = model, objective, n_outputs
        self._room = min(room, CPU_ROOM) if reader.device.type == "cpu" else room
        self._reference, mean, scale = reader.measure([m.fit.train for m in members])
        shapes: dict[Any, list[int]] = {}
        for index, member in enumerate(members):
            fit, settings = member.fit, member.settings
            member.epochs = member.wanted_epochs
            member.rows = self._encode(fit, settings)
            shapes.setdefault(model.shape_of(settings), []).append(index)
        self._stacks = []
        for number, indices in enumerate(shapes.values()):
            for slot, index in enumerate(indices):
                members[index].stack, members[index].slot = number, slot
            own = [members[i] for i in indices]
            self._stacks.append(
                ModelStack(
                    model,
                    objective,
                    [m.settings for m in own],
                    [m.fit.seed for m in own],
                    [m.epochs * m.chunks for m in own],
                    mean=mean[indices],
                    scale=scale[indices],
                    dim=reader.dim,
                    width=objective.width(n_outputs, own[0].settings),
                )
            )

    def train(self) -> None:
        """Train every member to its end, or until its tuning cases say stop."""
        total = sum(member.epochs * member.chunks for member in self._members)
        what = f"Training {self._name} ({len(self._members)} models)"
        with console.progress(what, total, "steps") as bar:
            for epoch in range(max(member.epochs for member in self._members)):
                live = [m for m in self._members if epoch < m.epochs and not m.stopped]
                for cases, active, batches in self._read(self._ticks(epoch, live)):
                    self._step(cases, active, batches)
                    bar.advance(len(active))
                self._workers.wait()
                self._tune([m for m in live if m.fit.tune is not None and len(m.fit.tune)])
                bar.advance(sum((m.epochs - epoch - 1) * m.chunks for m in live if m.stopped))
        for number, stack in enumerate(self._stacks):
            stack.restore(
                [m.slot for m in self._members if m.stack == number and m.best < math.inf]
            )
            stack.free()

    def predict(self) -> list[NDArray[np.float64]]:
        """Return each member's predictions of its test cases, (m, n_outputs) each."""
        outputs = self._outputs([(m, m.fit.test) for m in self._members])
        found = []
        for member, out in zip(self._members, outputs, strict=True):
            said = self._objective.predict(out.double().unsqueeze(0))[0].cpu().numpy()
            if self._objective.scaled:
                mean, spread = target_scale(member.fit.target)
                said = mean + spread * said  # (m, n_outputs)
            found.append(said)
        return found

    def weights(self) -> list[dict[str, torch.Tensor]]:
        """Return the weights and the scaling of each member, as `FittedNetwork` takes them."""
        return [
            {
                "input.reference": self._reference.cpu(),
                **self._stacks[m.stack].weights(m.slot),
                **self._target_scale(m),
            }
            for m in self._members
        ]

    def _target_scale(self, member: Member) -> dict[str, torch.Tensor]:
        """What puts the predictions of a member back to the scale of its targets."""
        if not self._objective.scaled:
            return {}
        # In double precision whatever the model's: days are large beside their differences.
        return {"target.scale": torch.tensor(target_scale(member.fit.target), dtype=torch.float64)}

    def _ticks(
        self, epoch: int, live: Sequence[Member]
    ) -> Iterator[tuple[list[int], list[Member]]]:
        """Yield which cases are shown to which members, step by step."""
        wanted: dict[int, dict[int, list[Member]]] = {}
        shared: dict[Any, list[Member]] = {}
        for member in live:
            if member.settings.batch == 1:
                users = wanted.setdefault(member.fit.order, {})
                for case in member.fit.train.tolist():
                    users.setdefault(case, []).append(member)
            else:
                key = member.fit.order, member.settings.batch, member.fit.train.tobytes()
                shared.setdefault(key, []).append(member)
        for order, users in wanted.items():
            for case in self._order(order, epoch):
                if case in users:
                    yield [case], users[case]
        for (order, _, _), members in shared.items():
            mine = set(members[0].fit.train.tolist())
            cases = [case for case in self._order(order, epoch) if case in mine]
            for chunk in np.array_split(cases, members[0].chunks):
                yield chunk.tolist(), members

    def _read(
        self, ticks: Iterable[tuple[list[int], list[Member]]]
    ) -> Iterator[tuple[list[int], list[Member], list[Batch]]]:
        """Read the bags of each tick while the one before trains, so that no core waits."""
        with ThreadPoolExecutor(1) as pool:
            reads = (
                (cases, active, pool.submit(self._reader.batches, cases, self._reference))
                for cases, active in ticks
            )
            upcoming = next(reads, None)
            while upcoming is not None:
                (cases, active, bags), upcoming = upcoming, next(reads, None)
                yield cases, active, bags.result()

    def _order(self, order: int, epoch: int) -> list[int]:
        """All cases of the cohort in the order of one epoch, whoever trains on them."""
        rng = np.random.default_rng([order, epoch])
        return [int(case) for case in rng.permutation(self._reader.n_cases)]

    def _step(self, cases: list[int], active: Sequence[Member], batches: Sequence[Batch]) -> None:
        parts, large = self._parts(active, batches)

        def step(stack: ModelStack, members: list[Member]) -> None:
            rows = [[m.rows[case] for case in cases] for m in members]
            stack.step(batches, np.array(rows), [m.slot for m in members])  # (s, B, T)

        jobs = []
        for stack, part in parts:
            members = [active[at] for at in part]
            owners = [(m.stack, m.slot) for m in members]
            jobs.append((partial(step, stack, members), owners))
        self._workers.start(jobs, large)

    def _tune(self, members: Sequence[Member]) -> None:
        """See whether tuning cases still improve, for each member by itself."""
        if not members:
            return
        questions = [(m, m.fit.tune) for m in members if m.fit.tune is not None]
        losses = []
        for (member, cases), out in zip(questions, self._outputs(questions), strict=True):
            rows = np.array([member.rows[int(case)] for case in cases])  # (m, T)
            target = to_device(torch.tensor(rows).to(out.dtype), out.device)
            losses.append(self._objective.loss(out.unsqueeze(0), target.unsqueeze(0)))  # (1,)
        for (member, _), loss in zip(questions, torch.cat(losses).tolist(), strict=True):
            if loss < member.best:
                member.best, member.waited = loss, 0
                self._stacks[member.stack].keep([member.slot])
            else:
                member.waited += 1
                member.stopped = member.waited >= member.settings.patience

    def _outputs(self, questions: Sequence[tuple[Member, NDArray[np.int64]]]) -> list[torch.Tensor]:
        """Outputs (m, K) of members for cases of their own; each bag is read once.

        Args:
            questions: A member and the positions of m cases; a member may come once only.
        """
        askers_of: dict[int, list[int]] = {}
        for index, (_, cases) in enumerate(questions):
            for case in cases.tolist():
                askers_of.setdefault(case, []).append(index)
        # Cases that the same members want go through together.
        alike: dict[tuple[int, ...], list[int]] = {}
        for case, askers in askers_of.items():
            alike.setdefault(tuple(askers), []).append(case)
        answers: list[dict[int, torch.Tensor]] = [{} for _ in questions]
        aside = _Aside(self._reader.device)
        for askers_, together in alike.items():
            members = [questions[index][0] for index in askers_]
            for batch in self._reader.each_batch(together, self._reference):
                here = [together[at] for at in batch.at]
                alone = [Batch(batch.x, batch.mask, list(range(len(here))))]
                parts, large = self._parts(members, alone)
                jobs = [
                    partial(stack.outputs, alone, [members[at].slot for at in part])
                    for stack, part in parts
                ]
                for (_, part), out in zip(parts, self._workers.run(jobs, large), strict=True):
                    for at, rows in zip(part, aside.put(out), strict=True):  # (s, B, K)
                        answers[askers_[at]].update(zip(here, rows, strict=True))
        return [
            torch.stack([answer[case] for case in cases.tolist()])
            for answer, (_, cases) in zip(answers, questions, strict=True)
        ]

    def _parts(
        self, members: Sequence[Member], batches: Sequence[Batch]
    ) -> tuple[list[tuple[ModelStack, list[int]]], bool]:
        """Split members by stack, and so that their activations fit.

        Returns:
            Stacks with positions among the members, and whether each part is worth a thread and
            there is memory for one on each core.
        """
        rows = max(batch.x.shape[0] * batch.x.shape[1] for batch in batches)
        by_stack: dict[int, list[int]] = {}
        for at, member in enumerate(members):
            by_stack.setdefault(member.stack, []).append(at)

        def floats_of(part: Sequence[int]) -> int:
            return self._model.row_floats(members[part[0]].settings)

        parts, most, least = [], 0, math.inf
        for number, own in by_stack.items():
            own.sort(key=lambda at: members[at].slot)
            floats = rows * floats_of(own)
            each, least = floats * self._reference.element_size(), min(least, floats)
            at_once = max(1, self._room // max(1, each))
            at_once = math.ceil(len(own) / math.ceil(len(own) / at_once))  # parts of one size
            most = max(most, each * min(at_once, len(own)))
            for start in range(0, len(own), at_once):
                parts.append((self._stacks[number], own[start : start + at_once]))
        # Largest first, so that at the end no core waits long for another.
        parts.sort(key=lambda part: -len(part[1]) * floats_of(part[1]))
        return parts, least >= LARGE and most * self._workers.count <= self._budget

    def _encode(self, fit: Fit, settings: Any) -> dict[int, NDArray[np.float64]]:
        """Encoded target of each training and tuning case."""
        code = self._objective.encode
        out: dict[int, NDArray[np.float64]] = {}
        if fit.tune is not None and fit.tune_target is not None and len(fit.tune):
            rows = code(fit.tune_target, fit.target, self._n_outputs, settings)
            out.update(zip(fit.tune.tolist(), rows, strict=True))
        rows = code(fit.target, fit.target, self._n_outputs, settings)
        out.update(zip(fit.train.tolist(), rows, strict=True))
        return out
