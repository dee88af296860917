"""Bags on their way to the models: on the device, centred, padded together where they are small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from spade_bench.device import to_device
from spade_bench.heads.training.modelstack import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

__all__ = ["Reader"]

BATCH_ROWS = 4096  # padded rows of small bags that go through together
TINY_ROWS = 512  # with so few rows, calls cost more than padding


class Reader:
    """Reads bags and keeps those on a GPU that fit there.

    Args:
        bag: Returns the bag of the case at a position, (n, D) float32.
        n_cases: Cases in the cohort.
        dim: Width of the features, D.
        device: Where the models are.
        dtype: Their number format.
        resident: Bytes of bags that may stay on a GPU.
        half: Whether batches are rounded to bfloat16, once for all models that see them.
        bags: The bags behind ``bag``, which know their lengths and what was computed of them for
            other heads; None where there are none.
    """

    def __init__(
        self,
        bag: Callable[[int], NDArray[np.float32]],
        n_cases: int,
        dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        resident: int,
        half: bool = False,
        bags: CaseBags | None = None,
    ) -> None:
        self._bag, self._bags = bag, bags
        self.n_cases, self.dim, self.device = n_cases, dim, device
        self._dtype, self._shown = dtype, torch.bfloat16 if half else dtype
        self._resident = resident if device.type == "cuda" else 0
        self._kept: dict[int, torch.Tensor] = {}
        self._moments: dict[int, NDArray[np.float64]] = {}
        self._length: dict[int, int] = {}

    def load(self, case: int) -> torch.Tensor:
        """Return a bag on the device, (n, D)."""
        kept = self._kept.get(case)
        if kept is None:
            bag = self._bag(case)
            self._length[case] = len(bag)
            # A copy only where the array may not be written to, as in a memory map.
            kept = torch.from_numpy(bag if bag.flags.writeable else bag.copy())
            if self._resident:
                half = kept.half()
                kept = to_device(half if torch.equal(half.float(), kept) else kept, self.device)
                if kept.nbytes <= self._resident:
                    self._resident -= kept.nbytes
                    self._kept[case] = kept
        return kept.to(self.device, self._dtype)

    def length(self, case: int) -> int:
        """Return the number of patches of a case."""
        if case not in self._length:
            bags = self._bags
            self._length[case] = len(self._bag(case)) if bags is None else bags.length(case)
        return self._length[case]

    def batches(self, cases: Sequence[int], reference: torch.Tensor) -> list[Batch]:
        """Return the bags of these cases, minus the reference, (D,)."""
        return list(self.each_batch(cases, reference))

    def each_batch(self, cases: Sequence[int], reference: torch.Tensor) -> Iterator[Batch]:
        """Yield the bags of these cases, small ones padded together. See `batches`."""
        order = sorted(range(len(cases)), key=lambda at: self.length(cases[at]))
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and self._fits(cases, order, start, stop):
                stop += 1
            at = order[start:stop]
            bags = [(self.load(cases[i]) - reference).to(self._shown) for i in at]
            lengths = [len(bag) for bag in bags]
            start = stop
            if len(bags) == 1:
                yield Batch(bags[0].unsqueeze(0), None, at)  # (1, n, D)
                continue
            if min(lengths) == max(lengths):
                yield Batch(torch.stack(bags), None, at)  # (B, n, D)
                continue
            x = torch.nn.utils.rnn.pad_sequence(bags, batch_first=True)  # (B, n, D)
            ends = to_device(torch.tensor(lengths), self.device)  # (B,)
            mask = torch.arange(x.shape[1], device=self.device) < ends[:, None]  # (B, n)
            yield Batch(x, mask, at)

    def measure(
        self, fits: Sequence[NDArray[np.int64]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Measure the training patches of each fit, every case with equal weight.

        Args:
            fits: Training cases of each fit, S of them.

        Returns:
            A reference (D,) near all of them; the mean beyond it (S, D) and the spread (S, D).
        """
        for case in sorted({int(case) for train in fits for case in train}):
            if case in self._moments:
                continue
            find = partial(self._moments_of, case)
            name = f"moments {self.device}"
            self._moments[case] = (
                find() if self._bags is None else self._bags.once(name, case, find)
            )
        known: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}
        for train in fits:
            if train.tobytes() not in known:
                moments = np.stack([self._moments[int(c)] for c in train])  # (n, 2, D)
                # Each by itself, as one block: sums of another layout may end in other bits.
                each = [np.ascontiguousarray(moments[:, at]) for at in range(2)]
                first, second = (torch.from_numpy(x).to(self.device).mean(dim=0) for x in each)
                scale = (second - first**2).clamp_min(0).sqrt()  # (D,)
                # Constant features keep scale 1; a spread of rounding size is not a spread.
                tiny = 1e-6 * first.abs().clamp_min(1e-6)
                scale = torch.where(scale <= tiny, torch.ones_like(scale), scale)
                known[train.tobytes()] = first, scale
        mean = torch.stack([known[train.tobytes()][0] for train in fits])  # (S, D)
        scale = torch.stack([known[train.tobytes()][1] for train in fits])  # (S, D)
        # Features far from zero lose digits; all members are shown them minus one reference.
        reference = mean.mean(dim=0).to(self._dtype)  # (D,)
        mean -= reference
        # What rounding the reference leaves is no shift worth a product.
        mean[mean.abs() <= 16 * torch.finfo(self._dtype).eps * scale] = 0
        return reference, mean.to(self._dtype), scale.to(self._dtype)

    def _moments_of(self, case: int) -> NDArray[np.float64]:
        """Mean and mean square of the patches of a case, (2, D)."""
        x = self.load(case).double()  # (n, D)
        variance, mean = torch.var_mean(x, dim=0, correction=0)  # (D,) each
        moments: NDArray[np.float64] = torch.stack([mean, variance + mean * mean]).cpu().numpy()
        return moments

    def _fits(self, cases: Sequence[int], order: list[int], start: int, stop: int) -> bool:
        """Whether one more bag, the longest so far, can be padded to without much waste."""
        longest, count = self.length(cases[order[stop]]), stop - start + 1
        alike = longest <= 2 * self.length(cases[order[start]])
        return longest * count <= (BATCH_ROWS if alike else TINY_ROWS)
