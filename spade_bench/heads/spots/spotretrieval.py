"""Expression of the training spots that lie nearest in a space of images and expression.

Source: BLEEP (arXiv 2306.01859) predicts the mean of the expression of the 50 nearest spots. With
several experts every training spot is seen by the experts of the QUERY, weighted as the query is
routed. No regression is fitted: what is tested is the space that contrast has made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spade_bench.config import check_ranges
from spade_bench.heads.spots._spots import SpotFit, SpotTask, check_target, spot_head
from spade_bench.types import HeadCard

__all__ = ["RetrievalConfig", "retrieval"]

_BLOCK = 2048  # test spots whose neighbours' expression is held at once


@dataclass(frozen=True)
class RetrievalConfig:
    """Settings of retrieval.

    Attributes:
        target: `lognorm` or `log1p`; see `spade_bench.heads.spots`.
        genes: `training` for genes chosen on training sections, `task` for the task's own list.
        n_genes: Genes to choose.
        k: Training spots that are averaged.
        weighting: `uniform`, or `softmax` over the scores.
        temperature: What scores are divided by for `softmax`.
    """

    target: Literal["log1p", "lognorm"] = "lognorm"
    genes: Literal["task", "training"] = "training"
    n_genes: int = 50
    k: int = 50
    weighting: Literal["uniform", "softmax"] = "uniform"
    temperature: float = 0.05

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_target(self)
        check_ranges(self, {"k": (1, math.inf), "temperature": (1e-12, math.inf)}, "")


CARD = HeadCard(
    name="retrieval",
    kinds=("expression",),
    description="Mean of the training spots nearest in the space of SPADE or BLEEP; no regression",
    input="spot",
    defaults={
        "target": "lognorm",
        "genes": "training",
        "n_genes": 50,
        "k": 50,
        "weighting": "uniform",
        "temperature": 0.05,
    },
    cheap=True,
    reference="arXiv 2306.01859",
)


@spot_head(CARD, RetrievalConfig, needs="joint")
def retrieval(task: SpotTask, settings: RetrievalConfig) -> SpotFit:
    """Average the expression of the nearest training spots, (m, G)."""
    import numpy as np
    from scipy.special import softmax

    assert task.joint is not None  # a head that needs it is given it
    score, index = task.joint.nearest(settings.k)  # (m, k) both
    weight = np.full(score.shape, 1.0 / score.shape[1])  # (m, k)
    if settings.weighting == "softmax":
        weight = softmax(np.asarray(score, np.float64) / settings.temperature, axis=1)
    out = np.empty((len(index), task.target.shape[1]))
    for start in range(0, len(index), _BLOCK):
        block = slice(start, start + _BLOCK)
        near = task.target[index[block]]  # (b, k, G)
        out[block] = np.einsum("mk,mkg->mg", weight[block], near)  # (b, G)
    return SpotFit(out)
