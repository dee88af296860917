"""What a SPADE model has learned, measured on samples it has not seen."""

from spade_bench.encoders.spade.pretraining.validation.heldout import validate
from spade_bench.encoders.spade.pretraining.validation.partnerranks import (
    DIRECTIONS,
    METRICS,
    RECALL_AT,
)
from spade_bench.encoders.spade.pretraining.validation.scoring import (
    Retrieval,
    fair_scores,
    retrieval,
)

__all__ = [
    "DIRECTIONS",
    "METRICS",
    "RECALL_AT",
    "Retrieval",
    "fair_scores",
    "retrieval",
    "validate",
]
