"""How long an expert trains, at what rate, and on which spots at which step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig, settled
from spade_bench.encoders.spade.streams import epoch_order

__all__ = ["MIN_VALIDATION", "Schedule"]

MIN_VALIDATION = 2  # validation spots from which a contrast exists


@dataclass(frozen=True)
class Schedule:
    """The steps of one expert; a function of its own size and stream alone.

    Attributes:
        seed: Seed of the run.
        expert: The expert.
        n_train: Its training spots.
        n_val: Its validation spots.
        config: Training settings.
    """

    seed: int
    expert: int
    n_train: int
    n_val: int
    config: TrainingConfig

    @property
    def validates(self) -> bool:
        """Whether a validation loss means something: one spot alone has nothing to be told from.

        Its loss is zero at every epoch, and the first epoch would always be kept.
        """
        return self.n_val >= MIN_VALIDATION

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch; the last partial one counts."""
        return math.ceil(self.n_train / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps until the learning rate reaches zero."""
        return self.steps_per_epoch * settled(self.config.epochs, "training.epochs")

    def lr(self, step: int) -> float:
        """Return the learning rate of a step: half a cosine from `lr` to 0 over all steps."""
        top = settled(self.config.lr, "training.lr")
        return top * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of the training spots in an epoch, (n_train,)."""
        return epoch_order(self.seed, self.expert, epoch, self.n_train)

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the training batches of an epoch, in order."""
        return self._cut(self.order(epoch))

    def validation_batches(self) -> list[NDArray[np.int64]]:
        """Return the validation batches, the same at every epoch.

        The loss compares spots within a batch, so neighbouring spots of one sample are spread over
        batches once, as training does.
        """
        return self._cut(self.validation_order())

    def validation_order(self) -> NDArray[np.int64]:
        """Return the order in which validation spots are cut into batches, (n_val,)."""
        return self.n_train + epoch_order(self.seed, self.expert, -1, self.n_val)

    def _cut(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        size = self.config.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]
