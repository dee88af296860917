"""`hf:OWNER/NAME` or `hf:FOLDER`: any vision model that transformers knows by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from spade_bench.encoders.common.hub import fetch
from spade_bench.encoders.common.loadchecks import check_options, fit_or_fail
from spade_bench.encoders.common.timmodel import TimmEncoder
from spade_bench.encoders.common.weights import FILES
from spade_bench.encoders.zoo.entry import IMAGENET
from spade_bench.errors import PluginError, WeightsError
from spade_bench.features.weightfiles import pinned
from spade_bench.files import read_json
from spade_bench.types import EncoderCard, LoadOptions, Needs, Normalisation

__all__ = ["resolve"]

_FEATURE = (
    "Feature: projected image vector of models with a text side; else the class token; else the "
    "model's own pooled output; else the mean of its tokens."
)


def resolve(name: str) -> tuple[EncoderCard, Callable[[LoadOptions], TimmEncoder]]:
    """Return the card and loader of a model in a folder or on the hub.

    Only its configuration is read here. Models that need code from the hub are refused.

    Args:
        name: Folder with config.json, or hub repository.

    Raises:
        WeightsError: When the configuration cannot be had.
        PluginError: When transformers does not know the model, or it takes no images.
    """
    folder = _folder(name)
    config = _config(name, folder)
    processor = folder / "preprocessor_config.json"
    stated = read_json(processor) if processor.is_file() else {}
    px, crop = _sizes(stated, config)
    mean, std = stated.get("image_mean"), stated.get("image_std")
    norm = Normalisation(tuple(mean), tuple(std)) if mean and std else IMAGENET
    interpolation: Literal["bilinear", "bicubic"] = (
        "bilinear" if stated.get("resample") == 2 else "bicubic"
    )
    card = EncoderCard(
        name=f"hf:{name}",
        input="image",
        dim=_dim(config),
        description=f"{config.model_type} model of transformers.",
        patch_px=px,
        mpp=0.5,
        normalisation=norm,
        interpolation=interpolation,
        crop_pct=crop,
        source=f"folder {name}" if Path(name).is_dir() else f"hub {name}",
        licence="see its page",
        pretrained_on=None,
        needs=Needs(path=name) if Path(name).is_dir() else Needs((name,)),
        notes=(
            _FEATURE,
            "Size and normalisation from its preprocessor_config.json"
            + ("." if stated else ", which it lacks: ImageNet's statistics are assumed."),
            "0.5 µm/px is a convention.",
        ),
    )
    return card, partial(_load, name, card)


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise WeightsError("folder holds no config.json", where=name)
        return Path(name)
    folder = fetch(name, "config.json", gated=False).parent
    try:
        fetch(name, "preprocessor_config.json", gated=False)
    except WeightsError:
        return folder  # many models have none; the card says so
    return folder


def _config(name: str, folder: Path) -> Any:
    from transformers import AutoConfig

    stated = read_json(folder / "config.json")
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        kind = stated.get("model_type", "of no type")
        raise PluginError(
            f"transformers does not know this model ({kind}); code from the hub is not run",
            where=f"hf:{name}",
        ) from error
    vision = getattr(config, "vision_config", config)
    if not any(hasattr(vision, key) for key in ("image_size", "num_channels")):
        raise PluginError(
            f"takes no images ({config.model_type})", where=f"hf:{name}", fix="Give a vision model"
        )
    return config


def _sizes(stated: dict[str, Any], config: Any) -> tuple[int, float]:
    """Side of the input, and the share of the resized image that the centre crop keeps."""

    def side(value: Any) -> int | None:
        if isinstance(value, dict):
            value = value.get("height") or value.get("shortest_edge")
        return int(value) if value else None

    resized, cropped = side(stated.get("size")), side(stated.get("crop_size"))
    if stated.get("do_center_crop") and cropped:
        return cropped, min(1.0, cropped / resized) if resized else 1.0
    vision = getattr(config, "vision_config", config)
    native = getattr(vision, "image_size", None)
    native = native[0] if isinstance(native, (list, tuple)) else native
    return resized or int(native or 224), 1.0


def _dim(config: Any) -> int | None:
    if hasattr(config, "vision_config"):
        return getattr(config, "projection_dim", None)
    widths = getattr(config, "hidden_sizes", None)
    return int(widths[-1]) if widths else getattr(config, "hidden_size", None)


def _load(name: str, card: EncoderCard, options: LoadOptions) -> TimmEncoder:
    check_options(card.name, options)
    source = options.weights or (Path(name) if Path(name).is_dir() else None)
    if source is None:
        revision = pinned(card, options)
        fetch(name, "config.json", gated=False, revision=revision)
        source = fetch(name, FILES, gated=False, revision=revision).parent
    backbone = _model(source)
    encoder = TimmEncoder(card, _Vector(backbone), options)
    if card.dim is None:  # its configuration does not say
        px = card.patch_px or 224
        one = torch.zeros(1, px, px, 3, dtype=torch.uint8)
        encoder.card = dataclasses.replace(card, dim=int(encoder.encode(one).shape[-1]))
    return encoder


def _model(source: Path) -> nn.Module:
    import transformers
    import transformers.utils

    logging: Any = transformers.utils.logging
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, problems = transformers.AutoModel.from_pretrained(
            str(source), trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"does not load ({reason})", where=str(source)) from error
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    # A classifier is not built. A pooler that the checkpoint lacks is random, and not used where
    # there is a class token.
    missing = set(problems["missing_keys"])
    if _has_class(model):
        missing = {name for name in missing if not name.startswith("pooler.")}
    fit_or_fail({**problems, "missing_keys": missing, "unexpected_keys": []}, str(source))
    built: nn.Module = model.float()
    return built


class _Vector(nn.Module):
    """Returns one vector per patch from any vision model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.has_class = _has_class(model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self.model, "get_image_features"):
            out = self.model.get_image_features(pixel_values=x)
            projected: torch.Tensor = getattr(out, "pooler_output", out)  # (n, dim)
            return projected
        out = self.model(pixel_values=x)
        hidden: torch.Tensor = out.last_hidden_state  # (n, t, d) or (n, d, h, w)
        if self.has_class and hidden.ndim == 3:
            return hidden[:, 0]  # (n, d)
        pooled = getattr(out, "pooler_output", None)
        if pooled is not None:
            flat: torch.Tensor = pooled.flatten(1)  # (n, d)
            return flat
        return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))  # (n, d)


def _has_class(model: nn.Module) -> bool:
    """Whether a model has a class token."""
    ends = ("cls_token", "class_embedding")
    return any(name.endswith(ends) for name, _ in model.named_parameters())
