"""Work on rows that lie on the host, by a GPU: blocks go and results come through pinned memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spade_bench.device import to_device

__all__ = ["in_pinned_blocks"]


def in_pinned_blocks(
    work: Callable[[Tensor], Tensor],
    blocks: Iterator[Tensor],
    out: Tensor,
    device: torch.device,
) -> list[float]:
    """Run ``work`` on blocks of rows, each while the results of the one before travel back.

    Args:
        work: Turns rows (b, D) on the device into results (b, width) there.
        blocks: Blocks of rows (b, D), each as long as the first or shorter.
        out: Where the results go, (n, width) on the host.
        device: A CUDA device.

    Returns:
        The sum of each block's features; NaN and infinity survive a sum.
    """
    slots: list[tuple[Tensor, torch.cuda.Event]] = []
    sums: list[Tensor] = []
    waiting: tuple[int, int, int] | None = None  # slot, first row, rows
    start = 0

    def collect(slot: int, first: int, count: int) -> None:
        pinned, arrived = slots[slot]
        arrived.synchronize()
        out[first : first + count] = pinned[:count]  # (b, width)

    for number, rows in enumerate(blocks):
        block = to_device(rows, device)  # (b, D)
        found, count = work(block), len(block)  # (b, width)
        sums.append(block.sum())
        if len(slots) < 2:
            pinned = torch.empty_like(found, device="cpu", pin_memory=True)
            slots.append((pinned, torch.cuda.Event()))  # type: ignore[no-untyped-call]
        place, arrived = slots[number % 2]
        place[:count].copy_(found, non_blocking=True)
        arrived.record()
        if waiting is not None:
            collect(*waiting)
        waiting = number % 2, start, count
        start += count
    if waiting is not None:
        collect(*waiting)
    return torch.stack(sums).tolist() if sums else []
