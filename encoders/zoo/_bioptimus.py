"""H-optimus-0, H-optimus-1 and H0-mini of Bioptimus."""

from __future__ import annotations

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import H_OPTIMUS, Entry, Timm

__all__ = ["ENTRIES"]

_GIANT = Timm(
    "vit_giant_patch14_reg4_dinov2",
    {
        "img_size": 224,
        "init_values": 1e-5,
        "global_pool": "token",
        "num_classes": 0,
        "dynamic_img_size": False,
    },
)
_EXACT = "Takes exactly 224 px."
_TIMM = "TRIDENT pins timm 0.9.16; plismbench ran it with 1.0.12, and here it is 1.0.9 or newer."

_H0_MINI = entry(
    "h0-mini",
    1536,
    Timm(
        "vit_base_patch14_reg4_dinov2",
        {
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
            "global_pool": "",
            "num_classes": 0,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "SiLU",
        },
    ),
    "H0-mini, ViT-B/14 with 4 registers, distilled from H-optimus-0 on TCGA.",
    feature="cls+mean",
    prefix=5,
    repos=("bioptimus/H0-mini",),
    # Commit: as raw2features pins it.
    revision="5b5cc0505d19ae558270045eb0df8c34df4d9609",
    norm=H_OPTIMUS,
    precision="fp16",
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    flags="Yppp?",
    pretrained_on=("TCGA", "Bioptimus (private, by its teacher)"),
    millions=85.7,
    reference="Filiot et al., arXiv 2501.16239",
    notes=(
        "Tools disagree: LazySlide and slide2vec take both tokens, as here; TRIDENT, HEST-bench, "
        "eva and the authors' plismbench take the class token alone (h0-mini-cls).",
        "The mean skips the 4 registers.",
    ),
)

ENTRIES: tuple[Entry, ...] = (
    entry(
        "h-optimus-0",
        1536,
        _GIANT,
        "H-optimus-0, ViT-g/14 with 4 registers, trained on more than 500,000 private slides.",
        feature="cls",
        prefix=5,
        repos=("bioptimus/H-optimus-0",),
        # Commit: as two public training codes pin it.
        revision="b145cc1e6c6b30d3251aa8b1f844e6974188a743",
        norm=H_OPTIMUS,
        precision="fp16",
        licence="Apache-2.0",
        flags="pppp?",
        pretrained_on=("Bioptimus (private)",),
        millions=1134.8,
        reference="Model card bioptimus/H-optimus-0, 2024",
        notes=(_EXACT, _TIMM),
    ),
    entry(
        "h-optimus-1",
        1536,
        _GIANT,
        "H-optimus-1, ViT-g/14 with 4 registers, trained on more than a million private slides.",
        feature="cls",
        prefix=5,
        repos=("bioptimus/H-optimus-1",),
        # Commit: as one public inference pipeline pins it beside TITAN and Virchow2.
        revision="3592cb220dec7a150c5d7813fb56e68bd57473b9",
        norm=H_OPTIMUS,
        precision="fp16",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        flags="pppp?",
        pretrained_on=("Bioptimus (private)",),
        millions=1134.8,
        reference="Model card bioptimus/H-optimus-1, 2025",
        notes=(
            _EXACT,
            _TIMM,
            "The licence also covers models trained on its features and bars commercial use.",
        ),
    ),
    _H0_MINI,
    variant(_H0_MINI, "h0-mini-cls", "class token alone.", dim=768, feature="cls"),
)
