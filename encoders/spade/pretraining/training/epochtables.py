"""What the steps of an epoch need: on the device before it begins, read there by a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class _Host:
    """What is uploaded, where the host fills it in: pinned where it goes to a GPU."""

    def __init__(self, n_steps: int, n_experts: int, batch: int, pin: bool, keys: bool) -> None:
        def empty(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(*shape, dtype=dtype, pin_memory=pin)

        self.places = empty(n_steps, n_experts, batch, dtype=torch.int64)
        self.sizes = empty(n_steps, n_experts, dtype=torch.int64)
        self.numbers = empty(n_steps if keys else 0, 3, n_experts, dtype=torch.float32)
        self.keys = empty(n_steps if keys else 0, n_experts, 2, dtype=torch.int64)

    def fill(self, rows: Sequence[NDArray[np.int64]]) -> None:
        """Cut the spots of each expert, in the order in which it sees them, into batches."""
        self.places.zero_()
        self.sizes.zero_()
        places, sizes = self.places.numpy(), self.sizes.numpy()
        n = places.shape[2]
        for a, own in enumerate(rows):
            whole, rest = divmod(len(own), n)
            places[:whole, a] = own[: whole * n].reshape(whole, n)
            sizes[:whole, a] = n
            if rest:
                places[whole, a, :rest] = own[whole * n :]
                sizes[whole, a] = rest

    def fill_epoch(
        self,
        schedules: Sequence[Schedule],
        steps: Sequence[int],
        rows: Sequence[NDArray[np.int64]],
    ) -> None:
        """Also the rates, counts, shares and keys of each step. See `EpochTables.load_epoch`."""
        self.fill(rows)
        self.numbers.zero_()
        numbers, sizes = self.numbers.numpy(), self.sizes.numpy()
        batch = self.places.shape[2]
        for a, (plan, step, own) in enumerate(zip(schedules, steps, rows, strict=True)):
            count = -(-len(own) // batch)
            until = range(step, step + count)
            numbers[:count, 0, a] = [plan.lr(t) for t in until]
            numbers[:count, 1, a] = np.arange(step + 1, step + count + 1)
            numbers[:count, 2, a] = -0.5 / sizes[:count, a]
            self.keys[:count, a] = dropout_keys(plan.seed, plan.expert, step, step + count).T


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
        self._shape, self._pin = (n_steps, n_experts, batch), device.type == "cuda"
        self._host = self._new_host()
        self.places = torch.zeros_like(self._host.places, device=device)
        self.sizes = torch.zeros_like(self._host.sizes, device=device)
        self.rows = torch.arange(batch, device=device)

    def load(self, rows: Sequence[NDArray[np.int64]]) -> None:
        """Upload where the spots of each expert lie, in the order in which it sees them.

        Nothing that was uploaded before may still be on its way.
        """
        self._host.fill(rows)
        self._upload()

    def host_places(self, step: int, n_experts: int) -> NDArray[np.int64]:
        """Return where the spots of a step lie, (a n,), for data that travels."""
        places: NDArray[np.int64] = self._host.places[step, :n_experts].reshape(-1).numpy()
        return places

    def _upload(self) -> None:
        self.places.copy_(self._host.places, non_blocking=True)
        self.sizes.copy_(self._host.sizes, non_blocking=True)

    def _new_host(self, keys: bool = False) -> _Host:
        return _Host(*self._shape, pin=self._pin, keys=keys)


class EpochTables(BatchTable):
    """The training batches of an epoch, with rates, step counts and dropout.

    There are two of what the host fills in: the next epoch is prepared while this one runs.

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
        self._host, self._next = self._new_host(keys=True), self._new_host(keys=True)
        self._prepared: list[tuple[int, int]] = []
        self.numbers = torch.zeros_like(self._host.numbers, device=device)
        self._keys = torch.zeros_like(self._host.keys, device=device)
        bytes_per_step = n_experts * 2 * n * dim * 4
        self.block = max(1, min(_MASK_BYTES // bytes_per_step, _MOST_MASKS, n_steps))
        self.masks = torch.empty(self.block, n_experts, 2, n, dim, device=device)

    def prepare(
        self,
        schedules: Sequence[Schedule],
        steps: Sequence[int],
        rows: Sequence[NDArray[np.int64]],
    ) -> None:
        """Fill in what `load_epoch` will upload, while the device is still busy with an epoch."""
        self._next.fill_epoch(schedules, steps, rows)
        self._prepared = _named(schedules, steps)

    def load_epoch(
        self,
        schedules: Sequence[Schedule],
        steps: Sequence[int],
        rows: Callable[[], Sequence[NDArray[np.int64]]],
    ) -> None:
        """Upload what is left of an epoch of each expert, as it was prepared or else filled in now.

        Args:
            schedules: Their schedules.
            steps: Steps that they have taken.
            rows: Returns where their spots lie, in the order in which they see them from that
                step on.
        """
        if self._prepared != _named(schedules, steps):
            self.prepare(schedules, steps, rows())
        self._host, self._next, self._prepared = self._next, self._host, []
        self._upload()
        self.numbers.copy_(self._host.numbers, non_blocking=True)
        self._keys.copy_(self._host.keys, non_blocking=True)

    def draw_masks(self, step: int) -> None:
        """Draw the dropout of the block of steps that begins with ``step``, on the device."""
        keys = self._keys[step : step + self.block]  # (b, A, 2)
        _, _, _, n, dim = self.masks.shape
        drawn = dropout_keep(keys.reshape(-1), n, dim, self._rate)  # (b A 2, n, P)
        self.masks[: len(keys)].copy_(drawn.view(len(keys), -1, 2, n, dim))


def _named(schedules: Sequence[Schedule], steps: Sequence[int]) -> list[tuple[int, int]]:
    return [(plan.expert, step) for plan, step in zip(schedules, steps, strict=True)]
