"""Renames the tensors of published checkpoints to those of the architectures used here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spade_bench.encoders.zoo.entry import Timm

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["convert", "native_size"]

State = Mapping[str, "torch.Tensor"]


def convert(layout: str, state: State, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a checkpoint under the model's names.

    Args:
        layout: See `Timm`.
        state: The checkpoint.
        model: The model it is for.
    """
    if layout == "dinov2":
        return _dinov2(state)
    if layout == "gpfm":
        return _gpfm(state)
    if layout == "swin":
        return _swin(state)
    if layout == "resample":
        from timm.models import vision_transformer

        resample: Any = vision_transformer.checkpoint_filter_fn
        return dict(resample(dict(state), model))
    return dict(state)


def native_size(build: Timm, state: State) -> dict[str, Any]:
    """Return the argument that builds a model at the input size of a `native` checkpoint."""
    if build.layout != "native" or "pos_embed" not in state:
        return {}
    side = math.isqrt(state["pos_embed"].shape[1])  # positions of patches only
    patch = state["patch_embed.proj.weight"].shape[-1] if "patch_embed.proj.weight" in state else 14
    return {"img_size": side * patch}


def _dinov2(state: State) -> dict[str, torch.Tensor]:
    """Facebook's DINOv2 with registers, for timm's `*_reg4_dinov2`.

    timm keeps positions of patches only, so the class token's position is added to the token.
    """
    out = {}
    for name, value in state.items():
        if name == "mask_token":
            continue  # used in pretraining only
        renamed = {"register_tokens": "reg_token"}.get(name, name)
        renamed = renamed.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        out[renamed] = value
    if "cls_token" in out and "pos_embed" in out and "reg_token" in out:
        positions = out["pos_embed"]  # (1, 1 + patches, d)
        out["cls_token"] = out["cls_token"] + positions[:, :1]  # (1, 1, d)
        out["pos_embed"] = positions[:, 1:]  # (1, patches, d)
    return out


def _gpfm(state: State) -> dict[str, torch.Tensor]:
    """GPFM, bare as on the hub, or as its training saved it: prefixed, and in chunks of blocks."""
    out = {}
    for name, value in state.items():
        renamed = name.removeprefix("module.").removeprefix("backbone.")
        if renamed.startswith(("dino_head.", "ibot_head.")) or renamed == "mask_token":
            continue  # used in pretraining only
        renamed = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", renamed)
        out[renamed] = value
    return out


def _swin(state: State) -> dict[str, torch.Tensor]:
    """A Swin of timm before 0.9, where each stage ends with the downsampling timm now begins with.

    The tables of relative positions and masks are computed, not learned, and left out.
    """
    computed = ("relative_position_index", "attn_mask")
    kept = {name: value for name, value in state.items() if not name.endswith(computed)}
    if "layers.0.downsample.reduction.weight" not in kept:
        return kept
    return {
        re.sub(
            r"^layers\.(\d+)\.downsample\.",
            lambda found: f"layers.{int(found[1]) + 1}.downsample.",
            name,
        ): value
        for name, value in kept.items()
    }
