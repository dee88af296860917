"""`timm:NAME`: any image model of timm, with the preprocessing that timm states for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from spade_bench.encoders.common.loadchecks import check_options
from spade_bench.encoders.common.timmodel import TimmEncoder
from spade_bench.encoders.common.weights import FILES, locate
from spade_bench.errors import PluginError, WeightsError
from spade_bench.registry import suggest
from spade_bench.types import EncoderCard, LoadOptions, Needs, Normalisation

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["resolve"]


def resolve(name: str) -> tuple[EncoderCard, Callable[[LoadOptions], TimmEncoder]]:
    """Return the card and loader of a model of timm.

    Args:
        name: Its name there, with or without a tag: `resnet18`, `resnet18.a1_in1k`.

    Raises:
        PluginError: When timm has no such model; the message suggests near names.
    """
    import timm
    import torch

    config = _config(name)
    px = int(config.input_size[-1])
    with torch.device("meta"):  # no memory: only to see how wide its vectors are
        model = timm.create_model(name, pretrained=False, num_classes=0).eval()
        dim = int(model(torch.empty(1, 3, px, px)).shape[-1])
    interpolation: Literal["bilinear", "bicubic"] = (
        "bilinear" if config.interpolation == "bilinear" else "bicubic"
    )
    repo = config.hf_hub_id
    if repo and repo.endswith("/"):
        repo = f"{repo}{config.architecture}.{config.tag}" if config.tag else None
    card = EncoderCard(
        name=f"timm:{name}",
        input="image",
        dim=dim,
        description=f"{name} of timm, its own pooling.",
        patch_px=px,
        mpp=0.5,
        normalisation=Normalisation(tuple(config.mean), tuple(config.std)),
        interpolation=interpolation,
        crop_pct=float(config.crop_pct or 1.0),
        source=f"hub {repo}" if repo else "no hub repository: needs --weights",
        revision=f"timm {timm.__version__}",
        licence=str(config.license or "not stated by timm"),
        pretrained_on=None,
        needs=Needs(repos=(repo,) if repo else (), folders=(name,)),
        reference=str(config.paper_name or config.origin_url or "timm"),
        notes=(
            "Size, normalisation and interpolation as timm states them.",
            "0.5 µm/px is a convention; what it was trained on is not read from its name.",
        ),
    )
    return card, partial(_load, name, card)


def _config(name: str) -> Any:
    import timm
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(name) if timm.is_model(name.split(".", maxsplit=1)[0]) else None
    except RuntimeError:  # no such tag
        config = None
    if config is None:
        tags = timm.list_models(f"{name.split('.', maxsplit=1)[0]}.*", pretrained=True)
        near = suggest(name, [*timm.list_models(), *tags])
        raise PluginError(
            f"timm has no model '{name}'",
            where=f"timm:{name}",
            fix=f"Did you mean {near}?" if near else "See timm.list_models()",
        )
    return config


def _load(name: str, card: EncoderCard, options: LoadOptions) -> TimmEncoder:
    check_options(card.name, options)
    path = locate(card, options)
    return TimmEncoder(card, _model(name, path), options)


def _model(name: str, path: Path) -> nn.Module:
    """Let timm load a local file itself: it knows how each model's checkpoints are converted."""
    import timm

    file = path
    if path.is_dir():
        candidates = [path / candidate for candidate in FILES if (path / candidate).is_file()]
        if not candidates:
            raise WeightsError(f"folder holds none of {', '.join(FILES)}", where=str(path))
        file = candidates[0]
    if not file.is_file():
        raise WeightsError("no such weights file", where=str(file))
    config = _config(name)
    # Its own number of classes, or none: only then does timm load strictly.
    classes = _classes(config, file)
    overlay = {"file": str(file), "num_classes": classes}
    try:
        model: Any = timm.create_model(
            name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"weights do not fit ({reason})", where=str(file)) from error
    model.reset_classifier(0)
    built: nn.Module = model
    return built


def _classes(config: Any, file: Path) -> int:
    """Number of classes of the checkpoint: 0 when it has no classifier."""
    from spade_bench.encoders.common.timmodel import read_state

    names = [config.classifier] if isinstance(config.classifier, str) else config.classifier or ()
    state = read_state(file, ())
    there = any(f"{name}.weight" in state for name in names)
    return int(config.num_classes) if there else 0
