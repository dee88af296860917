"""Models of one shape, stacked: each parameter is one tensor with a leading S.

On a GPU all that a step needs from the host (targets, counts of steps, keys of dropout, which
models take part) goes there in one copy through pinned memory, and nothing comes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim.adamw import adamw

from spade_bench.counterhash import MASK32, drawn16, mixed
from spade_bench.device import array_to_device, autocast, to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.heads._base import Model
    from spade_bench.heads._objectives import Objective

__all__ = ["Batch", "ModelStack", "Params", "fold_scaling", "uniform"]

Params = dict[str, torch.Tensor]
Part = slice | list[int] | torch.Tensor  # a tensor of places on a GPU
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of AdamW, torch's defaults


@dataclass(frozen=True)
class Batch:
    """Bags padded to one length.

    Attributes:
        x: Features minus a reference that all members share, (B, n, D).
        mask: True where a row is a real patch, (B, n); None when all are.
        at: Which cases of the step these are, B positions.
    """

    x: torch.Tensor
    mask: torch.Tensor | None
    at: list[int]


class ModelStack:
    """Stacked models with AdamW; each member has its own cosine and its own dropout stream.

    Args:
        model: Architecture.
        objective: Loss and prediction.
        settings: Hyperparameters of the members; those in ``model.shape`` are all alike.
        seeds: Seeds of the members.
        steps: Steps that each member will take.
        mean: What is subtracted from the features besides the reference, (S, D).
        scale: What they are divided by, (S, D).
        dim: Width of the features.
        width: Outputs per case.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        settings: Sequence[Any],
        seeds: Sequence[int],
        steps: Sequence[int],
        *,
        mean: torch.Tensor,
        scale: torch.Tensor,
        dim: int,
        width: int,
    ) -> None:
        self._model, self._objective, self._settings = model, objective, settings
        self._mean, self._scale = mean, scale
        self._shifted = bool(mean.any())
        self._device, dtype = mean.device, mean.dtype
        self._precision = settings[0].precision
        # Every member draws from streams of its own, so that it starts and drops alike in every
        # company. On a CPU it goes on drawing where its start ended; on a GPU a hash of its seed,
        # its steps and the place in the vector drops there, and nothing need be sent.
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [model.initial(dim, width, settings[0], stream) for stream in self._streams]
        self._w = {k: torch.stack([one[k] for one in drawn]).to(mean) for k in drawn[0]}
        self._m = {k: torch.zeros_like(w) for k, w in self._w.items()}
        self._v = {k: torch.zeros_like(w) for k, w in self._w.items()}
        self._best: Params | None = None
        self._own: dict[int, tuple[list[torch.Tensor], ...]] = {}
        self._seeds = np.array([seed & MASK32 for seed in seeds])
        dropout = torch.tensor([s.dropout for s in settings], dtype=torch.float64)
        self._drops = bool(dropout.any())
        self._dropped = to_device((dropout * 2**16).round().long()[:, None, None], self._device)
        self._kept = to_device((1 / (1 - dropout))[:, None, None].to(dtype), self._device)
        self._taken = np.zeros(len(settings), dtype=np.int64)
        self._steps = np.asarray(steps, dtype=np.float64)
        self._lr = np.array([s.lr for s in settings])
        self._decay = np.array([s.weight_decay for s in settings])
        self._dtype = dtype

    def step(self, batches: Sequence[Batch], rows: NDArray[np.float64], members: list[int]) -> None:
        """Take one step of some members on the same cases.

        Args:
            batches: The cases' bags.
            rows: Encoded targets, (s, B, T).
            members: Which members, s of them.
        """
        part, target, counts, noise = self._sent(rows, members)  # (s, B, T), (s,), (s, B, H)
        # Other members of the same tensors may be updated meanwhile, which autograd would take for
        # a change of these: `data` has a version count of its own. A copy would cost a third of a
        # step of mean-mlp (docs/HEADS.md).
        leaves = {k: w.data[part].requires_grad_() for k, w in self._w.items()}
        names = list(leaves)
        if len(batches) == 1:
            (batch,) = batches
            own = None if noise is None else self._of(noise, batch.at)
            out = self._forward(batch, leaves, part, own)  # (s, B, K)
            loss = self._objective.loss(out, self._of(target, batch.at)).sum()
            grads = torch.autograd.grad(loss, list(leaves.values()))
            self._update(dict(zip(names, grads, strict=True)), members, counts)
            return
        # Many bags: outputs first, then one bag's graph at a time with the loss's slope there.
        with torch.no_grad():
            out = self._outputs(batches, leaves, part, noise)  # (s, B, K)
        out.requires_grad_()
        (slope,) = torch.autograd.grad(self._objective.loss(out, target).sum(), out)
        total = {k: torch.zeros_like(w) for k, w in leaves.items()}
        for batch in batches:
            own = None if noise is None else self._of(noise, batch.at)
            out = self._forward(batch, leaves, part, own)
            slopes = self._of(slope, batch.at)
            grads = torch.autograd.grad(out, list(leaves.values()), slopes)
            for name, grad in zip(names, grads, strict=True):
                total[name] += grad
        self._update(total, members, counts)

    def _sent(
        self, rows: NDArray[np.float64], members: list[int]
    ) -> tuple[Part, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Bring what a step needs to where the models are.

        Returns:
            Members as an index, targets (s, B, T), on a GPU the steps that members will have taken
            (s,), and dropout factors (s, B, H) or None.
        """
        s, n_cases, _ = rows.shape
        if self._device.type == "cpu":
            target = torch.tensor(rows).to(self._dtype)  # (s, B, T)
            return self._part(members), target, None, self._noise(members, n_cases)
        # Whole numbers that float64 can hold; numpy scrambles a few of them faster than torch.
        taken = self._taken[members]  # (s,)
        keys = mixed(mixed(self._seeds[members]) + taken) if self._drops else taken  # (s,)
        packet = np.concatenate([members, taken + 1, keys, rows.ravel()])  # (3 s + s B T,)
        sent = array_to_device(packet, self._device)
        part: Part = self._part(members)
        if not isinstance(part, slice):
            part = sent[:s].long()  # (s,)
        target = sent[3 * s :].view(rows.shape).to(self._dtype)  # (s, B, T)
        noise = self._hashed_noise(sent[2 * s : 3 * s].long(), part, n_cases)
        return part, target, sent[s : 2 * s].float(), noise

    @torch.no_grad()
    def outputs(self, batches: Sequence[Batch], members: list[int]) -> torch.Tensor:
        """Outputs of some members without dropout, (s, B, K), in the order of the cases."""
        part = self._index(members)
        return self._outputs(batches, {k: w[part] for k, w in self._w.items()}, part, None)

    def keep(self, members: list[int]) -> None:
        """Remember the present weights of some members as their best."""
        if self._best is None:
            self._best = {k: w.clone() for k, w in self._w.items()}
        part = self._index(members)
        for name, w in self._w.items():
            self._best[name][part] = w[part]

    def restore(self, members: list[int]) -> None:
        """Go back to the best weights of some members."""
        if self._best is not None and members:
            part = self._index(members)
            for name, w in self._w.items():
                w[part] = self._best[name][part]

    def weights(self, member: int) -> Params:
        """Copies of a member's weights on the CPU, and how it scales features."""
        scaling = {"input.mean": self._mean, "input.scale": self._scale}
        return {k: w[member].detach().cpu().clone() for k, w in {**self._w, **scaling}.items()}

    def free(self) -> None:
        """Drop what only training needs."""
        self._m, self._v, self._best, self._own = {}, {}, None, {}

    def _outputs(
        self, batches: Sequence[Batch], p: Params, part: Part, noise: torch.Tensor | None
    ) -> torch.Tensor:
        parts, order = [], []
        for batch in batches:
            own = None if noise is None else self._of(noise, batch.at)
            parts.append(self._forward(batch, p, part, own))
            order += batch.at
        return self._of(torch.cat(parts, dim=1), np.argsort(order).tolist())  # (s, B, K)

    def _forward(
        self, batch: Batch, leaves: Params, part: Part, noise: torch.Tensor | None
    ) -> torch.Tensor:
        p = fold_scaling(leaves, self._mean[part] if self._shifted else None, self._scale[part])
        with autocast(self._device, self._precision):
            out = self._model.forward(batch.x, batch.mask, p, noise)  # (s, B, K)
        return out.to(self._dtype)

    def _noise(self, members: list[int], n_cases: int) -> torch.Tensor | None:
        """Draw dropout factors, 0 or 1 / keep, (s, B, H)."""
        width = self._model.dropped(self._settings[0])
        if all(self._settings[i].dropout == 0 for i in members):
            return None
        rows = []
        for i in members:
            keep = 1 - self._settings[i].dropout
            drawn = torch.rand(n_cases, width, generator=self._streams[i])  # (B, H)
            rows.append((drawn < keep) / keep)
        return torch.stack(rows).to(self._dtype)

    def _hashed_noise(self, keys: torch.Tensor, part: Part, n_cases: int) -> torch.Tensor | None:
        """Dropout factors (s, B, H) on a GPU, given keys of members and steps (s,)."""
        if not self._drops:
            return None
        width = self._model.dropped(self._settings[0])
        drawn = drawn16(keys, n_cases * width).view(len(keys), n_cases, width)  # (s, B, H)
        return (drawn >= self._dropped[part]) * self._kept[part]  # (s, B, H)

    def _update(self, grads: Params, members: list[int], counts: torch.Tensor | None) -> None:
        """One AdamW step of some members, each with its own rate and count."""
        rate = (
            0.5
            * self._lr[members]
            * (1 + np.cos(np.pi * self._taken[members] / self._steps[members]))
        )  # (s,)
        self._taken[members] += 1
        if counts is None:
            for at, member in enumerate(members):
                own = {name: grad[at] for name, grad in grads.items()}
                self._update_one(own, member, float(rate[at]))
            return
        self._update_each(grads, members, rate, counts)

    @torch.no_grad()
    def _update_each(
        self, grads: Params, members: list[int], rates: NDArray[np.float64], counts: torch.Tensor
    ) -> None:
        """One AdamW step of some members on a GPU, all of them together: nothing is copied.

        The fused kernel counts steps by tensor, but knows one rate only: it finds the direction of
        every member at rate 1, from weights of zero, and each then goes as far as its own rate
        says. Members need not be neighbours for it.
        """
        ways = {name: torch.zeros_like(grads[name]) for name in grads}
        # The kernel misreads gradients laid out otherwise than their weights.
        slopes = list(zip(*(grad.contiguous().unbind() for grad in grads.values()), strict=True))
        steps = list(zip(*(way.unbind() for way in ways.values()), strict=True))
        own = [self._views(member, grads) for member in members]
        each = len(grads)
        ahead = [tensor for one in steps for tensor in one]
        torch._fused_adamw_(
            ahead,
            [tensor for one in slopes for tensor in one],
            [tensor for _, m, _, _ in own for tensor in m],
            [tensor for _, _, v, _ in own for tensor in v],
            [],
            [count for count in counts.unbind() for _ in range(each)],
            lr=1.0,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        w = [tensor for tensors, _, _, _ in own for tensor in tensors]
        rate = np.repeat(rates, each)  # (s P,)
        torch._foreach_mul_(w, (1 - rate * np.repeat(self._decay[members], each)).tolist())
        torch._foreach_mul_(ahead, rate.tolist())
        torch._foreach_add_(w, ahead)

    def _views(self, member: int, names: Iterable[str]) -> tuple[list[torch.Tensor], ...]:
        """A member's weights, moments and counted steps: all updates are made in place."""
        if member not in self._own:
            states = (self._w, self._m, self._v)
            views = [[state[name][member] for name in names] for state in states]
            # The optimiser counts the steps in these; on a GPU they are sent instead.
            self._own[member] = (*views, [torch.zeros(()) for _ in views[0]])
        return self._own[member]

    def _update_one(self, grads: Params, member: int, rate: float) -> None:
        """One AdamW step of one member by torch's fused kernel: a single pass, no copies.

        The kernel misreads gradients laid out otherwise than their weights.
        """
        w, m, v, steps = self._views(member, grads)
        adamw(
            w,
            [grad.contiguous() for grad in grads.values()],
            m,
            v,
            [],
            steps,
            fused=True,
            lr=rate,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=float(self._decay[member]),
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def _of(self, tensor: torch.Tensor, at: list[int]) -> torch.Tensor:
        """The cases ``at`` of a tensor (s, B, ...)."""
        if self._device.type == "cpu":
            return tensor[:, at]
        if at == list(range(tensor.shape[1])):
            return tensor
        return tensor.index_select(1, to_device(torch.tensor(at), self._device))

    def _index(self, members: list[int]) -> Part:
        """Members as an index of tensors where the models are."""
        part = self._part(members)
        if isinstance(part, slice) or self._device.type == "cpu":
            return part
        return to_device(torch.tensor(members), self._device)

    @staticmethod
    def _part(members: list[int]) -> slice | list[int]:
        """Members as a slice where they are neighbours: no copies then."""
        if members[-1] - members[0] == len(members) - 1:
            return slice(members[0], members[-1] + 1)
        return members


def fold_scaling(p: Params, mean: torch.Tensor | None, scale: torch.Tensor) -> Params:
    """Fold scaling into the first layer, so that one bag serves models that scale differently.

    Args:
        p: Parameters of s models.
        mean: What each subtracts from the features besides the reference, (s, D); None for nothing.
        scale: What each divides them by, (s, D).

    Returns:
        Parameters for features minus the reference.
    """
    out = dict(p)
    out["w1"] = p["w1"] / scale.unsqueeze(1)  # (s, H, D)
    if mean is not None:
        out["b1"] = p["b1"] - (out["w1"] @ mean.unsqueeze(2)).squeeze(2)  # (s, H)
    return out


def uniform(stream: torch.Generator, *shape: int, fan_in: int) -> torch.Tensor:
    """Draw weights the way torch's linear layers start."""
    return (torch.rand(*shape, generator=stream) * 2 - 1) / math.sqrt(fan_in)
