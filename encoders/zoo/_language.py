"""Encoders trained with text: MUSK and PLIP. CONCH stands with the Mahmood lab's."""

from __future__ import annotations

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import CLIP, HALF, Entry, Package, Transformers

__all__ = ["ENTRIES"]


def _musk(*, ms_aug: bool) -> Package:
    return Package(
        "musk",
        {"with_head": False, "out_norm": False, "return_global": True, "ms_aug": ms_aug},
    )


_MUSK = entry(
    "musk",
    1024,
    _musk(ms_aug=False),
    "MUSK, a vision-language transformer trained on TCGA and image-text pairs.",
    repos=("xiangjx/musk",),
    files=("model.safetensors",),
    modules=("musk", "fairscale"),
    install="fairscale git+https://github.com/lilab-stanford/MUSK",
    norm=HALF,
    patch_px=384,
    precision="fp16",
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    extra="musk, fairscale",
    flags="Y????",
    pretrained_on=("TCGA", "Quilt-1M", "PathAsst"),
    reference="Xiang et al., Nature 2025, doi 10.1038/s41586-024-08378-w",
    notes=(
        "Feature: class token without the zero-shot head, as in TRIDENT. LazySlide applies the "
        "head, also 1024 wide; slide2vec, STAMP and thunder use two scales (musk-ms).",
        "Trained at 10x, 20x and 40x.",
        "The licence also covers models trained on its features and bars commercial use.",
    ),
)

ENTRIES: tuple[Entry, ...] = (
    _MUSK,
    variant(
        _MUSK,
        "musk-ms",
        "two scales side by side, as slide2vec, STAMP and thunder do.",
        dim=2048,
        build=_musk(ms_aug=True),
    ),
    entry(
        "plip",
        512,
        Transformers(
            "CLIPVisionModelWithProjection",
            "CLIPVisionConfig",
            {"patch_size": 32, "image_size": 224, "projection_dim": 512},
            drop=(
                "text_model.",
                "text_projection.",
                "logit_scale",
                "vision_model.embeddings.position_ids",
            ),
        ),
        "PLIP, CLIP ViT-B/32 trained on pathology images and their captions from the web.",
        repos=("vinid/plip",),
        files=("model.safetensors", "pytorch_model.bin"),
        norm=CLIP,
        licence="none stated; LazySlide lists it as non-commercial",
        flags="?????",
        pretrained_on=None,
        millions=87.8,
        reference="Huang et al., Nature Medicine 2023, doi 10.1038/s41591-023-02504-3",
        notes=(
            "Feature: pooled image token, projected into the space shared with text.",
            "Trained on OpenPath, 208,414 pairs; what slides these show is unknown.",
            "0.5 µm/px is what surveys use; the web images have no stated scale.",
        ),
    ),
)
