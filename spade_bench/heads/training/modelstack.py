"""Models of one shape, stacked: each parameter is one tensor with a leading S.

On a GPU all that a step needs from the host (targets, rates, keys of dropout, which models take
part) goes there in one copy through pinned memory, and nothing comes back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spade_bench.device import array_to_device, autocast, to_device
from spade_bench.heads.training.adamw import CpuAdamW, GpuAdamW, Optimiser, Params, Part, pace
from spade_bench.heads.training.hasheddropout import HashedDropout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.heads._base import Model
    from spade_bench.heads._objectives import Objective

__all__ = ["Batch", "ModelStack", "Params", "fold_scaling", "uniform"]


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
        self._decay = np.array([one.weight_decay for one in settings])
        on_cpu = self._device.type == "cpu"
        self._adamw: Optimiser = (
            CpuAdamW(drawn, mean, self._decay) if on_cpu else GpuAdamW(drawn, mean)
        )
        self._best: Params | None = None
        rates = [one.dropout for one in settings]
        self._hashed = (
            None
            if on_cpu or not any(rates)
            else HashedDropout(seeds, rates, model.dropped(settings[0]), mean)
        )
        self._taken = np.zeros(len(settings), dtype=np.int64)
        self._steps = np.asarray(steps, dtype=np.float64)
        self._lr = np.array([s.lr for s in settings])
        self._dtype = dtype

    def step(self, batches: Sequence[Batch], rows: NDArray[np.float64], members: list[int]) -> None:
        """Take one step of some members on the same cases.

        Args:
            batches: The cases' bags.
            rows: Encoded targets, (s, B, T).
            members: Which members, s of them.
        """
        part, target, going, noise = self._sent(rows, members)
        self._taken[members] += 1
        turn = self._adamw.turn(part, going)
        leaves, names = turn.leaves, list(turn.leaves)
        if len(batches) == 1:
            (batch,) = batches
            own = None if noise is None else self._of(noise, batch.at)
            out = self._forward(batch, leaves, part, own)  # (s, B, K)
            loss = self._objective.loss(out, self._of(target, batch.at)).sum()
            grads = torch.autograd.grad(loss, list(leaves.values()))
            turn.update(dict(zip(names, grads, strict=True)))
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
        turn.update(total)

    def _sent(
        self, rows: NDArray[np.float64], members: list[int]
    ) -> tuple[Part, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Bring what a step needs to where the models are.

        Returns:
            Members as an index, targets (s, B, T), what the optimiser needs of each, and dropout
            factors (s, B, H) or None.
        """
        s, n_cases, _ = rows.shape
        rates = self._rates(members)  # (s,)
        if self._device.type == "cpu":
            target = torch.tensor(rows).to(self._dtype)  # (s, B, T)
            noise = self._noise(members, n_cases)
            return self._part(members), target, torch.from_numpy(rates), noise
        drawn, taken = self._hashed, self._taken
        ahead = drawn is not None and drawn.wanted(members, taken, n_cases)
        places = members if drawn is None else drawn.places(members, taken)  # (s,)
        keys = drawn.keys() if drawn is not None and ahead else ()  # (S,) or nothing
        going = pace(rates, self._decay[members], taken[members] + 1)  # (s, 3)
        packet = np.concatenate([members, places, going.ravel(), rows.ravel(), keys])
        sent = array_to_device(packet, self._device)  # float64: whole numbers arrive as they are
        chosen, at = sent[: 2 * s].long().view(2, s)  # (s,) each
        if drawn is not None and ahead:
            drawn.draw(sent[-len(taken) :].long())
        noise = None if drawn is None else drawn.factors(chosen, at, n_cases)  # (s, B, H)
        numbers = sent[2 * s : 5 * s + rows.size].to(self._dtype)  # (3 s + s B T,)
        part = self._part(members)
        return (
            part if isinstance(part, slice) else chosen,
            numbers[3 * s :].view(rows.shape),
            numbers[: 3 * s].view(s, 3),
            noise,
        )

    @torch.no_grad()
    def outputs(self, batches: Sequence[Batch], members: list[int]) -> torch.Tensor:
        """Outputs of some members without dropout, (s, B, K), in the order of the cases."""
        part = self._index(members)
        return self._outputs(
            batches, {k: w[part] for k, w in self._adamw.tensors.items()}, part, None
        )

    def keep(self, members: list[int]) -> None:
        """Remember the present weights of some members as their best."""
        if self._best is None:
            self._best = {k: w.clone() for k, w in self._adamw.tensors.items()}
        part = self._index(members)
        for name, w in self._adamw.tensors.items():
            self._best[name][part] = w[part]

    def restore(self, members: list[int]) -> None:
        """Go back to the best weights of some members."""
        if self._best is not None and members:
            part = self._index(members)
            for name, w in self._adamw.tensors.items():
                w[part] = self._best[name][part]

    def weights(self, member: int) -> Params:
        """Copies of a member's weights on the CPU, and how it scales features."""
        scaling = {"input.mean": self._mean, "input.scale": self._scale}
        return {
            k: w[member].detach().cpu().clone()
            for k, w in {**self._adamw.tensors, **scaling}.items()
        }

    def free(self) -> None:
        """Drop what only training needs."""
        self._adamw.free()
        self._best = None

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

    def _rates(self, members: list[int]) -> NDArray[np.float64]:
        """Rates of the next step of some members: half a cosine over all their steps, (s,)."""
        part = self._taken[members] / self._steps[members]  # (s,)
        rates: NDArray[np.float64] = 0.5 * self._lr[members] * (1 + np.cos(np.pi * part))
        return rates

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
