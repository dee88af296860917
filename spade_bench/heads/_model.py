"""The architecture of a head that is trained by gradient steps, in stacked form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Params = dict[str, torch.Tensor]

__all__ = ["Model"]


@dataclass(frozen=True)
class Model:
    """An architecture in stacked form.

    Attributes:
        initial: ``initial(dim, width, settings, stream)`` draws the parameters of one model. The
            first layer, which sees the patches, must be called ``w1`` (H, D) and ``b1`` (H,).
        forward: ``forward(x, mask, p, noise)`` takes bags (B, n, D), their mask (B, n) or None,
            parameters with a leading S, and dropout factors (S, B, H) or None; returns (S, B, K).
        dropped: Width of the dropout factors, H.
        row_floats: Numbers kept for the gradient a patch and model; plans the memory.
        shape: Settings in which models must agree to be stacked.
        small: Whether most of its matrix products are small.
        attention: ``attention(x, mask, p)`` returns how much each patch weighs, (S, B, n), which
            sums to one over the real patches; None when the model has no such weights.
        shares: ``shares(x, p)`` takes one bag (1, n, D) and the parameters of one model, and
            returns what each patch adds to each output, (n, K), and what is added besides, (K,);
            together they are the output. None when outputs are no such sums.
    """

    initial: Callable[[int, int, Any, torch.Generator], Params]
    forward: Callable[
        [torch.Tensor, torch.Tensor | None, Params, torch.Tensor | None], torch.Tensor
    ]
    dropped: Callable[[Any], int]
    row_floats: Callable[[Any], int]
    shape: tuple[str, ...]
    small: bool = False
    attention: Callable[[torch.Tensor, torch.Tensor | None, Params], torch.Tensor] | None = None
    shares: Callable[[torch.Tensor, Params], tuple[torch.Tensor, torch.Tensor]] | None = None

    def shape_of(self, settings: Any) -> tuple[Any, ...]:
        """Values of `shape`: models in which they are equal can be stacked."""
        return tuple(getattr(settings, name) for name in self.shape)
