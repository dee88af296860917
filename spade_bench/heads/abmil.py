"""Gated attention-based multiple-instance learning, for classes, survival and measured values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from spade_bench.heads._base import Model
from spade_bench.heads._stacked import TrainConfig, stacked_head
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import torch

    Params = dict[str, torch.Tensor]

__all__ = [
    "AbmilConfig",
    "AbmilCoxConfig",
    "AbmilMseConfig",
    "AbmilNllConfig",
    "attend",
    "forward",
    "initial",
    "shares",
]

REFERENCE = "Ilse, Tomczak, Welling: Attention-based deep MIL, ICML 2018"


@dataclass(frozen=True)
class AbmilConfig(TrainConfig):
    """Settings of the attention head.

    Attributes:
        hidden: Width of the patch projection.
        attention: Width of the attention branches.
        balanced: Whether every class weighs alike in the loss, as SPADE's balanced sampler has it.
    """

    hidden: int = 128
    attention: int = 64
    balanced: bool = True


@dataclass(frozen=True)
class AbmilNllConfig(TrainConfig):
    """Settings of the attention head with a discrete-time likelihood.

    Attributes:
        hidden: Width of the patch projection.
        attention: Width of the attention branches.
        bins: Time bins, cut at quantiles of the event times of the training cases.
    """

    hidden: int = 256
    attention: int = 64
    bins: int = 4


@dataclass(frozen=True)
class AbmilCoxConfig(TrainConfig):
    """Settings of the attention head with the Cox partial likelihood.

    Attributes:
        batch: Cases whose risks are compared in a step.
        hidden: Width of the patch projection.
        attention: Width of the attention branches.
    """

    batch: int = 32
    hidden: int = 256
    attention: int = 64


@dataclass(frozen=True)
class AbmilMseConfig(TrainConfig):
    """Settings of the attention head with the squared error of a value.

    Attributes:
        hidden: Width of the patch projection.
        attention: Width of the attention branches.
    """

    hidden: int = 256
    attention: int = 64


def initial(dim: int, width: int, s: AbmilConfig, stream: torch.Generator) -> Params:
    """Draw one model's parameters.

    The attention score has no bias, as softmax would cancel it, and a Cox risk has none either,
    as only differences of risks count: its vanishing gradient would be scaled up to a random walk.
    """
    import torch

    from spade_bench.heads.training.modelstack import uniform

    p = {
        "w1": uniform(stream, s.hidden, dim, fan_in=dim),
        "b1": torch.zeros(s.hidden),
        "gate": uniform(stream, s.hidden, 2 * s.attention, fan_in=s.hidden),
        "gate_b": torch.zeros(1, 2 * s.attention),
        "score": uniform(stream, s.attention, 1, fan_in=s.attention),
        "out": uniform(stream, s.hidden, width, fan_in=s.hidden),
    }
    return p if width == 1 else {**p, "out_b": torch.zeros(1, width)}


def initial_with_bias(dim: int, width: int, s: AbmilConfig, stream: torch.Generator) -> Params:
    """Draw one model's parameters, with a bias also of one output: a value has a level."""
    import torch

    return {**initial(dim, width, s, stream), "out_b": torch.zeros(1, width)}


