"""Builds timm's architectures with parts of their authors' own, and renames their checkpoints.

Sources: KEEP (Zhou et al., Cancer Cell 2026), CoCa (Yu et al., TMLR 2022) as open_clip and CONCH
build its image side, GenBio-PathFM (Kapse et al., bioRxiv 2026).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import normalize

from spade_bench.encoders.zoo._build import build_timm
from spade_bench.encoders.zoo.entry import Tower

if TYPE_CHECKING:
    State = Mapping[str, torch.Tensor]

__all__ = ["build_tower", "finish_tower", "rename_tower"]

_PERIODS = "rope_embed.periods"


def build_tower(build: Tower) -> nn.Module:
    """Build a tower with untrained weights; it maps (n, 3, px, px) to (n, width)."""
    trunk = build_timm(build.trunk)
    if build.form == "projected":
        return _Projected(trunk, build)
    if build.form == "pooled":
        return _Pooled(trunk, build)
    return _Channels(trunk)


def rename_tower(build: Tower, state: State) -> dict[str, torch.Tensor]:
    """Return a checkpoint under the names of the tower, without the parts that are not built.

    Args:
        build: The tower.
        state: The checkpoint as its authors name it.
    """
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    if build.layout == "keep":
        return _keep(bare)
    if build.layout == "open_clip":
        return _open_clip(bare)
    if build.layout == "conch":
        return _conch(bare, build)
    return _dinov3(bare)


def finish_tower(build: Tower, model: nn.Module, state: State) -> None:
    """Set what a loaded tower takes from its checkpoint beside its parameters."""
    if build.layout == "dinov3" and _PERIODS in state:
        trunk: Any = model.trunk
        grid = trunk.patch_embed.grid_size
        table = _rotary_table(grid, state[_PERIODS])  # (patches, 2 * head width)
        trunk.rope.register_buffer("pos_embed_cached", table, persistent=False)


class _Projected(nn.Module):
    """A trunk and two linear layers behind its class token."""

    def __init__(self, trunk: Any, build: Tower) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Sequential(
            nn.Linear(trunk.num_features, build.width),
            nn.GELU(),
            nn.Linear(build.width, build.width),
        )
        self.unit = build.unit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.trunk(x)  # (n, d): the class token
        vectors: torch.Tensor = self.head(tokens)  # (n, width)
        return normalize(vectors, dim=-1) if self.unit else vectors


class _Pooled(nn.Module):
    """A trunk and the attention of a learned query over all its tokens, as CoCa pools.

    Of several queries in the checkpoint the first makes the vector; the others serve captions.
    """

    def __init__(self, trunk: Any, build: Tower) -> None:
        super().__init__()
        width, context = build.width, trunk.num_features
        self.trunk = trunk
        self.query = nn.Parameter(torch.empty(build.queries, width))
        self.norm_query = nn.LayerNorm(width)
        self.norm_tokens = nn.LayerNorm(context)
        self.attn = nn.MultiheadAttention(width, 8, kdim=context, vdim=context, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, width)) if build.project else None
        self.unit = build.unit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm_tokens(self.trunk.forward_features(x))  # (n, t, d)
        query = self.norm_query(self.query[:1])  # (1, width)
        query = query.expand(len(x), 1, -1)  # (n, 1, width)
        pooled, _ = self.attn(query, tokens, tokens, need_weights=False)  # (n, 1, width)
        vectors: torch.Tensor = self.norm(pooled[:, 0])  # (n, width)
        if self.proj is not None:
            vectors = vectors @ self.proj  # (n, width)
        return normalize(vectors, dim=-1) if self.unit else vectors


class _Channels(nn.Module):
    """A trunk of one input channel that encodes red, green and blue alone."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        alone = x.reshape(3 * n, 1, height, width)  # (3 n, 1, px, px)
        tokens = self.trunk(alone)  # (3 n, d): class tokens
        vectors: torch.Tensor = tokens.reshape(n, -1)  # (n, 3 d)
        return vectors


def _keep(state: State) -> dict[str, torch.Tensor]:
    """KEEP's names; its code calls the factor of timm's LayerScale `weight`, not `gamma`."""
    out = {}
    for name, value in state.items():
        if name == "logit_scale" or name.startswith("text."):
            continue
        renamed = re.sub(r"\.(ls[12])\.weight$", r".\1.gamma", name)
        renamed = re.sub(r"^visual_head\.", "head.", renamed)
        out[re.sub(r"^visual\.", "trunk.", renamed)] = value
    return out


