"""Checks one slide encoder against the contract that the rest of the harness relies on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import spade_bench.registry as registries
from spade_bench.errors import SpadeBenchError, machine_fault
from spade_bench.plugins import place_of
from spade_bench.registry import Plugin

__all__ = ["Finding", "check_slide_encoder", "guarded"]

_PATCHES = 40
_TOLERANCE = 1e-4  # of the vector's norm, for sums in another order


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was checked.
        status: `pass`, `warn` (works, but somebody should look) or `fail`.
        detail: What was seen.
    """

    check: str
    status: Literal["pass", "warn", "fail"]
    detail: str


def guarded(plugin: Plugin[Any], findings: Iterable[Finding]) -> Iterator[Finding]:
    """Pass findings on; what a plugin's own code raises while they are made is one that fails.

    Errors that read as sentences, what the machine refuses, such as a full disk, and whatever a
    built-in raises, are raised as they are.
    """
    try:
        yield from findings
    except SpadeBenchError:
        raise
    except Exception as error:
        if plugin.origin == "built-in" or machine_fault(error) is not None:
            raise
        place = place_of(error)
        told = f"raises {type(error).__name__}: {error}"
        yield Finding("runs", "fail", f"{told} ({place})" if place else told)


def check_slide_encoder(encoder: Any) -> Iterator[Finding]:
    """Check what a loaded slide encoder does with random patch features."""
    import numpy as np

    upstream = encoder.card.upstream
    width = getattr(encoder, "in_dim", None)
    if width is None and upstream in registries.encoders:
        width = registries.encoders.get(upstream).card.dim
    if width is None and upstream not in (None, "", "any"):
        yield Finding("width", "fail", "cannot tell its input's width: give it .in_dim")
        return
    width = width or 32
    rng = np.random.default_rng(0)
    features = rng.standard_normal((_PATCHES, width)).astype(np.float32)
    side = 256
    coords = np.stack([np.arange(_PATCHES) % 8, np.arange(_PATCHES) // 8], axis=1) * side
    before = features.copy()
    out = np.asarray(encoder.encode_slide(features, coords, side))  # (dim,)
    good = out.shape == (encoder.dim or width,)
    wide = "as wide as the features" if encoder.dim is None else f"dim {encoder.dim}"
    yield Finding("shape", _status(good), f"{features.shape} -> {out.shape}, {wide}")
    if not good:
        return
    yield Finding("dtype", _status(out.dtype == np.float32), str(out.dtype))
    finite = bool(np.isfinite(out).all())
    yield Finding("finite", _status(finite), "all" if finite else "NaN or infinite")
    same = np.array_equal(np.asarray(encoder.encode_slide(features, coords, side)), out)
    yield Finding("determinism", _status(same), "equal twice" if same else "differs")
    order = rng.permutation(_PATCHES)
    turned = np.asarray(encoder.encode_slide(features[order], coords[order], side))  # (dim,)
    apart = float(np.linalg.norm(turned - out) / max(float(np.linalg.norm(out)), 1e-12))
    detail = f"relative distance {apart:.2g}, {_TOLERANCE:g} allowed"
    status: Literal["pass", "warn"] = "pass" if apart <= _TOLERANCE else "warn"
    yield Finding("independence of the patches' order", status, detail)
    yield Finding("input", _status(np.array_equal(before, features)), "left as it was")


def _status(good: bool) -> Literal["pass", "fail"]:
    return "pass" if good else "fail"
