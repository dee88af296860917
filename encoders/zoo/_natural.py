"""DINOv2 and DINOv3 on natural images, the yardstick for pathology pretraining."""

from __future__ import annotations

from spade_bench.encoders.zoo._rows import entry
from spade_bench.encoders.zoo.entry import Entry, Timm

__all__ = ["ENTRIES"]


def _dinov2(
    name: str, architecture: str, millions: float, prefix: int, extra: str, *, commit: str
) -> Entry:
    return entry(
        name,
        1024,
        Timm(architecture, {"img_size": 224, "num_classes": 0}, layout="resample"),
        f"DINOv2, ViT-L/14{extra}, natural images.",
        feature="cls",
        prefix=prefix,
        repos=(f"timm/{architecture}.lvd142m",),
        revision=commit,
        precision="fp16",
        licence="Apache-2.0",
        flags="-----",
        pretrained_on=("LVD-142M",),
        millions=millions,
        reference="Oquab et al., TMLR 2024, arXiv 2304.07193",
        notes=(
            "Native to 518 px; position embeddings are resampled to 224 px by timm.",
            "Natural images only: 0.5 µm/px is a convention, not its training.",
        ),
    )


ENTRIES: tuple[Entry, ...] = (
    _dinov2(
        "dinov2-vitl14",
        "vit_large_patch14_dinov2",
        303.2,
        1,
        "",
        # Commit: as public code names it in its cache path.
        commit="47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
    ),
    _dinov2(
        "dinov2-vitl14-reg4",
        "vit_large_patch14_reg4_dinov2",
        303.2,
        5,
        " with 4 registers",
        # Commit: as public code names it in its cache path.
        commit="f3c408e77602bb412aa65fb03dfa0d5f95cb3832",
    ),
    entry(
        "dinov3-vitl16",
        1024,
        Timm("vit_large_patch16_dinov3", {"num_classes": 0, "global_pool": "token"}),
        "DINOv3, ViT-L/16 with rotary positions and 4 registers, natural images.",
        feature="cls",
        prefix=5,
        repos=("timm/vit_large_patch16_dinov3.lvd1689m",),
        patch_px=256,
        licence="DINOv3 licence (commercial use under its terms)",
        flags="-----",
        pretrained_on=("LVD-1689M",),
        millions=303.1,
        reference="Siméoni et al., arXiv 2508.10104",
        notes=(
            "timm averages the patch tokens by default; here the class token is taken.",
            "256 px, its native size. Facebook's own copy on the hub is gated, timm's is not.",
            "No authority states a precision: fp32.",
            "Natural images only: 0.5 µm/px is a convention, not its training.",
        ),
    ),
)
