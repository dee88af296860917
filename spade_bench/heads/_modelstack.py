"""Models of one shape, stacked: each parameter is one tensor with a leading S."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim.adamw import adamw

from spade_bench.device import autocast

if TYPE_CHECKING:
    from spade_bench.heads._base import Model
    from spade_bench.heads._objectives import Objective

__all__ = ["Batch", "ModelStack", "Params", "fold_scaling", "uniform"]

Params = dict[str, torch.Tensor]
Part = slice | list[int]
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
        # Every member draws on the CPU from a stream of its own, so that it starts and drops alike
        # on every device and in every company.
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [model.initial(dim, width, settings[0], stream) for stream in self._streams]
        self._w = {k: torch.stack([one[k] for one in drawn]).to(mean) for k in drawn[0]}
        self._m = {k: torch.zeros_like(w) for k, w in self._w.items()}
        self._v = {k: torch.zeros_like(w) for k, w in self._w.items()}
        self._best: Params | None = None
        self._own: dict[int, tuple[list[torch.Tensor], ...]] = {}
        self._taken = np.zeros(len(settings), dtype=np.int64)
        self._steps = np.asarray(steps, dtype=np.float64)
        self._lr = np.array([s.lr for s in settings])
        self._decay = np.array([s.weight_decay for s in settings])
        self._dtype = dtype

    def step(self, batches: Sequence[Batch], target: torch.Tensor, members: list[int]) -> None:
        """Take one step of some members on the same cases.

        Args:
            batches: The cases' bags.
            target: Encoded targets, (s, B, T).
            members: Which members, s of them.
        """
        part = self._part(members)
        # Other members of the same tensors may be updated meanwhile, which autograd would take for
        # a change of these: `data` has a version count of its own. A copy would cost a third of a
        # step of mean-mlp (docs/HEADS.md).
        leaves = {k: w.data[part].requires_grad_() for k, w in self._w.items()}
        noise = self._noise(members, target.shape[1])  # (s, B, H) or None
        names = list(leaves)
        if len(batches) == 1:
            (batch,) = batches
            own = None if noise is None else noise[:, batch.at]
            out = self._forward(batch, leaves, part, own)  # (s, B, K)
            loss = self._objective.loss(out, target[:, batch.at]).sum()
            grads = torch.autograd.grad(loss, list(leaves.values()))
            self._update(dict(zip(names, grads, strict=True)), part, members)
            return
        # Many bags: outputs first, then one bag's graph at a time with the loss's slope there.
        with torch.no_grad():
            out = self._outputs(batches, leaves, part, noise)  # (s, B, K)
        out.requires_grad_()
        (slope,) = torch.autograd.grad(self._objective.loss(out, target).sum(), out)
        total = {k: torch.zeros_like(w) for k, w in leaves.items()}
        for batch in batches:
            own = None if noise is None else noise[:, batch.at]
            out = self._forward(batch, leaves, part, own)
            grads = torch.autograd.grad(out, list(leaves.values()), slope[:, batch.at])
            for name, grad in zip(names, grads, strict=True):
                total[name] += grad
        self._update(total, part, members)

    @torch.no_grad()
    def outputs(self, batches: Sequence[Batch], members: list[int]) -> torch.Tensor:
        """Outputs of some members without dropout, (s, B, K), in the order of the cases."""
        part = self._part(members)
        return self._outputs(batches, {k: w[part] for k, w in self._w.items()}, part, None)

    def keep(self, members: list[int]) -> None:
        """Remember the present weights of some members as their best."""
        if self._best is None:
            self._best = {k: w.clone() for k, w in self._w.items()}
        for name, w in self._w.items():
            self._best[name][members] = w[members]

    def restore(self, members: list[int]) -> None:
        """Go back to the best weights of some members."""
        if self._best is not None and members:
            for name, w in self._w.items():
                w[members] = self._best[name][members]

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
            own = None if noise is None else noise[:, batch.at]
            parts.append(self._forward(batch, p, part, own))
            order += batch.at
        back = torch.tensor(np.argsort(order), device=self._device)
        return torch.cat(parts, dim=1)[:, back]  # (s, B, K)

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
        return torch.stack(rows).to(self._device, self._dtype)

    def _update(self, grads: Params, part: Part, members: list[int]) -> None:
        """One AdamW step of some members, each with its own rate and count."""
        rate = (
            0.5
            * self._lr[members]
            * (1 + np.cos(np.pi * self._taken[members] / self._steps[members]))
        )  # (s,)
        self._taken[members] += 1
        count = self._taken[members]
        size = rate / (1 - BETA1**count)
        decay = 1 - rate * self._decay[members]
        root = np.sqrt(1 - BETA2**count)
        if self._device.type == "cpu":
            for at, member in enumerate(members):
                own = {name: grad[at] for name, grad in grads.items()}
                self._update_one(own, member, float(rate[at]))
            return
        # One launch of a kernel serves all members; torch's own AdamW takes one rate per call, and
        # members have rates and counts of their own.
        with torch.no_grad():
            for name, grad in grads.items():
                w, m, v = self._w[name][part], self._m[name][part], self._v[name][part]
                m.lerp_(grad, 1 - BETA1)
                v.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
                shape = (-1, *([1] * (grad.ndim - 1)))
                size_, decay_, root_ = (
                    float(f[0]) if len(f) == 1 else torch.as_tensor(f).to(w).view(shape)
                    for f in (size, decay, root)
                )
                w.mul_(decay_).sub_(m.mul(size_).div_(v.sqrt().div_(root_).add_(EPSILON)))
                if not isinstance(part, slice):  # a list copies, a slice does not
                    self._w[name][part], self._m[name][part], self._v[name][part] = w, m, v

    def _update_one(self, grads: Params, member: int, rate: float) -> None:
        """One AdamW step of one member by torch's fused kernel: a single pass, no copies.

        The kernel misreads gradients laid out otherwise than their weights.
        """
        if member not in self._own:  # views of its slice: all updates are made in place
            states = (self._w, self._m, self._v)
            views = [[state[name][member] for name in grads] for state in states]
            # The optimiser counts the steps in these.
            self._own[member] = (*views, [torch.zeros(()) for _ in grads])
        w, m, v, steps = self._own[member]
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

    @staticmethod
    def _part(members: list[int]) -> Part:
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
