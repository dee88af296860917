"""What the steps of an epoch need: on the device before it begins, read there by a cursor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training.schedule import Schedule
from spade_bench.encoders.spade.streams import dropout_keep, dropout_keys

__all__ = ["BatchTable", "EpochTables"]

_MASK_BYTES = 64 << 20
_MOST_MASKS = 64


class BatchTable:
    """Batches of A experts, step by step.

    Args:
        n_steps: Steps at most, T.
        n_experts: A.
        batch: Rows per batch, n.
        device: Where they are needed.

    Attributes:
        places: Where the spots lie, (T, A, n) int64; 0 beyond a batch's end.
        sizes: Rows of each batch, (T, A) int64.
        rows: Numbers of the rows, (n,).
    """

    def __init__(self, n_steps: int, n_experts: int, batch: int, device: torch.device) -> None:
        self._pin = device.type == "cuda"
        self._host = self._empty(n_steps, n_experts, batch, dtype=torch.int64)
        self._host_sizes = self._empty(n_steps, n_experts, dtype=torch.int64)
        self.places = torch.zeros_like(self._host, device=device)
        self.sizes = torch.zeros_like(self._host_sizes, device=device)
        self.rows = torch.arange(batch, device=device)

    def load(self, batches: Sequence[Sequence[NDArray[np.int64]]]) -> None:
        """Upload the batches of each expert.

        Nothing that was uploaded before may still be on its way.
        """
        self._host.zero_()
        self._host_sizes.zero_()
        places, sizes = self._host.numpy(), self._host_sizes.numpy()
        for a, of_expert in enumerate(batches):
            for t, batch in enumerate(of_expert):
                places[t, a, : len(batch)] = batch
                sizes[t, a] = len(batch)
        self.places.copy_(self._host, non_blocking=True)
        self.sizes.copy_(self._host_sizes, non_blocking=True)

    def host_places(self, step: int, n_experts: int) -> NDArray[np.int64]:
        """Return where the spots of a step lie, (a n,), for data that travels."""
        places: NDArray[np.int64] = self._host[step, :n_experts].reshape(-1).numpy()
        return places

    def _empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, pin_memory=self._pin)


class EpochTables(BatchTable):
    """The training batches of an epoch, with rates, step counts and dropout.

    Args:
        n_steps: Steps at most, T.
        n_experts: A.
        config: Training settings.
        device: Where they are needed.

    Attributes:
        numbers: Learning rates, the steps that an expert has then taken, and -1 / 2m for m rows in
            use, which makes the loss of an agreement, (T, 3, A) float32.
        masks: Dropout multipliers of a block of steps, (B, A, 2, n, P) float32.
    """

    def __init__(
        self, n_steps: int, n_experts: int, config: TrainingConfig, device: torch.device
    ) -> None:
        n, dim = config.batch_size, config.proj_dim
        super().__init__(n_steps, n_experts, n, device)
        self._rate = config.dropout
        self._numbers = self._empty(n_steps, 3, n_experts, dtype=torch.float32)
        self._host_keys = self._empty(n_steps, n_experts, 2, dtype=torch.int64)
        self.numbers = torch.zeros_like(self._numbers, device=device)
        self._keys = torch.zeros_like(self._host_keys, device=device)
        bytes_per_step = n_experts * 2 * n * dim * 4
        self.block = max(1, min(_MASK_BYTES // bytes_per_step, _MOST_MASKS, n_steps))
        self.masks = torch.empty(self.block, n_experts, 2, n, dim, device=device)

    def load_epoch(
        self,
        schedules: Sequence[Schedule],
        steps: Sequence[int],
        batches: Sequence[Sequence[NDArray[np.int64]]],
    ) -> None:
        """Upload what is left of an epoch of each expert.

        Args:
            schedules: Their schedules.
            steps: Steps that they have taken.
            batches: Their batches, from that step on.
        """
        self.load(batches)
        self._numbers.zero_()
        numbers, keys = self._numbers.numpy(), self._host_keys
        for a, (plan, step, own) in enumerate(zip(schedules, steps, batches, strict=True)):
            until = range(step, step + len(own))
            numbers[: len(own), 0, a] = [plan.lr(t) for t in until]
            numbers[: len(own), 1, a] = [t + 1 for t in until]
            numbers[: len(own), 2, a] = [-0.5 / len(batch) for batch in own]
            keys[: len(own), a] = dropout_keys(plan.seed, plan.expert, step, step + len(own)).T
        self.numbers.copy_(self._numbers, non_blocking=True)
        self._keys.copy_(keys, non_blocking=True)

    def draw_masks(self, step: int) -> None:
        """Draw the dropout of the block of steps that begins with ``step``, on the device."""
        keys = self._keys[step : step + self.block]  # (b, A, 2)
        _, _, _, n, dim = self.masks.shape
        drawn = dropout_keep(keys.reshape(-1), n, dim, self._rate)  # (b A 2, n, P)
        self.masks[: len(keys)].copy_(drawn.view(len(keys), -1, 2, n, dim))
