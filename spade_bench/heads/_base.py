"""What a head is made of and asked to do: jobs, hyperparameters, memory, an architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from spade_bench.config import parse_memory

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Params = dict[str, torch.Tensor]

__all__ = ["CPU_MEMORY", "Fit", "HeadOptions", "Model", "grid_points", "parse_memory"]

CPU_MEMORY = 4 << 30  # of training; a constant, so that results do not depend on the machine


@dataclass(frozen=True)
class Fit:
    """One training job. Test targets are not part of it, so no head can see them.

    Attributes:
        train: (n,) positions of the training cases in the bags.
        target: Class index of each training case, (n,) int; for regression its value, (n,) float;
            for survival (n, 2) float with the event (1 or 0) and the days.
        test: (m,) positions of the cases to predict.
        seed: Seed of initialisation and dropout.
        params: Hyperparameters that replace the head's own in this fit: a point of a grid.
        tune: (t,) positions of the cases on which training may stop early; None trains to the
            end. They never overlap with `test` unless predictions on them are what is wanted.
        tune_target: Targets of `tune`, like `target`.
        order: Seed of the order in which cases are shown. Fits that share it meet at the same
            bag, which is then read once for all of them; so leave it alone across folds, draws
            and grid points.
    """

    train: NDArray[np.int64]
    target: NDArray[Any]
    test: NDArray[np.int64]
    seed: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    tune: NDArray[np.int64] | None = None
    tune_target: NDArray[Any] | None = None
    order: int = 0


@dataclass(frozen=True)
class HeadOptions:
    """How a head shall be made.

    Attributes:
        device: `auto`, `cpu` or `cuda[:n]`.
        params: Hyperparameters that replace the defaults of its card.
        memory: Bytes that bags and training may take together, as a number or like `4GB`; None for
            a share of what the device has. One half is for bags: those in memory, and on a GPU
            those that stay there. The other half bounds how many fits train side by side, and
            never changes the numbers.
    """

    device: str = "cpu"
    params: Mapping[str, Any] = field(default_factory=dict)
    memory: int | str | None = None


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


def grid_points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid as `Fit.params`, the last name varying fastest."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
