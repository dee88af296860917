"""Virchow and Virchow2 of Paige."""

from __future__ import annotations

from typing import Any

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import Entry, Timm

__all__ = ["ENTRIES"]

_FILES = ("pytorch_model.bin", "model.safetensors")


def _vit_huge(**more: Any) -> Timm:
    return Timm(
        "vit_huge_patch14_224",
        {
            "init_values": 1e-5,
            "num_classes": 0,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "SiLU",
            **more,
        },
    )


_VIRCHOW = entry(
    "virchow",
    2560,
    _vit_huge(),
    "Virchow, ViT-H/14 trained with DINOv2 on 1,488,550 slides of MSKCC.",
    feature="cls+mean",
    prefix=1,
    repos=("paige-ai/Virchow",),
    # Commit: as three public pipelines pin it.
    revision="19eebc84ae33e79f1b2d866e6ff90ae50e522f9a",
    files=_FILES,
    precision="fp16",
    licence="Apache-2.0",
    gated=True,
    flags="pppp?",
    pretrained_on=("MSKCC (private)",),
    millions=631.2,
    reference="Vorontsov et al., Nature Medicine 2024, doi 10.1038/s41591-024-03141-0",
    notes=(
        "STAMP and eva take the class token alone: virchow-cls.",
        "The hub asks for an institutional e-mail address.",
    ),
)

_VIRCHOW2 = entry(
    "virchow2",
    2560,
    _vit_huge(reg_tokens=4),
    "Virchow2, ViT-H/14 with 4 registers, trained on 3,134,922 slides of MSKCC and others.",
    feature="cls+mean",
    prefix=5,
    repos=("paige-ai/Virchow2",),
    # Commit: as many public pipelines pin it.
    revision="3158645804b69e3f3bc4439d4116edddf0840a72",
    files=_FILES,
    precision="fp16",
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    flags="pppp?",
    pretrained_on=("MSKCC and others (private)",),
    millions=631.2,
    reference="Zimmermann et al., arXiv 2408.00738",
    notes=(
        "The mean skips the class token and the 4 registers; eva forgets the registers.",
        "STAMP and eva take the class token alone: virchow2-cls.",
        "A width of 3584, found in one list, fits no loader.",
        "Trained at 0.25, 0.5, 1 and 2 µm/px.",
        "The licence also covers models trained on its features and bars commercial use.",
    ),
)

ENTRIES: tuple[Entry, ...] = (
    _VIRCHOW,
    variant(_VIRCHOW, "virchow-cls", "class token alone.", dim=1280, feature="cls"),
    _VIRCHOW2,
    variant(_VIRCHOW2, "virchow2-cls", "class token alone.", dim=1280, feature="cls"),
)
