"""Random streams that belong to one expert and to nothing else.

Every draw is a function of (seed, expert, purpose, counters). Nothing is consumed from a shared
generator, so an expert's weights cannot depend on which other experts train, in which order, in
which process or on which device, and a resumed run needs no saved generator state.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from spade_bench.counterhash import MASK32, drawn16, mixed

__all__ = ["dropout_keep", "dropout_keys", "epoch_order", "stream_seed", "torch_generator"]

_HEAD_SALTS = (0x9E3779B9, 0x85EBCA6B)  # image, expression


def stream_seed(seed: int, expert: int, *purpose: str | int) -> int:
    """Return the 63-bit seed of one stream, a hash of everything that names it."""
    text = "/".join(["spade", str(int(seed)), str(int(expert)), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, expert: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator at the start of one stream."""
    return torch.Generator().manual_seed(stream_seed(seed, expert, *purpose))


def epoch_order(seed: int, expert: int, epoch: int, n: int) -> np.ndarray:
    """Return the order in which ``n`` spots of an expert are visited in one epoch, (n,) int64."""
    rng = np.random.Generator(np.random.PCG64(stream_seed(seed, expert, "order", epoch)))
    return rng.permutation(n)


def dropout_keys(seed: int, expert: int, start: int, stop: int) -> Tensor:
    """Return the 32-bit keys of the dropout masks of the optimiser steps start..stop-1.

    Returns:
        (2, stop - start) int64: first the image head's keys, then the expression head's.
    """
    base = stream_seed(seed, expert, "dropout") & MASK32
    heads = torch.tensor([[base ^ salt] for salt in _HEAD_SALTS], dtype=torch.int64)  # (2, 1)
    return mixed(mixed(heads) + torch.arange(start, stop))  # (2, stop - start)


def dropout_keep(keys: Tensor, rows: int, dim: int, rate: float) -> Tensor:
    """Return dropout multipliers as a counter-based hash of (key, row, column).

    A generator would give different masks on CPU and GPU, and for other batch layouts; a hash of
    the element's own coordinates gives the same mask everywhere.

    Args:
        keys: Keys (K,) int64 from :func:`dropout_keys`.
        rows: Rows n of the batch.
        dim: Width P.
        rate: Share of elements set to zero.

    Returns:
        (K, n, P) float32: 0 with probability ``rate``, else 1 / (1 - rate).
    """
    halves = drawn16(keys, rows * dim)  # (K, n*P)
    keep = (halves >= round(rate * 2**16)).to(torch.float32).mul_(1 / (1.0 - rate))  # (K, n*P)
    return keep.view(-1, rows, dim)  # (K, n, P)
