"""UNI: a ViT-L/16 trained by self-supervision on 100,000 slides (Chen et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.encoders.common.timmodel import IMAGENET, TimmEncoder, load_state, read_state
from spade_bench.encoders.common.weights import locate
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions, Needs

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CARD", "architecture"]

_REPO = "MahmoodLab/UNI"
_FILES = ("pytorch_model.bin", "model.safetensors")

CARD = EncoderCard(
    name="uni",
    input="image",
    dim=1024,
    description="UNI, ViT-L/16 pretrained with DINOv2 on 100,426 H&E slides.",
    patch_px=224,
    mpp=0.5,
    normalisation=IMAGENET,
    interpolation="bilinear",
    crop_pct=1.0,
    precision="fp16",
    source=f"hub {_REPO}",
    # Commit: as several public pipelines pin it (CLAM, THUNDER and others by their cache paths).
    revision="b55a5ec6cade1a39edfe6534189a9b8ca7a022f0",
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    needs=Needs((_REPO,), _FILES),
    pretrained_on=("Mass-100K", "GTEx"),
    undeclared=("HEST-1k",),
    reference="Chen et al., Nature Medicine 2024, doi 10.1038/s41591-024-02857-3",
    notes=(
        "Feature: class token.",
        "Authors state that TCGA, CPTAC, PANDA and CAMELYON were not in its pretraining.",
        "The licence also covers models trained on its features and bars commercial use.",
        "fp16 on a GPU, float32 on CPU.",
    ),
)


def architecture() -> nn.Module:
    """UNI's architecture without weights: its tensors are on the meta device until loaded."""
    import timm
    import torch

    with torch.device("meta"):  # drawing 303 million initial weights would take many seconds
        model: nn.Module = timm.create_model(
            "vit_large_patch16_224",
            pretrained=False,
            img_size=224,
            patch_size=16,
            init_values=1e-5,
            num_classes=0,
            dynamic_img_size=True,
        )
    return model


@encoders.register(CARD)
def load_uni(options: LoadOptions) -> TimmEncoder:
    """Load UNI from `--weights` or the hub.

    Raises:
        WeightsError: When the weights cannot be had or do not fit.
    """
    path = locate(CARD, options)
    state = read_state(path, _FILES)
    model = architecture()
    load_state(model, state, str(path))
    return TimmEncoder(CARD, model, options)
