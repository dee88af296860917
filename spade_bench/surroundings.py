"""Leave a Python session as it was found: numerics, random states, working folder."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["left_unchanged"]


@contextlib.contextmanager
def left_unchanged() -> Iterator[None]:
    """Run a block and put back what it changed for the whole process.

    Kept are the precision of matrix products, TF32, the random states of Python, NumPy and torch,
    and the working folder. Of NumPy and torch only what had been imported before the block began.
    """
    folder = _working_folder()
    python = random.getstate()
    numpy: Any = sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy is not None else None
    torch = _torch_state()
    try:
        yield
    finally:
        random.setstate(python)
        if drawn is not None:
            numpy.random.set_state(drawn)
        _restore_torch(torch)
        if folder is not None and _working_folder() != folder:
            os.chdir(folder)


def _working_folder() -> str | None:
    """The working folder as text; None where it has been deleted."""
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return None


def _torch_state() -> dict[str, Any]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_float32_matmul_precision"):
        return {}
    return {
        "precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "random": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def _restore_torch(state: dict[str, Any]) -> None:
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_float32_matmul_precision"):
        return
    if not state:  # imported inside the block: what a fresh process has
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
        return
    torch.set_float32_matmul_precision(state["precision"])
    torch.backends.cudnn.allow_tf32 = state["tf32"]
    if torch.get_num_threads() != state["threads"]:
        torch.set_num_threads(state["threads"])
    torch.set_grad_enabled(state["grad"])
    torch.set_rng_state(state["random"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
