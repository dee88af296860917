"""Heads of expression: from the features of training spots to genes in the spots of a test set.

Every module here that does not start with an underscore registers heads in
`spade_bench.registry.expression_heads`; importing it loads neither numpy nor torch.
"""

from __future__ import annotations

from spade_bench.heads.spots._spots import (
    JointSpace,
    SpotFit,
    SpotHead,
    SpotOptions,
    SpotTask,
    spot_head,
)

__all__ = [
    "JointSpace",
    "SpotFit",
    "SpotHead",
    "SpotOptions",
    "SpotTask",
    "spot_head",
]
