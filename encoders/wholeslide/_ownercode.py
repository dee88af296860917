"""Loads a slide encoder: by this package, or by code beside its weights if the user agreed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from spade_bench.device import autocast, resolve_device, setup_numerics
from spade_bench.encoders.common.loadchecks import check_options
from spade_bench.encoders.common.owncode import load_by_own_code
from spade_bench.encoders.common.weights import locate
from spade_bench.encoders.wholeslide._table import SlideRow
from spade_bench.errors import DataError
from spade_bench.types import LoadOptions

__all__ = ["HubSlideEncoder", "load"]


class HubSlideEncoder:
    """A slide encoder of the hub.

    Attributes:
        card: Its card.
        dim: Width of its vector.
        in_dim: Width of the patch features.
    """

    def __init__(self, row: SlideRow, model: Any, options: LoadOptions) -> None:
        self.card = row.card
        self.dim: int | None = row.card.dim
        self.in_dim = row.in_dim
        self.call = row.call
        self.device = resolve_device(options.device)
        setup_numerics(self.device)
        self.precision = options.precision or row.card.precision
        self.model = model.to(self.device).eval()

    @torch.inference_mode()
    def encode_slide(
        self,
        features: np.ndarray,
        coords: np.ndarray | None = None,
        patch_size_level0: int | None = None,
    ) -> np.ndarray:
        """Encode (n, D) patch features -> (dim,) float32.

        Raises:
            DataError: When the width is not that of the patch encoder, there is no patch, or
                coordinates are needed and missing.
        """
        shape = tuple(np.shape(features))
        if len(shape) != 2 or shape[1] != self.in_dim or not shape[0]:
            raise DataError(
                f"features of shape {shape} for '{self.card.name}', which takes (n, {self.in_dim})",
                fix=f"Give features of '{self.card.upstream}'",
            )
        x = torch.from_numpy(np.array(features, dtype=np.float32))[None].to(self.device)
        with autocast(self.device, self.precision):
            out = self._run(x, coords, patch_size_level0)  # (1, dim)
        vector = np.asarray(out.reshape(-1).float().cpu().numpy())  # (dim,)
        if vector.shape != (self.dim,):
            raise DataError(f"'{self.card.name}' made {vector.shape}, its card says {self.dim}")
        return vector

    def _run(self, x: torch.Tensor, coords: np.ndarray | None, side: int | None) -> torch.Tensor:
        if self.call == "feather":
            pooled: torch.Tensor = self.model.forward_features(x)[0]
            return pooled
        if self.call == "prism":
            vectors: torch.Tensor = self.model.slide_representations(x)["image_embedding"]
            return vectors
        if coords is None or side is None:
            raise DataError(
                f"'{self.card.name}' needs coordinates and the patch side in level-0 pixels",
                fix="Give features that were extracted with both, such as `spade-bench extract`'s",
            )
        places = torch.from_numpy(np.asarray(coords, dtype=np.int64))[None].to(self.device)
        if self.call == "moozy":
            made: torch.Tensor = self.model(x, places, side)
            return made
        encoded: torch.Tensor = self.model.encode_slide_from_patch_features(x, places, side)
        return encoded


def load(row: SlideRow, options: LoadOptions) -> HubSlideEncoder:
    """Load a slide encoder of the hub.

    Args:
        row: Its row.
        options: Weights (for code beside them, a folder with config.json and that code), device,
            precision, and `options["trust_remote_code"]`.

    Raises:
        WeightsError: When a package, the weights or the user's consent is missing, or they do not
            fit; the message says what to do.
        ConfigError: When an option is unknown.
    """
    check_options(row.card.name, options)
    if row.card.remote_code:
        model = load_by_own_code(row.card, options, verb="Encode")
    else:
        from spade_bench.encoders.wholeslide._moozy import read_moozy

        model = read_moozy(locate(row.card, options), row.card.needs.files)
    return HubSlideEncoder(row, model.float(), options)
