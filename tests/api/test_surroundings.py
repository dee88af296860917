"""A call leaves the session as it was."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import torch

from spade_bench.surroundings import left_unchanged


def state() -> tuple[object, ...]:
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[union-attr,index]  # noqa: NPY002
        random.getstate(),
        Path.cwd(),
    )


def disturb(folder: Path) -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    os.chdir(folder)


def test_what_a_block_changes_is_put_back(tmp_path: Path) -> None:
    before = state()
    try:
        with left_unchanged():
            disturb(tmp_path)
            raise RuntimeError
    except RuntimeError:
        pass
    assert state() == before
