"""SPADE: a mixture of data experts that aligns histology with spatial transcriptomics.

Importing this package loads no heavy library.

Source:
    Redekop, Pleasure et al., "SPADE: Spatial Transcriptomics and Pathology Alignment Using a
    Mixture of Data Experts for an Expressive Latent Space", arXiv 2506.21857.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.encoders.spade.spadecard import CARD
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

if TYPE_CHECKING:
    from spade_bench.encoders.spade.encoder import SpadeEncoder

__all__ = ["load"]


@encoders.register(CARD)
def load(options: LoadOptions) -> SpadeEncoder:
    """Load a SPADE folder as an encoder of base features. See `SpadeEncoder.load`."""
    from spade_bench.encoders.spade.encoder import SpadeEncoder

    return SpadeEncoder.load(options)
