"""A small network on mean-pooled features."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from spade_bench.heads._base import Model
from spade_bench.heads._stacked import TrainConfig, stacked_head
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import torch

    Params = dict[str, torch.Tensor]

__all__ = ["MeanMlpConfig", "forward", "initial"]


@dataclass(frozen=True)
class MeanMlpConfig(TrainConfig):
    """Settings of the network.

    Attributes:
        hidden: Width of its hidden layer.
        balanced: Whether every class weighs alike in the loss; of a measured value, which has no
            classes, it means nothing.
    """

    hidden: int = 128
    balanced: bool = True


def initial(dim: int, width: int, s: MeanMlpConfig, stream: torch.Generator) -> Params:
    """Draw one model's parameters."""
    import torch

    from spade_bench.heads.training.modelstack import uniform

    return {
        "w1": uniform(stream, s.hidden, dim, fan_in=dim),
        "b1": torch.zeros(s.hidden),
        "out": uniform(stream, s.hidden, width, fan_in=s.hidden),
        "out_b": torch.zeros(1, width),
    }


def forward(
    x: torch.Tensor, mask: torch.Tensor | None, p: Params, noise: torch.Tensor | None
) -> torch.Tensor:
    """Classify mean vectors, bags of one row each: (B, 1, D) -> (S, B, K)."""
    s, hidden, dim = p["w1"].shape
    h = x[:, 0] @ p["w1"].reshape(s * hidden, dim).T + p["b1"].reshape(-1)  # (B, S H)
    h = h.relu().view(len(x), s, hidden).transpose(0, 1)  # (S, B, H)
    return (h if noise is None else h * noise) @ p["out"] + p["out_b"]  # (S, B, K)


stacked_head(
    HeadCard(
        name="mean-mlp",
        title="MLP on the mean",
        kinds=("classification", "regression"),
        description="One hidden layer on mean-pooled features",
        input="pooled",
        defaults=asdict(MeanMlpConfig()),
        grid={"lr": (5e-6, 1e-5, 5e-5, 1e-4, 1e-3), "hidden": (128, 256, 384, 512)},
    ),
    MeanMlpConfig,
    Model(initial, forward, lambda s: int(s.hidden), lambda s: 4 * int(s.hidden), ("hidden",)),
    "classes",
    of_one_output="squared-error",
)
