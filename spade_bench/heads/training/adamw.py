"""AdamW for the models of a stack, each with a rate and a count of steps of its own.

On a CPU every model is updated by torch's fused kernel: a single pass, no copies. On a GPU that
would be a list of hundreds of small tensors a step, which keeps the host busier than the GPU: there
all parameters of a stack lie in one tensor, and some ten kernels update all models that take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CpuAdamW", "GpuAdamW", "Optimiser", "Params", "Part", "Turn", "pace"]

Params = dict[str, torch.Tensor]
Part = slice | list[int] | torch.Tensor  # which models of a stack; a tensor of places on a GPU
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults
_ALIGNED = 32  # numbers to which each parameter begins in the one tensor, for fast products


class Turn(Protocol):
    """One step of some models."""

    @property
    def leaves(self) -> Params:
        """Their parameters, each with a leading s."""

    def update(self, grads: Params) -> None:
        """Go one step against these gradients."""


class Optimiser(Protocol):
    """The weights of a stack and how they are updated."""

    tensors: Params  # of all models, each with a leading S

    def turn(self, part: Part, going: torch.Tensor) -> Turn:
        """Begin a step of some models.

        Args:
            part: Which.
            going: On a CPU their rates (s,); on a GPU what `pace` says (s, 3).
        """

    def free(self) -> None:
        """Drop what only training needs."""


def pace(
    rates: NDArray[np.float64], decay: NDArray[np.float64], steps: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How far each model goes in a step on a GPU, from what the host knows.

    Args:
        rates: Learning rates, (s,).
        decay: Weight decays, (s,).
        steps: Counts of steps, this one included, (s,).

    Returns:
        The rate corrected for moments that began at zero, the root of the correction of the second
        moment, and what decay leaves of the weights, (s, 3).
    """
    corrected = rates / (1 - BETA1**steps)  # (s,)
    return np.stack([corrected, np.sqrt(1 - BETA2**steps), 1 - rates * decay], axis=1)


class CpuAdamW:
    """One model after the other.

    Args:
        drawn: Parameters of each model.
        like: A tensor with the dtype they are to have.
        decay: Weight decay of each model, (S,).
    """

    def __init__(
        self, drawn: Sequence[Params], like: torch.Tensor, decay: NDArray[np.float64]
    ) -> None:
        self.tensors = {k: torch.stack([one[k] for one in drawn]).to(like) for k in drawn[0]}
        self._m = {k: torch.zeros_like(w) for k, w in self.tensors.items()}
        self._v = {k: torch.zeros_like(w) for k, w in self.tensors.items()}
        self._decay = decay
        self._own: dict[int, tuple[list[torch.Tensor], ...]] = {}

    def turn(self, part: Part, going: torch.Tensor) -> Turn:
        """Begin a step of some models. See `Optimiser.turn`."""
        return _CpuTurn(self, part, going)

    def update_one(self, grads: Params, member: int, rate: float) -> None:
        """One step of one model. The kernel misreads gradients laid out unlike their weights."""
        w, m, v, steps = self._views(member)
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

    def _views(self, member: int) -> tuple[list[torch.Tensor], ...]:
        """Weights, moments and counted steps of a model: all updates are made in place."""
        if member not in self._own:
            states = (self.tensors, self._m, self._v)
            views = [[tensor[member] for tensor in state.values()] for state in states]
            self._own[member] = (*views, [torch.zeros(()) for _ in views[0]])
        return self._own[member]

    def free(self) -> None:
        """Drop what only training needs."""
        self._m, self._v, self._own = {}, {}, {}


class _CpuTurn:
    def __init__(self, optimiser: CpuAdamW, part: Part, rates: torch.Tensor) -> None:
        self._optimiser, self._rates = optimiser, rates
        s = len(next(iter(optimiser.tensors.values())))
        self._members = range(s)[part] if isinstance(part, slice) else part
        # Other models of the same tensors may be updated meanwhile, which autograd would take for a
        # change of these: `data` has a version count of its own. A copy would cost a third of a
        # step of mean-mlp (docs/HEADS.md).
        self.leaves = {k: w.data[part].requires_grad_() for k, w in optimiser.tensors.items()}

    def update(self, grads: Params) -> None:
        for at, (member, rate) in enumerate(zip(self._members, self._rates.tolist(), strict=True)):
            own = {name: grad[at] for name, grad in grads.items()}
            self._optimiser.update_one(own, int(member), rate)


class GpuAdamW:
    """All models that take part at once.

    Args:
        drawn: Parameters of each model.
        like: A tensor on the device, with the dtype they are to have.
    """

    def __init__(self, drawn: Sequence[Params], like: torch.Tensor) -> None:
        self.shapes = {k: tuple(w.shape) for k, w in drawn[0].items()}
        self.sizes = {k: w.numel() for k, w in drawn[0].items()}
        self.gaps = {k: like.new_zeros(len(drawn), -n % _ALIGNED) for k, n in self.sizes.items()}
        width = sum(n + self.gaps[k].shape[1] for k, n in self.sizes.items())
        self.w = like.new_zeros(len(drawn), width)  # (S, P)
        self.tensors = self.views(self.w)
        for k, tensor in self.tensors.items():
            tensor.copy_(torch.stack([one[k] for one in drawn]))
        self.m, self.v = torch.zeros_like(self.w), torch.zeros_like(self.w)

    def turn(self, part: Part, going: torch.Tensor) -> Turn:
        """Begin a step of some models. See `Optimiser.turn`."""
        return _GpuTurn(self, part, going)

    def views(self, rows: torch.Tensor) -> Params:
        """The parameters that lie side by side in rows (s, P)."""
        out, at = {}, 0
        for k, n in self.sizes.items():
            out[k] = rows[:, at : at + n].view(len(rows), *self.shapes[k])
            at += n + self.gaps[k].shape[1]
        return out

    def joined(self, grads: Params) -> torch.Tensor:
        """Gradients side by side as the parameters are, (s, P)."""
        parts = []
        for k, grad in grads.items():
            s = len(grad)
            parts.append(grad.reshape(s, self.sizes[k]))
            if self.gaps[k].shape[1]:
                parts.append(self.gaps[k][:s])
        return torch.cat(parts, dim=1)

    def free(self) -> None:
        """Drop what only training needs."""
        self.m = self.v = self.w.new_empty(0)


class _GpuTurn:
    def __init__(self, optimiser: GpuAdamW, part: Part, going: torch.Tensor) -> None:
        self._optimiser, self._part = optimiser, part
        self._rate, self._root, self._left = going.unsqueeze(2).unbind(1)  # (s, 1) each
        self._w = optimiser.w[part]  # (s, P): a view where the models are neighbours
        own = optimiser.views(self._w.detach())
        self.leaves = {k: w.requires_grad_() for k, w in own.items()}

    @torch.no_grad()
    def update(self, grads: Params) -> None:
        optimiser, part = self._optimiser, self._part
        grad = optimiser.joined(grads)  # (s, P)
        m, v = optimiser.m[part], optimiser.v[part]  # (s, P) each
        m.lerp_(grad, 1 - BETA1)
        v.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        way = v.sqrt().div_(self._root).add_(EPSILON)  # (s, P)
        torch.div(m, way, out=way)
        self._w.mul_(self._left).addcmul_(way, self._rate, value=-1)
        if isinstance(part, torch.Tensor):
            for state, own in ((optimiser.w, self._w), (optimiser.m, m), (optimiser.v, v)):
                state.index_copy_(0, part, own)
