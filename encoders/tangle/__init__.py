"""TANGLE: a slide encoder aligned with the bulk expression of the case, trained here.

It is what SPADE is compared with: the same contrast between image and expression, but with one
expression profile per case instead of one per spot. Importing this package loads no heavy library.

Source:
    Jaume et al., "Transcriptomics-guided Slide Representation Learning in Computational
    Pathology" (TANGLE), CVPR 2024, arXiv 2405.11618. Sizes and schedule follow the authors'
    released defaults; see `config.TangleConfig` for what differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.encoders.tangle.tanglecard import CARD
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

if TYPE_CHECKING:
    from spade_bench.encoders.tangle.slideencoder import TangleEncoder

__all__ = ["load"]


@encoders.register(CARD)
def load(options: LoadOptions) -> TangleEncoder:
    """Load a TANGLE folder as a slide encoder. See `TangleEncoder.load`."""
    from spade_bench.encoders.tangle.slideencoder import TangleEncoder

    return TangleEncoder.load(options)