def _open_clip(state: State) -> dict[str, torch.Tensor]:
    """The image side of open_clip's CoCa."""
    fixed = {
        "class_embedding": "trunk.cls_token",
        "positional_embedding": "trunk.pos_embed",
        "conv1.weight": "trunk.patch_embed.proj.weight",
        "proj": "proj",
    }
    starts = {
        "ln_pre.": "trunk.norm_pre.",
        "ln_post.": "norm.",
        "attn_pool.ln_q.": "norm_query.",
        "attn_pool.ln_k.": "norm_tokens.",
        "attn_pool.": "",
    }
    inner = {
        ".ln_1.": ".norm1.",
        ".ln_2.": ".norm2.",
        ".attn.in_proj_": ".attn.qkv.",
        ".attn.out_proj.": ".attn.proj.",
        ".mlp.c_fc.": ".mlp.fc1.",
        ".mlp.c_proj.": ".mlp.fc2.",
    }
    out = {}
    for name, value in _image_side(state):
        if name in fixed:
            # Tokens and positions lack the batch axis that timm gives them.
            token = name in ("class_embedding", "positional_embedding")
            out[fixed[name]] = value.reshape(1, -1, value.shape[-1]) if token else value
        elif name.startswith("transformer.resblocks."):
            renamed = name.replace("transformer.resblocks.", "trunk.blocks.")
            for old, new in inner.items():
                renamed = renamed.replace(old, new)
            out[renamed] = value
        else:
            out[_restart(name, starts)] = value
    return out


def _conch(state: State, build: Tower) -> dict[str, torch.Tensor]:
    """The image side of CONCH, without the pool that serves its captions."""
    starts = {
        "attn_pool_contrast.ln_q.": "norm_query.",
        "attn_pool_contrast.ln_k.": "norm_tokens.",
        "attn_pool_contrast.": "",
        "ln_contrast.": "norm.",
    }
    out = {}
    for name, value in _image_side(state):
        if name.startswith(("attn_pool_caption.", "ln_caption.")):
            continue
        if name == "proj_contrast":
            if build.project:
                out["proj"] = value
            continue
        out[_restart(name, starts)] = value
    return out


def _image_side(state: State) -> list[tuple[str, torch.Tensor]]:
    """Tensors of the image side without `visual.`, and those of no known side as they are."""
    others = ("text.", "text_decoder.", "logit_scale", "logit_bias")
    kept = {name: value for name, value in state.items() if not name.startswith(others)}
    return [(name.removeprefix("visual."), value) for name, value in kept.items()]


def _restart(name: str, starts: Mapping[str, str]) -> str:
    for old, new in starts.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _dinov3(state: State) -> dict[str, torch.Tensor]:
    """DINOv3's names; positions are a table, set by `finish_tower`."""
    words = {
        "storage_tokens": "reg_token",
        ".ls1.gamma": ".gamma_1",
        ".ls2.gamma": ".gamma_2",
        ".mlp.w1.": ".mlp.fc1_g.",
        ".mlp.w2.": ".mlp.fc1_x.",
        ".mlp.w3.": ".mlp.fc2.",
    }
    out = {}
    for name, value in state.items():
        if name == _PERIODS:
            continue
        renamed = name
        for old, new in words.items():
            renamed = renamed.replace(old, new)
        out[f"trunk.{renamed}"] = value
    return out


def _rotary_table(grid: tuple[int, int], periods: torch.Tensor) -> torch.Tensor:
    """Return sine and cosine of each patch's rotary angles, as timm holds them.

    The authors compute the angles in bfloat16, whose rounding moves them by up to 0.03; the table
    repeats that, on the CPU, and holds the outcome in float32.

    Args:
        grid: Patches down and across.
        periods: Periods of the checkpoint, (head width / 4,).

    Returns:
        (patches, 2 * head width): sines, then cosines.
    """
    rough = torch.bfloat16
    axes = [torch.arange(0.5, n, dtype=rough) / n for n in grid]  # (h,), (w,)
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # (h, w, 2)
    places = 2.0 * places.flatten(0, 1) - 1.0  # (patches, 2), from -1 to 1
    angles = 2 * math.pi * places[:, :, None] / periods.cpu().to(rough)  # (patches, 2, head / 4)
    angles = angles.flatten(1).tile(2)  # (patches, head)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).float()  # (patches, 2 head)
