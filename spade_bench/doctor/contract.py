"""Checks one encoder against the contract that the rest of the harness relies on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import spade_bench.registry as registries
from spade_bench.doctor.slidecontract import Finding, check_slide_encoder, guarded
from spade_bench.errors import UserError
from spade_bench.types import EncoderCard, LoadOptions

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Finding", "check_encoder"]

_COUNT = 5  # no multiple of a usual batch
_TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 1e-2}  # of the features' norm


def check_encoder(name: str, options: LoadOptions) -> list[Finding]:
    """Check an encoder's card, then load it and check what it does.

    Args:
        name: Registry name.
        options: How to load it.

    Returns:
        The findings, in the order of the checks.

    Raises:
        PluginError: When the name is not registered.
        WeightsError: When its weights cannot be had.
    """
    plugin = registries.encoders.get(name)
    return [*_card(plugin.card), *guarded(plugin, _conduct(plugin, options))]


def _conduct(plugin: registries.Plugin[EncoderCard], options: LoadOptions) -> Iterator[Finding]:
    """Load the encoder and check what it does."""
    encoder = plugin.load(options)
    if plugin.card.level == "slide":
        yield from check_slide_encoder(encoder)
    elif plugin.card.input == "features":
        yield from _feature_encoder(encoder, options)
    else:
        yield from _patch_encoder(encoder, options)


def _card(card: EncoderCard) -> Iterator[Finding]:
    needed = ["name", "description", "licence"]
    useful = ["source", "reference"]
    if card.input == "image":
        needed += ["dim", "patch_px", "mpp"]
        useful += ["normalisation"]
    lacking = [key for key in needed if not getattr(card, key)]
    if lacking:
        yield Finding("card", "fail", f"lacks {', '.join(lacking)}")
        return
    lacking = [key for key in useful if not getattr(card, key)]
    yield Finding(
        "card",
        "warn" if lacking else "pass",
        f"says nothing of {', '.join(lacking)}" if lacking else "complete",
    )
    if card.pretrained_on is None:
        yield Finding("card: pretrained_on", "warn", "unknown: every result will be marked so")
    norm = card.normalisation
    if norm is not None:
        good = all(0 < m < 1 for m in norm.mean) and all(0 < s < 1 for s in norm.std)
        yield Finding(
            "card: normalisation",
            "pass" if good else "fail",
            f"mean {norm.mean}, std {norm.std}" + ("" if good else "; must be on a 0..1 scale"),
        )


def _patch_encoder(encoder: Any, options: LoadOptions) -> Iterator[Finding]:
    import torch

    card: EncoderCard = encoder.card
    images = _images(card.patch_px or 224)
    before = images.copy()
    out = encoder.encode(images)  # (5, dim)
    good = isinstance(out, torch.Tensor) and tuple(out.shape) == (_COUNT, card.dim)
    shape = tuple(getattr(out, "shape", ()))
    yield Finding(
        "shape", "pass" if good else "fail", f"{_COUNT} patches -> {shape}, card says {card.dim}"
    )
    if not good:
        return
    right = out.dtype == torch.float32 and out.device.type == "cpu"
    yield Finding("dtype", "pass" if right else "fail", f"{out.dtype} on {out.device}")
    finite = bool(torch.isfinite(out).all())
    yield Finding("finite", "pass" if finite else "fail", "all" if finite else "NaN or infinite")
    yield _varies(out)
    again = encoder.encode(torch.from_numpy(images))
    same = torch.equal(again, out)
    detail = "equal twice, from numpy and from torch" if same else _apart(again, out)
    yield Finding("determinism", "pass" if same else "fail", detail)
    yield from _independence(encoder, images, out, _tolerance(encoder, options))
    unchanged = bool((images == before).all())
    yield Finding("input", "pass" if unchanged else "fail", "left as it was")
    yield _empty(encoder, images[:0], card.dim)
    yield _refusal(encoder, images)
    yield _normalisation(encoder, images, out, _tolerance(encoder, options))


def _images(px: int) -> np.ndarray:
    """Smooth random patches, (5, px, px, 3) uint8, one of them nearly white."""
    import numpy as np

    rng = np.random.default_rng(0)
    cells = -(-px // 32)
    coarse = rng.integers(0, 240, (_COUNT, cells, cells, 3), dtype=np.uint8)
    coarse[-1] = 239
    smooth = coarse.repeat(32, 1).repeat(32, 2)[:, :px, :px]
    noise = rng.integers(0, 16, (_COUNT, px, px, 3), dtype=np.uint8)
    images: np.ndarray = smooth + noise
    return images


def _varies(out: Any) -> Finding:
    spread = float(out.std(0).mean())
    good = spread > 0
    return Finding(
        "features differ between patches", "pass" if good else "fail", f"spread {spread:.3g}"
    )


def _tolerance(encoder: Any, options: LoadOptions) -> float:
    device = str(getattr(encoder, "device", "cpu"))
    precision = options.precision or encoder.card.precision
    if precision == "fp16" and device == "cpu":
        precision = "fp32"  # see spade_bench.device.autocast
    # A GPU picks its kernels by the shape of the batch.
    return max(_TOLERANCE[precision], 1e-3 if device.startswith("cuda") else 0.0)


def _independence(
    encoder: Any, images: np.ndarray, out: Any, tolerance: float
) -> Iterator[Finding]:
    import torch

    alone = torch.cat([encoder.encode(images[i : i + 1]) for i in range(len(images))])
    turned = encoder.encode(images[::-1].copy()).flip(0)
    for name, other in (("batch size", alone), ("order in the batch", turned)):
        good = _distance(other, out) <= tolerance
        exact = torch.equal(other, out)
        detail = "equal" if exact else f"{_apart(other, out)}, {tolerance:g} allowed"
        yield Finding(f"independence of {name}", "pass" if good else "fail", detail)


def _empty(encoder: Any, none: np.ndarray, dim: int | None) -> Finding:
    try:
        shape = tuple(encoder.encode(none).shape)
    except Exception as error:
        return Finding("no patches", "warn", f"{type(error).__name__}: {error}")
    good = shape == (0, dim)
    return Finding("no patches", "pass" if good else "warn", f"-> {shape}")


def _refusal(encoder: Any, images: np.ndarray) -> Finding:
    """Patches as floats have silently been normalised twice in other tools."""
    import numpy as np

    try:
        encoder.encode(images.astype(np.float32) / 255)
    except UserError:
        return Finding("wrong input", "pass", "floating-point patches are refused")
    except Exception as error:
        return Finding("wrong input", "pass", f"refused by {type(error).__name__}")
    return Finding("wrong input", "warn", "floating-point patches are taken without a word")


def _normalisation(encoder: Any, images: np.ndarray, out: Any, tolerance: float) -> Finding:
    """Compare with the encoder's own network on patches normalised here as the card says."""
    import torch
    from torch import nn

    norm, model = encoder.card.normalisation, getattr(encoder, "model", None)
    if norm is None or not isinstance(model, nn.Module):
        return Finding(
            "normalisation", "warn", "not compared: needs card.normalisation and a .model"
        )
    from spade_bench.device import autocast

    device = torch.device(getattr(encoder, "device", "cpu"))
    x = torch.from_numpy(images).float() / 255  # (5, px, px, 3)
    x = (x - torch.tensor(norm.mean)) / torch.tensor(norm.std)  # (5, px, px, 3)
    x = x.permute(0, 3, 1, 2).to(device)  # (5, 3, px, px)
    precision = getattr(encoder, "precision", encoder.card.precision)
    with torch.inference_mode(), autocast(device, precision):
        want = model(x)  # (5, dim)
    if not isinstance(want, torch.Tensor) or want.shape != out.shape:
        return Finding("normalisation", "warn", "not compared: .model returns something else")
    distance = _distance(want.float().cpu(), out)
    good = distance <= max(10 * tolerance, 1e-3)
    return Finding(
        "normalisation",
        "pass" if good else "fail",
        f"{distance:.2g} from the network on patches normalised as the card says",
    )


