"""What a person needs to know about TANGLE before loading it."""

from __future__ import annotations

from spade_bench.types import EncoderCard, Needs

__all__ = ["CARD"]

CARD = EncoderCard(
    name="tangle",
    input="features",
    level="slide",
    dim=None,
    description="Gated-attention slide encoder aligned with the case's bulk expression by "
    "symmetric contrast, trained by `spade-bench pretrain --config tangle`.",
    upstream="any",
    source="a folder written by `spade-bench pretrain --config tangle`",
    licence="that of the weights folder and of its patch encoder",
    pretrained_on=None,
    needs=Needs(parts=("tangle.json", "genes.csv", "tangle.safetensors")),
    reference="arXiv 2405.11618",
    notes=(
        "Needs --weights FOLDER and the patch features that the folder names.",
        "Trained here, not the authors' weights: those were trained on TCGA with its RNA.",
    ),
)
