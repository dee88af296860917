"""`lazyslide:NAME`: any image encoder of LazySlide's model zoo, when that is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.encoders.common.loadchecks import check_options
from spade_bench.errors import DataError, PluginError, WeightsError
from spade_bench.registry import suggest
from spade_bench.types import EncoderCard, LoadOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["LazySlideEncoder", "resolve"]

_KINDS = {"vision", "multimodal"}


def resolve(name: str) -> tuple[EncoderCard, Callable[[LoadOptions], LazySlideEncoder]]:
    """Return the card and loader of a model of LazySlide.

    Args:
        name: Its key in `lazyslide_models.MODEL_REGISTRY`.

    Raises:
        PluginError: When the package is not installed, or has no image encoder of that name.
    """
    models = _registry()
    if name not in models:
        near = suggest(name, models)
        raise PluginError(
            f"lazyslide has no model '{name}'",
            where=f"lazyslide:{name}",
            fix=f"Did you mean {near}?" if near else "See lazyslide_models.list_models('vision')",
        )
    model = models[name]
    tasks = model.task if isinstance(model.task, list) else [model.task]
    if not _KINDS & {str(getattr(task, "value", task)) for task in tasks}:
        raise PluginError("does not encode patches", where=f"lazyslide:{name}")
    constraint = getattr(model, "input_constraint", None)
    licence = model.license
    card = EncoderCard(
        name=f"lazyslide:{name}",
        input="image",
        dim=model.encode_dim,
        description=str(model.description or f"{name} of LazySlide."),
        patch_px=max(224, getattr(constraint, "min", None) or 224),
        mpp=0.5,
        source=str(model.hf_url or model.github_url or "lazyslide"),
        revision=f"lazyslide-models {_version()}",
        licence=", ".join(licence) if isinstance(licence, list) else str(licence or "not stated"),
        gated=bool(model.is_gated),
        pretrained_on=None,
        extra="lazyslide-models",
        reference=str(model.paper_url or ""),
        notes=(
            "LazySlide's own transform and feature; where tools disagree, its choice.",
            "0.5 µm/px is a convention.",
        ),
    )
    return card, partial(_load, name, card)


class LazySlideEncoder:
    """Runs a model of LazySlide on uint8 patches.

    Args:
        card: Its card.
        model: A `lazyslide_models` image model.
        options: Device and precision.
    """

    def __init__(self, card: EncoderCard, model: Any, options: LoadOptions) -> None:
        from spade_bench.device import resolve_device, setup_numerics

        self.card = card
        self.device = resolve_device(options.device)
        setup_numerics(self.device)
        self.precision = options.precision or card.precision
        self.model = model.to(self.device)
        inner: Any = getattr(model, "model", None)
        if hasattr(inner, "eval"):
            inner.eval()
        self.transform = model.get_transform()

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Encode patches, (n, px, px, 3) uint8 -> (n, dim) float32 on the CPU.

        Raises:
            DataError: When the images are not RGB uint8 of the card's size.
        """
        import torch

        from spade_bench.device import autocast

        batch = torch.as_tensor(images)
        px = self.card.patch_px
        if batch.dtype != torch.uint8 or tuple(batch.shape[1:]) != (px, px, 3):
            raise DataError(
                f"encoder needs uint8 (n, {px}, {px}, 3), got {batch.dtype} {tuple(batch.shape)}",
                where=self.card.name,
            )
        if not len(batch):
            return torch.empty(0, self.card.dim or 0)
        x = batch.permute(0, 3, 1, 2)  # (n, 3, px, px)
        with torch.inference_mode(), autocast(self.device, self.precision):
            given = list(x) if self.transform is None else self.transform(x).to(self.device)
            out = self.model.encode_image(given)  # (n, dim)
        return torch.as_tensor(out).float().cpu()  # (n, dim)


def _load(name: str, card: EncoderCard, options: LoadOptions) -> LazySlideEncoder:
    check_options(card.name, options)
    if options.weights is not None:
        raise WeightsError("fetches its own weights and takes none", where=card.name)
    from spade_bench.encoders.common.hub import reachable

    # Its models fetch their weights themselves, and would retry for long without a network.
    if "huggingface.co/" in card.source and not reachable():
        repo = card.source.split("huggingface.co/")[1]
        if not _in_cache(repo):
            raise WeightsError(
                "weights are not in the local cache and the hub cannot be reached", where=repo
            )
    try:
        model = _registry()[name]()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"does not load ({reason})", where=card.name) from error
    return LazySlideEncoder(card, model, options)


def _in_cache(repo: str) -> bool:
    from pathlib import Path

    from huggingface_hub import constants

    return (Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}").is_dir()


def _registry() -> Any:
    try:
        return importlib.import_module("lazyslide_models").MODEL_REGISTRY
    except ImportError as error:
        raise PluginError(
            "lazyslide-models is not installed",
            where="lazyslide:",
            fix="Run: pip install lazyslide-models",
        ) from error


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lazyslide-models")
    except PackageNotFoundError:
        return "of unknown version"