def attend(
    x: torch.Tensor, mask: torch.Tensor | None, p: Params
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool bags by gated attention.

    Args:
        x: Features, (B, n, D).
        mask: True where a row is a real patch, (B, n), or None when all are.
        p: Parameters, each with a leading S.

    Returns:
        Pooled vectors (S, B, H) and attention (S, B, n), which sums to one over real patches.
    """
    import torch

    b, n, dim = x.shape
    s, hidden, _ = p["w1"].shape
    w1, b1 = p["w1"].reshape(s * hidden, dim), p["b1"].reshape(s * hidden)
    h = torch.nn.functional.linear(x.reshape(b * n, dim), w1, b1).relu()  # (B n, S H)
    h = h.view(b * n, s, hidden).transpose(0, 1).contiguous()  # (S, B n, H)
    left, right = (h @ p["gate"] + p["gate_b"].to(h.dtype)).chunk(2, dim=2)  # (S, B n, A) each
    score = (left.tanh() * right.sigmoid()) @ p["score"]  # (S, B n, 1)
    score = score.to(p["b1"].dtype).view(s, b, n)  # (S, B, n), in full precision
    if mask is not None:
        score = score.masked_fill(~mask, -math.inf)  # (S, B, n)
    attention = score.softmax(dim=2)  # (S, B, n)
    pooled = attention.view(s * b, 1, n).to(h.dtype) @ h.view(s * b, n, hidden)  # (S B, 1, H)
    return pooled.view(s, b, hidden), attention


def forward(
    x: torch.Tensor, mask: torch.Tensor | None, p: Params, noise: torch.Tensor | None
) -> torch.Tensor:
    """Pool bags (B, n, D) and put out (S, B, K). See `Model.forward`."""
    pooled, _ = attend(x, mask, p)  # (S, B, H)
    if noise is not None:
        pooled = pooled * noise  # (S, B, H)
    out = pooled @ p["out"]  # (S, B, K)
    return out + p["out_b"] if "out_b" in p else out


def shares(x: torch.Tensor, p: Params) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the outputs of a bag (1, n, D) apart: attention x what each patch alone would put out.

    Returns:
        The share of each patch, (n, K), and the bias, (K,). See `Model.shares`.
    """
    import torch

    _, attention = attend(x, None, p)  # (1, 1, n)
    n, (_, hidden, dim) = x.shape[1], p["w1"].shape
    h = torch.nn.functional.linear(x[0], p["w1"].view(hidden, dim), p["b1"].view(hidden)).relu()
    alone = (h @ p["out"][0]).to(p["b1"].dtype)  # (n, H) -> (n, K)
    bias = p["out_b"][0, 0] if "out_b" in p else torch.zeros_like(alone[0])  # (K,)
    return attention.view(n, 1) * alone, bias


MODEL = Model(
    initial=initial,
    forward=forward,
    dropped=lambda s: int(s.hidden),
    row_floats=lambda s: 4 * s.hidden + 8 * s.attention,
    shape=("hidden", "attention"),
    attention=lambda x, mask, p: attend(x, mask, p)[1],
    shares=shares,
)

# The paper's grids; SPADE trains one bag per step with a weight decay of 0.01.
stacked_head(
    HeadCard(
        name="abmil",
        kinds=("classification",),
        description="Gated attention pooling over patches, trained one bag per step",
        input="bag",
        defaults=asdict(AbmilConfig()),
        grid={"lr": (5e-6, 1e-5, 5e-5, 1e-4, 1e-3), "hidden": (128, 256, 384, 512)},
        reference=REFERENCE,
    ),
    AbmilConfig,
    MODEL,
    "classes",
)
stacked_head(
    HeadCard(
        name="abmil-nll",
        title="ABMIL (discrete time)",
        kinds=("survival",),
        description="Gated attention pooling with a discrete-time likelihood of the event",
        input="bag",
        defaults=asdict(AbmilNllConfig()),
        grid={"lr": (1e-5, 5e-5, 1e-4, 5e-4), "hidden": (256, 384, 512)},
        reference=f"{REFERENCE}; Zadeh and Schmid 2021",
    ),
    AbmilNllConfig,
    MODEL,
    "discrete-time",
)
stacked_head(
    HeadCard(
        name="abmil-cox",
        title="ABMIL (Cox)",
        kinds=("survival",),
        description="Gated attention pooling with the Cox partial likelihood of 32 cases per step",
        input="bag",
        defaults=asdict(AbmilCoxConfig()),
        grid={"lr": (1e-5, 5e-5, 1e-4, 5e-4), "hidden": (256, 384, 512)},
        reference=f"{REFERENCE}; Katzman et al., DeepSurv 2018",
    ),
    AbmilCoxConfig,
    MODEL,
    "cox",
)
stacked_head(
    HeadCard(
        name="abmil-mse",
        title="ABMIL (squared error)",
        kinds=("regression",),
        description="Gated attention pooling with the squared error of the value",
        input="bag",
        defaults=asdict(AbmilMseConfig()),
        grid={"lr": (1e-5, 5e-5, 1e-4, 5e-4), "hidden": (128, 256, 512)},
        reference=REFERENCE,
    ),
    AbmilMseConfig,
    replace(MODEL, initial=initial_with_bias),
    "squared-error",
)
