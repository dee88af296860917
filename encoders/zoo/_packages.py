"""Encoders that only their authors' package can build: CONCH and MUSK."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spade_bench.encoders.common.timmodel import load_state, read_state
from spade_bench.encoders.zoo.entry import Entry, Package
from spade_bench.errors import WeightsError

__all__ = ["load"]


class _Conch(nn.Module):
    """The image side of CONCH; its text side is dropped."""

    def __init__(self, model: Any, arguments: dict[str, Any]) -> None:
        super().__init__()
        model.text = None
        self.model = model
        self.arguments = arguments

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.model.encode_image(x, **self.arguments)  # (n, 512)
        return vectors


class _Musk(nn.Module):
    """The image side of MUSK, called as the sheet of its card says."""

    def __init__(self, model: Any, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.arguments = arguments

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.model(image=x, **self.arguments)[0]  # (n, 1024 or 2048)
        return vectors


def load(entry: Entry, build: Package, path: Path) -> nn.Module:
    """Build and load an encoder with its authors' package.

    Args:
        entry: Its row.
        build: Which package and how the model is called.
        path: Its weights.

    Raises:
        WeightsError: When the file holds more than tensors, or they do not fit.
    """
    # The packages call torch.load themselves; reading the file here first refuses one that holds
    # anything but tensors.
    state = read_state(path, ())
    if build.builder == "conch":
        return _Conch(_conch(entry, state, path), dict(build.arguments))
    return _Musk(_musk(state, path), dict(build.arguments))


def _conch(entry: Entry, state: dict[str, torch.Tensor], path: Path) -> Any:
    factory = importlib.import_module("conch.open_clip_custom")
    size = entry.card.patch_px if entry.card.patch_px != 448 else None
    model = factory.create_model_from_pretrained(
        "conch_ViT-B-16",
        checkpoint_path=str(path),
        force_image_size=size,
        return_transform=False,
    )
    # The package loads with strict=False and says nothing; the image side must fit by name.
    expected = {f"visual.{name}" for name in model.visual.state_dict()}
    theirs = {name.removeprefix("module.") for name in state}
    lacking = sorted(expected - theirs)
    extra = sorted(name for name in theirs - expected if name.startswith("visual."))
    if lacking or extra:
        raise WeightsError(
            f"weights do not fit: {len(lacking)} missing ({', '.join(lacking[:4])}), "
            f"{len(extra)} unexpected ({', '.join(extra[:4])})",
            where=str(path),
        )
    return model


def _musk(state: dict[str, torch.Tensor], path: Path) -> Any:
    import timm

    importlib.import_module("musk.modeling")  # registers the architecture with timm
    model = timm.create_model("musk_large_patch16_384")
    load_state(model, state, str(path))
    return model
