"""Phikon and Phikon-v2 of Owkin, and Hibou of HistAI."""

from __future__ import annotations

from typing import Any

from spade_bench.encoders.zoo._rows import entry
from spade_bench.encoders.zoo.entry import Entry, Transformers
from spade_bench.types import Normalisation

__all__ = ["ENTRIES"]

_HIBOU = Normalisation((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))


def _hibou(name: str, repo: str, dim: int, layers: int, heads: int, **more: Any) -> Entry:
    build = Transformers(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {
            "hidden_size": dim,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": 224,
            "patch_size": 14,
            "num_register_tokens": 4,
            "use_swiglu_ffn": True,
        },
    )
    return entry(
        name,
        dim,
        build,
        f"{name.capitalize()}, ViT/14 with 4 registers, trained on 936,441 H&E and 202,464 other "
        "slides of HistAI.",
        feature="cls",
        prefix=5,
        repos=(repo,),
        norm=_HIBOU,
        licence="Apache-2.0",
        flags="pppp?",
        pretrained_on=("HistAI (private)",),
        reference="Nechaev et al., arXiv 2406.05074",
        notes=(
            "The authors' code does not load with transformers 5 (it imports transformers.onnx). "
            "Its model is a DINOv2 with registers, which transformers has itself, so none of that "
            "code runs here.",
            "The class token after the last normalisation equals their pooler_output, which most "
            "tools take.",
            "LazySlide lists both sizes as gated; others find B open and L gated, as here. The hub "
            "writes hibou-b small and hibou-L large.",
            "0.5 µm/px is inferred. TRIDENT runs it in fp32, slide2vec in fp16.",
        ),
        **more,
    )


ENTRIES: tuple[Entry, ...] = (
    entry(
        "phikon",
        768,
        Transformers("ViTModel", "ViTConfig", {}, {"add_pooling_layer": False}),
        "Phikon, ViT-B/16 trained with iBOT on 6,093 slides of TCGA.",
        feature="cls",
        repos=("owkin/phikon",),
        # Commit: as one public comparison of encoders pins it.
        revision="057cc0295895c2df3dd7681a89680da6015cbefe",
        interpolation="bilinear",
        licence="Owkin non-commercial",
        flags="Ynnnn",
        pretrained_on=("TCGA",),
        millions=85.8,
        reference="Filiot et al., medRxiv 2023.07.21.23292757",
    ),
    entry(
        "phikon_v2",
        1024,
        Transformers(
            "Dinov2Model",
            "Dinov2Config",
            {
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 224,
                "patch_size": 16,
            },
        ),
        "Phikon-v2, ViT-L/16 trained with DINOv2 on 58,359 slides.",
        feature="cls",
        repos=("owkin/phikon-v2",),
        # Commit: as raw2features pins it.
        revision="2ae989a9c40cffaa27f0a6cb29cc94d1d6f9a5fd",
        licence="Owkin non-commercial",
        flags="YY???",
        pretrained_on=("TCGA", "CPTAC", "GTEx", "others, unnamed"),
        millions=303.4,
        reference="Filiot et al., arXiv 2409.09173",
        notes=(
            "About 9,400 of its slides come from sources that are not named; its card calls all of "
            "its data public, one list calls them proprietary.",
        ),
    ),
    _hibou(
        "hibou-b",
        "histai/hibou-b",
        768,
        12,
        12,
        # Commits: as raw2features pins them.
        revision="7fdc8cce365ebfd9e7e60ee6ee9a8d4d59388f3c",
        millions=85.7,
    ),
    _hibou(
        "hibou-l",
        "histai/hibou-L",
        1024,
        24,
        16,
        revision="31a3b9fee16554c8552cb643d311733bce8faf7c",
        millions=303.7,
        gated=True,
    ),
)
