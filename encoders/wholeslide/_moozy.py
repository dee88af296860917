"""MOOZY's slide encoder, from its published weights.

A transformer over all patches of a slide. Its positions are distances: from each logit of the
attention a slope per head times the distance of two patches, in patch sides, is taken away. A class
token and four registers stand at no place.

Source: Kotp et al., arXiv 2603.27048; layout of the checkpoint as its authors' loader reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from spade_bench.encoders.common.timmodel import load_state, read_checkpoint
from spade_bench.errors import WeightsError

__all__ = ["MoozySlides", "read_moozy"]

_CHUNK = 512  # rows of the attention at once: 250 MB of distances for 10,000 patches and 12 heads


def read_moozy(path: Path, names: tuple[str, ...]) -> MoozySlides:
    """Build the slide encoder of a checkpoint, whose tensors say how large it is.

    Args:
        path: The file, or a folder that holds one file of ``names``.
        names: File names looked for in a folder.

    Raises:
        WeightsError: When the file cannot be read safely, is another model's or does not fit.
    """
    loaded, file = read_checkpoint(path, names)
    state = loaded.get("teacher_slide_encoder") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or "pos_bias.slopes" not in state:
        raise WeightsError(
            "holds no slide encoder of MOOZY (teacher_slide_encoder)",
            where=str(file),
            fix="Give moozy.pt of the hub repository AtlasAnalyticsLab/MOOZY",
        )
    # Every block holds the same slopes once more; the mask token serves pretraining alone.
    kept = {
        name: value
        for name, value in state.items()
        if name != "mask_token" and not (name.startswith("blocks.") and "pos_bias" in name)
    }
    model = MoozySlides(kept)
    load_state(model, kept, str(file))
    return model


class MoozySlides(nn.Module):
    """Maps the patch features of a slide to one vector.

    Args:
        state: Tensors of the checkpoint, whose names and shapes give the architecture.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        width, features = state["input_proj.0.weight"].shape
        hidden = state["blocks.0.fc1.weight"].shape[0]
        heads = len(state["pos_bias.slopes"])
        depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        scaled = "blocks.0.ls_attn.gamma" in state
        normed = "blocks.0.q_norm.weight" in state
        self.input_proj = nn.Sequential(nn.Linear(features, width), nn.GELU())
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.registers = 0
        if "register_tokens" in state:
            self.registers = state["register_tokens"].shape[1]
            self.register_tokens = nn.Parameter(torch.zeros(1, self.registers, width))
        self.pos_bias = nn.Module()
        self.pos_bias.register_buffer("slopes", torch.zeros(heads, 1))
        blocks = (_Block(width, hidden, heads, scaled=scaled, normed=normed) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: torch.Tensor, coords: torch.Tensor, side: float) -> torch.Tensor:
        """Encode one slide.

        Args:
            features: (1, n, D) patch features.
            coords: (1, n, 2) corners of the patches in level-0 pixels.
            side: Side of a patch in level-0 pixels.

        Returns:
            (1, width).
        """
        tokens = self.input_proj(features)  # (1, n, d)
        lead = [self.cls_token, self.register_tokens] if self.registers else [self.cls_token]
        x = torch.cat([*lead, tokens], dim=1)  # (1, t, d)
        places = coords.to(torch.float32) / max(side, 1e-6)  # (1, n, 2), in patch sides
        for block in self.blocks:
            x = block(x, places, self.pos_bias.slopes)  # (1, t, d)
        first: torch.Tensor = self.norm(x[:, 0])  # (1, d)
        return first


class _Block(nn.Module):
    """A transformer block whose attention fades with distance."""

    def __init__(self, width: int, hidden: int, heads: int, *, scaled: bool, normed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        own = width // heads
        self.q_norm: nn.Module = nn.LayerNorm(own) if normed else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(own) if normed else nn.Identity()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ls_attn: nn.Module = _Scale(width) if scaled else nn.Identity()
        self.ls_mlp: nn.Module = _Scale(width) if scaled else nn.Identity()

    def forward(self, x: torch.Tensor, places: torch.Tensor, slopes: Any) -> torch.Tensor:
        h = self.norm1(x)  # (1, t, d)
        q = self.q_norm(self._split(self.q_proj(h)))  # (1, heads, t, own)
        k = self.k_norm(self._split(self.k_proj(h)))  # (1, heads, t, own)
        v = self._split(self.v_proj(h))  # (1, heads, t, own)
        rows = [
            scaled_dot_product_attention(
                q[:, :, at : at + _CHUNK],
                k,
                v,
                attn_mask=_fading(places, slopes, x.shape[1], at).to(q.dtype),
            )
            for at in range(0, x.shape[1], _CHUNK)
        ]  # each (1, heads, rows, own)
        mixed = torch.cat(rows, dim=2).transpose(1, 2).flatten(2)  # (1, t, d)
        x = x + self.ls_attn(self.out_proj(mixed))  # (1, t, d)
        h = self.fc2(gelu(self.fc1(self.norm2(x))))  # (1, t, d)
        out: torch.Tensor = x + self.ls_mlp(h)  # (1, t, d)
        return out

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        parted = x.reshape(*x.shape[:2], self.heads, -1)  # (1, t, heads, own)
        return parted.transpose(1, 2)  # (1, heads, t, own)


class _Scale(nn.Module):
    """One factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma  # (1, t, d)


def _fading(places: torch.Tensor, slopes: torch.Tensor, total: int, at: int) -> torch.Tensor:
    """What a chunk of rows adds to the attention's logits, (1, heads, rows, total).

    Args:
        places: (1, n, 2) places of the patches, in patch sides.
        slopes: (heads, 1), negative.
        total: Number of tokens, of which the last n are patches.
        at: First row.
    """
    lead = total - places.shape[1]
    rows = min(_CHUNK, total - at)
    bias = places.new_zeros(1, len(slopes), rows, total)  # tokens without a place: 0
    first = max(at, lead)
    if first < at + rows:
        own = places[:, first - lead : at + rows - lead]  # (1, placed rows, 2)
        far = torch.cdist(own, places, compute_mode="donot_use_mm_for_euclid_dist")
        bias[:, :, first - at :, lead:] = slopes[None, :, :, None] * far[:, None]
    return bias
