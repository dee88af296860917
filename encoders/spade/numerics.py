"""Where full float32 is not negotiable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from spade_bench.device import setup_numerics

__all__ = ["exact_float32", "fast_matmul", "no_denormals", "one_thread"]


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Switch autocast, and on CUDA also TF32, off for a block of matrix products.

    TF32 keeps 10 bits: at logits of hundreds that is an error of 0.1 before a softmax, and 1% of
    patches change expert. `engine.device.setup_numerics` leaves it off, but a program that uses
    the model by itself may have switched it on. On CPU that function has probed the backend.
    """
    if device.type != "cuda":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(previous)


@contextlib.contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Run a block with the fastest backend for float32 products, and put the setting back."""
    previous = torch.get_float32_matmul_precision()
    setup_numerics(device)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run a block with one CPU thread.

    The same bits then come out on a machine with any number of cores, in this process or in a
    worker; and on a busy machine threads that wait for each other cost far more than they bring.
    """
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


@contextlib.contextmanager
def no_denormals() -> Iterator[None]:
    """Run a block of the calling thread with numbers below 1e-38 taken as zero.

    Once an expert separates its spots, most of the softmax and its gradients are that small, and
    the processor computes with them many times slower.
    """
    if not torch.set_flush_denormal(True):  # a processor that cannot
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
