"""A TANGLE folder behind the harness's interface for slide encoders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spade_bench.device import resolve_device, setup_numerics
from spade_bench.encoders.tangle.tanglecard import CARD
from spade_bench.encoders.tangle.towerfolder import TangleInfo, read_folder
from spade_bench.encoders.tangle.towers import Tangle
from spade_bench.errors import ConfigError, DataError, WeightsError
from spade_bench.types import EncoderCard, LoadOptions

__all__ = ["TangleEncoder"]


class TangleEncoder:
    """Encodes all patches of a slide into one vector.

    Attributes:
        card: The card, with `dim`, `upstream` and `pretrained_on` of the weights at hand.
        dim: Width of the vector.
        in_dim: Width of the patch features.
        info: What the folder says.
        training_samples: Slides that training saw, for the contamination ledger.
        training_patients: Their cases.
    """

    card: EncoderCard
    dim: int | None

    def __init__(self, info: TangleInfo, model: Tangle, device: torch.device) -> None:
        self.info = info
        self.model = model.to(device).eval()
        self.device = device
        self.dim = info.hidden
        self.in_dim = info.in_dim
        self.training_samples = info.slides
        self.training_patients = info.cases
        known = info.patch_px is not None and info.mpp is not None
        self.card = dataclasses.replace(
            CARD,
            dim=info.hidden,
            upstream=info.encoder or "any",
            patch_px=info.patch_px if known else None,
            mpp=info.mpp if known else None,
            pretrained_on=info.pretrained_on,
        )

    @classmethod
    def load(cls, options: LoadOptions) -> TangleEncoder:
        """Load the folder `options.weights`.

        Raises:
            WeightsError: When no folder is given, or it is not a TANGLE folder.
            ConfigError: When options are given: there are none.
        """
        if options.weights is None:
            raise WeightsError(
                "the encoder 'tangle' has no weights of its own",
                fix="Give `run` --weights tangle=FOLDER, or `encode` --weights FOLDER, which "
                "`spade-bench pretrain --config tangle` wrote",
            )
        if options.options:
            raise ConfigError(f"'tangle' has no options, got {', '.join(options.options)}")
        if options.precision not in {None, "fp32"}:
            raise ConfigError(f"'tangle' runs in fp32, not {options.precision}", where="precision")
        device = resolve_device(options.device)
        setup_numerics(device)
        info, model, _ = read_folder(Path(options.weights))
        return cls(info, model, device)

    @torch.inference_mode()
    def encode_slide(
        self, features: Any, coords: Any = None, patch_size_level0: int | None = None
    ) -> np.ndarray:
        """Encode (n, D) patch features -> (H,) float32; coordinates play no part.

        Raises:
            DataError: When the width is not that of the patch encoder, or there is no patch.
        """
        shape = tuple(np.shape(features))
        if len(shape) != 2 or shape[1] != self.in_dim or not shape[0]:
            raise DataError(
                f"features of shape {shape} for a TANGLE model of width {self.in_dim}",
                fix=f"Give (n, {self.in_dim}) features of '{self.card.upstream}'",
            )
        x = torch.from_numpy(np.array(features, dtype=np.float32))[None].to(self.device)
        return np.asarray(self.model.slide(x)[0].float().cpu().numpy())  # (H,)