def _distance(a: Any, b: Any) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def _apart(a: Any, b: Any) -> str:
    return f"relative distance {_distance(a, b):.2g}"


def _feature_encoder(encoder: Any, options: LoadOptions) -> Iterator[Finding]:
    import numpy as np

    width = getattr(encoder, "in_dim", None) or getattr(
        getattr(encoder, "model", None), "in_dim", None
    )
    if width is None and encoder.card.upstream in registries.encoders:
        width = registries.encoders.get(encoder.card.upstream).card.dim
    if width is None:
        yield Finding(
            "width", "fail", "cannot tell its input's width: give it .in_dim or card.upstream"
        )
        return
    features = np.random.default_rng(0).standard_normal((_COUNT, width)).astype(np.float32)
    out = np.asarray(encoder.encode(features))  # (5, dim)
    good = out.shape == (_COUNT, encoder.dim)
    yield Finding(
        "shape", "pass" if good else "fail", f"{features.shape} -> {out.shape}, dim {encoder.dim}"
    )
    if not good:
        return
    status: Literal["pass", "fail"] = "pass" if out.dtype == np.float32 else "fail"
    yield Finding("dtype", status, str(out.dtype))
    finite = bool(np.isfinite(out).all())
    yield Finding("finite", "pass" if finite else "fail", "all" if finite else "NaN or infinite")
    same = np.array_equal(np.asarray(encoder.encode(features)), out)
    yield Finding("determinism", "pass" if same else "fail", "equal twice" if same else "differs")
    parts = [np.asarray(encoder.encode(features[i : i + 1])) for i in range(_COUNT)]
    alone = np.concatenate(parts)  # (5, dim)
    distance = float(np.linalg.norm(alone - out) / max(float(np.linalg.norm(out)), 1e-12))
    tolerance = _TOLERANCE[options.precision or encoder.card.precision]
    yield Finding(
        "independence of batch size",
        "pass" if distance <= tolerance else "fail",
        f"relative distance {distance:.2g}, {tolerance:g} allowed",
    )
