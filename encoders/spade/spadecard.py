"""What a person needs to know about SPADE before loading it."""

from __future__ import annotations

from spade_bench.types import EncoderCard, Needs

__all__ = ["CARD", "PARTS"]

PARTS = ("spade.json", "genes.csv", "centroids.safetensors", "experts.safetensors")

CARD = EncoderCard(
    name="spade",
    input="features",
    dim=None,
    description="Mixture of data experts over another encoder's patch features, each expert "
    "aligned with spatial transcriptomics by contrast.",
    upstream="any",
    source="a folder written by `spade-bench pretrain` or `spade-bench import-spade`",
    licence="that of the weights folder and of its base encoder",
    pretrained_on=None,
    needs=Needs(parts=PARTS),
    reference="arXiv 2506.21857",
    notes=(
        "Needs --weights FOLDER and the features of the base encoder that the folder names.",
        "Options: routing (soft, hard, mean, random, concat) and tau, the routing temperature.",
        "pretrained_on is known once the folder is read; weights trained on HEST-1k have seen the "
        "sections of several HEST-Bench tasks.",
    ),
)
