"""The ViTs and Midnight of kaiko.ai, and OpenMidnight after it."""

from __future__ import annotations

from typing import Any

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import HALF, Entry, Timm, Transformers

__all__ = ["ENTRIES"]

_PORT = "kaiko_ai_towards_large_pathology_fms"


def _kaiko(name: str, dim: int, architecture: str, millions: float, **more: Any) -> Entry:
    notes = more.pop("notes", ())
    repos = more.pop("repos", (f"1aurent/{architecture}.{_PORT}",))
    arguments = {"num_classes": 0, "dynamic_img_size": True}
    build = more.pop("build", Timm(architecture, arguments))
    return entry(
        name,
        dim,
        build,
        f"Kaiko ViT ({architecture}), trained on about 29,000 slides of TCGA.",
        feature="cls",
        repos=repos,
        norm=HALF,
        interpolation="bilinear",
        licence="Kaiko non-commercial",
        flags="Ynnnn",
        pretrained_on=("TCGA",),
        millions=millions,
        reference="kaiko.ai, arXiv 2404.15217",
        notes=("Trained from 5x to 40x; authors' tiles: 256 px at 20x.", *notes),
        **more,
    )


_MIDNIGHT = entry(
    "midnight",
    3072,
    Transformers(
        "Dinov2Model",
        "Dinov2Config",
        {
            "hidden_size": 1536,
            "num_hidden_layers": 40,
            "num_attention_heads": 24,
            "image_size": 518,
            "patch_size": 14,
            "use_swiglu_ffn": True,
        },
    ),
    "Midnight-12k, ViT-g/14 trained with DINOv2 on 12,000 FFPE slides of TCGA.",
    feature="cls+mean",
    repos=("kaiko-ai/midnight",),
    # Commit: as raw2features pins it.
    revision="adc6b15679c981cce6f9b018bbad09d16eeeda9f",
    norm=HALF,
    precision="fp16",
    licence="MIT",
    flags="Ynnnn",
    pretrained_on=("TCGA",),
    millions=1136.5,
    reference="Karasikov et al., arXiv 2504.05186",
    notes=(
        "TRIDENT's code and eva take the class token alone (midnight-cls); its card, LazySlide, "
        "slide2vec, plismbench and thunder take both tokens.",
        "Trained at 0.25, 0.5, 1 and 2 µm/px.",
        "Position embeddings are native to 518 px and interpolated to 224 px.",
        "LazySlide lists it as gated; its own card shows it open.",
    ),
)

ENTRIES: tuple[Entry, ...] = (
    _kaiko("kaiko-vits16", 384, "vit_small_patch16_224", 21.7),
    _kaiko("kaiko-vits8", 384, "vit_small_patch8_224", 21.7),
    _kaiko("kaiko-vitb16", 768, "vit_base_patch16_224", 85.8),
    _kaiko("kaiko-vitb8", 768, "vit_base_patch8_224", 85.8),
    _kaiko(
        "kaiko-vitl14",
        1024,
        "vit_large_patch14_reg4_dinov2",
        304.4,
        prefix=5,
        repos=(f"1aurent/vit_large_patch14_reg4_224.{_PORT}",),
        # Commit: as raw2features pins it.
        revision="fb802e347d2c59f05207b70ad75f7df30019c188",
        build=Timm(
            "vit_large_patch14_reg4_dinov2",
            {"num_classes": 0, "dynamic_img_size": True},
            layout="native",
        ),
        notes=(
            "Tools load it under two names (TRIDENT: reg4_dinov2; most others: reg4_224, as here).",
            "Built at the size of its checkpoint (518 px, or 224 px) and fed 224 px.",
        ),
    ),
    _MIDNIGHT,
    variant(_MIDNIGHT, "midnight-cls", "class token alone.", dim=1536, feature="cls"),
    entry(
        "openmidnight",
        1536,
        Timm(
            "vit_giant_patch14_reg4_dinov2",
            {"img_size": 224, "global_pool": "token", "num_classes": 0},
            layout="dinov2",
        ),
        "OpenMidnight, ViT-g/14 with 4 registers, DINOv2-g trained on with 12,000 slides of TCGA.",
        feature="cls",
        prefix=5,
        repos=("SophontAI/OpenMidnight",),
        files=("teacher_checkpoint_load.pt", "model.safetensors", "pytorch_model.bin"),
        precision="fp16",
        licence="Apache-2.0",
        gated=True,
        flags="Ynnnn",
        pretrained_on=("TCGA", "LVD-142M"),
        millions=1134.8,
        reference="Kaplan et al., 2025, blog post and model card SophontAI/OpenMidnight",
        notes=(
            "The authors load it through torch.hub, which fetches code; here DINOv2's names are "
            "converted to timm's architecture, which runs the same arithmetic.",
        ),
    ),
)
