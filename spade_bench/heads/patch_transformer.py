"""A transformer over the patches of a bag.

It has TransMIL's parts (landmark attention, a convolution over a square of tokens, a class token)
and is not the published TransMIL: that one lays patches out in the order of the file, this one
along a fixed random direction of feature space, so that the order of the file cannot matter.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

from spade_bench.errors import ConfigError
from spade_bench.heads._base import Model
from spade_bench.heads._stacked import TrainConfig, stacked_head
from spade_bench.registry import heads
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import torch

    Params = dict[str, torch.Tensor]

__all__ = ["PatchTransformerConfig", "arrange", "forward", "initial"]

HEAD_WIDTH = 32
LANDMARKS = 128  # longer bags attend through this many means; shorter ones exactly
PINV_STEPS = 6


@dataclass(frozen=True)
class PatchTransformerConfig(TrainConfig):
    """Settings of the transformer.

    Attributes:
        hidden: Width of the tokens, a multiple of 32 (the width of an attention head).
        balanced: Whether every class weighs alike in the loss.
    """

    lr: float = 2e-4
    hidden: int = 128
    balanced: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % HEAD_WIDTH:
            raise ConfigError(f"'hidden' is {self.hidden}", fix="Use a multiple of 32")


def initial(dim: int, width: int, s: PatchTransformerConfig, stream: torch.Generator) -> Params:
    """Draw one model's parameters."""
    import torch

    from spade_bench.heads.training.modelstack import uniform

    h = s.hidden
    squares = [
        torch.nn.functional.pad(uniform(stream, h, 1, k, k, fan_in=k * k), [(7 - k) // 2] * 4)
        for k in (7, 5, 3)
    ]
    p = {
        "w1": uniform(stream, h, dim, fan_in=dim),
        "b1": torch.zeros(h),
        "token": uniform(stream, h, fan_in=h),
        "grid": torch.stack(squares).sum(dim=0),
        "grid_b": torch.zeros(h),
        "norm": torch.ones(1, 1, h),
        "norm_b": torch.zeros(1, 1, h),
        "out": uniform(stream, h, width, fan_in=h),
        "out_b": torch.zeros(1, width),
    }
    for i in ("1", "2"):
        p[f"norm{i}"], p[f"norm{i}_b"] = torch.ones(1, 1, h), torch.zeros(1, 1, h)
        p[f"qkv{i}"] = uniform(stream, 1, h, 3 * h, fan_in=h)
        p[f"mix{i}"] = uniform(stream, 1, h, h, fan_in=h)
        p[f"mix{i}_b"] = torch.zeros(1, 1, h)
    return p


def forward(
    x: torch.Tensor, mask: torch.Tensor | None, p: Params, noise: torch.Tensor | None
) -> torch.Tensor:
    """Classify bags (B, n, D) by their class token, (S, B, K). See `Model.forward`.

    Bags of different length are unpadded first, so that padding is in no mean and no square.
    """
    import torch

    if mask is not None:
        tokens = torch.cat([_bags(x[i : i + 1, m], p) for i, m in enumerate(mask)], dim=1)
    else:
        tokens = _bags(x, p)  # (S, B, H)
    if noise is not None:
        tokens = tokens * noise  # (S, B, H)
    return tokens @ p["out"] + p["out_b"]  # (S, B, K)


def arrange(x: torch.Tensor) -> torch.Tensor:
    """Put the patches of bags (B, n, D) into an order that depends on nothing but them.

    TransMIL lays patches on a square in the order of the file and averages neighbours there, so
    its result depends on that order. Here they are sorted along one fixed direction of feature
    space: similar patches lie together, and a shuffled file gives the same result.
    """
    direction = _direction(x.shape[2], x.device, x.dtype.itemsize == 8)  # (D,)
    order = (x.to(direction) * direction).sum(dim=2).argsort(dim=1, stable=True)  # (B, n)
    return x.gather(1, order.unsqueeze(2).expand_as(x))  # (B, n, D)


@cache
def _direction(dim: int, device: torch.device, double: bool) -> torch.Tensor:
    """The direction along which patches are sorted, (D,); sent to a device once."""
    import torch

    stream = torch.Generator().manual_seed(0)
    kind = torch.float64 if double else torch.float32
    return torch.randn(dim, generator=stream).to(device, kind)


def _bags(x: torch.Tensor, p: Params) -> torch.Tensor:
    """Class tokens of unpadded bags, (B, n, D) -> (S, B, H)."""
    import torch

    b, n, dim = x.shape
    s, hidden, _ = p["w1"].shape
    side = math.isqrt(n - 1) + 1
    w1, b1 = p["w1"].reshape(s * hidden, dim), p["b1"].reshape(s * hidden)
    h = torch.nn.functional.linear(arrange(x).reshape(b * n, dim), w1, b1).relu()  # (B n, S H)
    h = h.view(b, n, s, hidden).permute(2, 0, 1, 3)  # (S, B, n, H)
    h = torch.cat([h, h[:, :, : side * side - n]], dim=2)  # (S, B, n', H): n' is a square
    token = p["token"].view(s, 1, 1, hidden).expand(s, b, 1, hidden).to(h.dtype)
    h = torch.cat([token, h], dim=2)  # (S, B, 1 + n', H)
    h = h + _attention(_norm(h, p["norm1"], p["norm1_b"]), p, "1")  # (S, B, 1 + n', H)
    h = torch.cat([h[:, :, :1], _square(h[:, :, 1:], side, p)], dim=2)  # (S, B, 1 + n', H)
    h = h + _attention(_norm(h, p["norm2"], p["norm2_b"]), p, "2")  # (S, B, 1 + n', H)
    return _norm(h[:, :, :1], p["norm"], p["norm_b"])[:, :, 0]  # (S, B, H)


def _norm(h: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Layer norm of (S, B, n, H) with gains of each model."""
    import torch

    return torch.nn.functional.layer_norm(h, h.shape[-1:]) * gain + shift


def _square(h: torch.Tensor, side: int, p: Params) -> torch.Tensor:
    """Add a 7 x 7 depthwise convolution on the square of tokens, (S, B, side^2, H).

    The sum of TransMIL's kernels of 7, 5 and 3 is one kernel of 7.
    """
    import torch

    s, b, n, hidden = h.shape
    image = h.permute(1, 0, 3, 2).reshape(b, s * hidden, side, side)  # (B, S H, side, side)
    kernel, bias = p["grid"].reshape(s * hidden, 1, 7, 7), p["grid_b"].reshape(s * hidden)
    image = image + torch.nn.functional.conv2d(
        image, kernel.to(h.dtype), bias.to(h.dtype), padding=3, groups=s * hidden
    )  # (B, S H, side, side)
    return image.view(b, s, hidden, n).permute(1, 0, 3, 2)  # (S, B, n, H)


def _attention(h: torch.Tensor, p: Params, which: str) -> torch.Tensor:
    """Multi-head self-attention of (S, B, n, H), through landmarks when n is large."""
    import torch

    s, b, n, hidden = h.shape
    qkv = h @ p[f"qkv{which}"]  # (S, B, n, 3 H)
    q, k, v = (
        part.reshape(s * b, n, hidden // HEAD_WIDTH, HEAD_WIDTH).transpose(1, 2)
        for part in qkv.chunk(3, dim=3)
    )  # (S B, heads, n, 32) each
    if n <= 2 * LANDMARKS:
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)  # (S B, heads, n, 32)
    else:
        mixed = _nystroem(q, k, v)  # (S B, heads, n, 32)
    mixed = mixed.transpose(1, 2).reshape(s, b, n, hidden)  # (S, B, n, H)
    return mixed @ p[f"mix{which}"] + p[f"mix{which}_b"]  # (S, B, n, H)


def _nystroem(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Approximate attention of (N, heads, n, d) through means of neighbouring tokens.

    Xiong et al., "Nystroemformer", AAAI 2021, with landmarks of nearly equal size for any n.
    """
    import torch

    n, scale = q.shape[2], q.shape[3] ** -0.5
    piece = torch.arange(n, device=q.device) * LANDMARKS // n  # (n,) landmark of each token
    mean = torch.nn.functional.one_hot(piece, LANDMARKS).T.to(q.dtype)  # (m, n)
    mean = mean / mean.sum(dim=1, keepdim=True)  # (m, n)
    q_mean, k_mean = mean @ q, mean @ k  # (N, heads, m, d) each
    sdpa = torch.nn.functional.scaled_dot_product_attention
    right = sdpa(q_mean, k, v)  # (N, heads, m, d)
    with torch.autocast(q.device.type, enabled=False):
        kind = torch.float64 if q.dtype == torch.float64 else torch.float32
        middle = (q_mean.to(kind) @ k_mean.to(kind).mT * scale).softmax(dim=3)  # (N, heads, m, m)
        middle = _inverse(middle) @ right.to(kind)  # (N, heads, m, d)
    return sdpa(q, k_mean, middle.to(q.dtype))  # (N, heads, n, d)


def _inverse(a: torch.Tensor) -> torch.Tensor:
    """Pseudo-inverse of (..., m, m) by the third-order iteration of the same paper."""
    import torch

    eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    # Scaled for each matrix, where the paper's code takes one scale for a whole batch.
    norm = a.abs().sum(dim=-2, keepdim=True).amax(dim=-1, keepdim=True)
    z = a.mT / (norm * a.abs().sum(dim=-1, keepdim=True).amax(dim=-2, keepdim=True))
    for _ in range(PINV_STEPS):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z


stacked_head(
    HeadCard(
        name="patch-transformer",
        kinds=("classification",),
        description="Transformer over patches with landmark attention and a class token",
        input="bag",
        defaults=asdict(PatchTransformerConfig()),
        grid={"lr": (5e-6, 1e-5, 5e-5, 1e-4, 1e-3), "hidden": (128, 256, 384, 512)},
        reference="After Shao et al.: TransMIL, NeurIPS 2021, with patches ordered by content",
    ),
    PatchTransformerConfig,
    Model(
        initial=initial,
        forward=forward,
        dropped=lambda s: int(s.hidden),
        row_floats=lambda s: 40 * int(s.hidden),
        shape=("hidden",),
        small=True,
    ),
    "classes",
)
heads.retire(
    "transmil",
    "it was never the published TransMIL, because it orders patches along a random direction",
    "patch-transformer",
)
