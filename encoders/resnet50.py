"""ResNet-50 on ImageNet, cut after its third stage: the baseline of CLAM and many since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spade_bench.encoders.common.timmodel import (
    IMAGENET,
    TimmEncoder,
    fold_batch_norm,
    load_state,
    read_state,
)
from spade_bench.encoders.common.weights import locate
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions, Needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

__all__ = ["CARD", "truncated"]

_REPO = "timm/resnet50.tv_in1k"
_FILES = ("model.safetensors", "pytorch_model.bin")

CARD = EncoderCard(
    name="resnet50",
    title="ResNet-50",
    input="image",
    dim=1024,
    description="ResNet-50 on ImageNet, third stage, average-pooled.",
    patch_px=224,
    mpp=0.5,
    normalisation=IMAGENET,
    interpolation="bilinear",
    crop_pct=0.875,
    source=f"hub {_REPO}",
    # Commit: as two public pipelines pin it for feature extraction.
    revision="78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
    licence="BSD-3-Clause",
    needs=Needs((_REPO,), _FILES),
    pretrained_on=("ImageNet-1k",),
    reference="He et al., CVPR 2016; cut as in CLAM, Lu et al., Nature BME 2021",
    notes=("--weights also takes torchvision's resnet50 file: its names are the same.",),
)


def truncated(state: Mapping[str, torch.Tensor], where: str) -> nn.Module:
    """ResNet-50 up to its third stage, pooled: (n, 3, 224, 224) -> (n, 1024).

    Args:
        state: All weights of the full network, classifier included.
        where: Where they come from, for error messages.

    Raises:
        WeightsError: When they do not fit.
    """
    import timm
    from torch import nn

    full: Any = timm.create_model("resnet50", pretrained=False)
    load_state(full, state, where)
    return nn.Sequential(
        fold_batch_norm(nn.Sequential(full.conv1, full.bn1, full.act1)),  # (n, 64, 112, 112)
        full.maxpool,  # (n, 64, 56, 56)
        fold_batch_norm(full.layer1),  # (n, 256, 56, 56)
        fold_batch_norm(full.layer2),  # (n, 512, 28, 28)
        fold_batch_norm(full.layer3),  # (n, 1024, 14, 14)
        nn.AdaptiveAvgPool2d(1),  # (n, 1024, 1, 1)
        nn.Flatten(),  # (n, 1024)
    ).eval()


@encoders.register(CARD)
def load_resnet50(options: LoadOptions) -> TimmEncoder:
    """Load ResNet-50 from `--weights` or the hub.

    Raises:
        WeightsError: When the weights cannot be had or do not fit.
    """
    path = locate(CARD, options)
    return TimmEncoder(CARD, truncated(read_state(path, _FILES), str(path)), options)
