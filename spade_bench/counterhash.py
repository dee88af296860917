"""Dropout by a hash of counters: the same masks on every device, in every order and company."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Numbers = TypeVar("Numbers", Tensor, NDArray[np.int64])

__all__ = ["MASK32", "drawn16", "mixed"]

MASK32 = 0xFFFFFFFF


def mixed(x: Numbers) -> Numbers:
    """Scramble 32 bits held in int64 (the finaliser of a multiplicative hash)."""
    x = x & MASK32
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK32
    return x ^ (x >> 16)


def drawn16(keys: Tensor, n: int) -> Tensor:
    """Return numbers from 0 to 65,535 as a hash of (key, position).

    Args:
        keys: Keys (K,) int64 of 32 bits.
        n: Numbers per key.

    Returns:
        (K, n) int64.
    """
    import torch

    pair = torch.arange((n + 1) // 2, dtype=torch.int64, device=keys.device)  # (n/2,)
    x = mixed(pair * 0x9E3779B1 + keys[:, None])  # (K, n/2)
    # One hash serves two neighbours: 16 bits are plenty for a rate.
    return torch.stack((x & 0xFFFF, x >> 16), dim=2).view(len(keys), -1)[:, :n]  # (K, n)
