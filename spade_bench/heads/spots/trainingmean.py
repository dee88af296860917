"""A control: every spot gets the mean of the training spots, whatever its image shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spade_bench.heads.spots._spots import SpotFit, SpotTask, check_target, spot_head
from spade_bench.types import HeadCard

__all__ = ["MeanConfig", "mean"]


@dataclass(frozen=True)
class MeanConfig:
    """Settings of the mean of the training spots.

    Attributes:
        target: `lognorm` or `log1p`; see `spade_bench.heads.spots`.
        genes: `training` for genes chosen on training sections, `task` for the task's own list.
        n_genes: Genes to choose.
    """

    target: Literal["log1p", "lognorm"] = "lognorm"
    genes: Literal["task", "training"] = "training"
    n_genes: int = 50

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_target(self)


CARD = HeadCard(
    name="mean",
    kinds=("expression",),
    description="Mean of the training spots, whatever the image: errors, and no correlation",
    input="spot",
    defaults={"target": "lognorm", "genes": "training", "n_genes": 50},
    cheap=True,
    title="Training mean",
)


@spot_head(CARD, MeanConfig, needs="nothing")
def mean(task: SpotTask, settings: MeanConfig) -> SpotFit:
    """Predict the mean of each gene over the training spots, (m, G)."""
    import numpy as np

    average = task.target.mean(axis=0, dtype=np.float64)  # (G,)
    return SpotFit(np.repeat(average[None], task.n_test, axis=0))
