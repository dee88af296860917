"""The single-expert baseline: one contrastive expert over all tissue, as BLEEP trains it.

It is SPADE with K = 1, under a name of its own so that tables can show both side by side.

Source: Xie et al., "Spatially Resolved Gene Expression Prediction from H&E Histology Images via
Bi-modal Contrastive Learning" (BLEEP), NeurIPS 2023, arXiv 2306.01859.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import WeightsError
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions

if TYPE_CHECKING:
    from spade_bench.encoders.spade.encoder import SpadeEncoder

__all__ = ["CARD", "load"]

CARD = EncoderCard(
    name="bleep",
    input="features",
    dim=None,
    description="One expert over another encoder's patch features, aligned with spatial "
    "transcriptomics by contrast: SPADE with K = 1.",
    upstream="any",
    source="a folder of `spade-bench pretrain`, its controls/k1, or one with K = 1",
    licence="that of the weights folder and of its base encoder",
    pretrained_on=None,
    reference="arXiv 2306.01859 (the loss and heads); arXiv 2506.21857 (as SPADE's K = 1)",
    notes=(
        "Needs --weights FOLDER; of a SPADE folder with several experts its controls/k1 is taken.",
        "Same heads, loss, data and schedule as SPADE's experts; BLEEP itself trains its image "
        "encoder too, this keeps it frozen.",
    ),
)


@encoders.register(CARD)
def load(options: LoadOptions) -> SpadeEncoder:
    """Load a SPADE folder with one expert, or the single-expert control of one with several.

    Raises:
        WeightsError: When no folder is given, or it has several experts and no control.
    """
    from spade_bench.encoders.spade.encoder import SpadeEncoder

    if options.weights is None:
        raise WeightsError(
            "the encoder 'bleep' has no weights of its own",
            fix="Give `run` --weights bleep=FOLDER, or `encode` --weights FOLDER, which "
            "`spade-bench pretrain` wrote",
        )
    folder = Path(options.weights)
    control = folder / "controls" / "k1"
    source = control if control.is_dir() else folder
    # One expert has nothing to route among, and is its own single-expert control.
    encoder = SpadeEncoder.load(dataclasses.replace(options, weights=source), with_controls=False)
    if encoder.model.n_experts != 1:
        raise WeightsError(
            f"holds {encoder.model.n_experts} experts and no controls/k1",
            where=str(folder),
            fix="Pretrain with --set clustering.k_experts=1, or with --set controls.k1=true",
        )
    encoder.card = dataclasses.replace(
        CARD,
        dim=encoder.dim,
        upstream=encoder.card.upstream,
        pretrained_on=encoder.card.pretrained_on,
    )
    return encoder
