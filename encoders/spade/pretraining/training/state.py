"""The state of one expert in training, and its checkpoint on disk.

All randomness comes from streams keyed by (seed, expert, step), so parameters, moments, the step
and the best epoch so far are the whole state: a run that was killed at any moment continues from
the last checkpoint and ends at the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spade_bench.encoders.common.checkpoint import load_checkpoint, save_checkpoint
from spade_bench.encoders.common.sealedfolder import check_tensors
from spade_bench.encoders.spade.experts import ExpertPair

__all__ = [
    "START_MARGIN",
    "ExpertState",
    "checkpoint_path",
    "kept_epoch",
    "load_state",
    "new_state",
    "save_state",
]

START_MARGIN = 0.05
"""Share by which an epoch must lower the validation loss of given heads to replace them. An expert
of a small cohort has some tens of validation spots; smaller gains there are noise, and were losses
on the sections of HER2ST that were left out."""

_SCALARS = ("expert", "step", "best_epoch", "best_loss", "loss_sum", "history", "seconds", "done")
_GROUPS = ("params", "exp_avg", "exp_avg_sq", "best")


@dataclass
class ExpertState:
    """One expert between two steps.

    Attributes:
        expert: The expert.
        params: Parameters by name.
        exp_avg: AdamW's first moments by name; empty once done.
        exp_avg_sq: AdamW's second moments by name; empty once done.
        best: Parameters of the best epoch so far; empty before the first.
        step: Optimiser steps taken.
        best_epoch: Epoch of ``best``, counted from 1; 0 before the first, and while nothing beats
            the heads that training started from.
        best_loss: Its validation loss.
        loss_sum: Sum over the current epoch of loss times batch size.
        history: Rows of `training.csv` so far; epoch 0 is where given heads started.
        seconds: Seconds spent in the current epoch.
        done: Whether training has ended.
    """

    expert: int
    params: dict[str, Tensor]
    exp_avg: dict[str, Tensor] = field(default_factory=dict)
    exp_avg_sq: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    done: bool = False

    def improves(self, val_loss: float | None) -> bool:
        """Return whether an epoch with this validation loss is the best so far."""
        return val_loss is None or val_loss < self.best_loss

    @property
    def epochs_done(self) -> int:
        """Epochs that have ended."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def start_from(self, val_loss: float) -> None:
        """Let the given heads stand for the choice of the epoch, as epoch 0.

        They are known to work, so an epoch has to beat them by :data:`START_MARGIN`.

        Args:
            val_loss: Their validation loss; the caller keeps the parameters as ``best``.
        """
        self.best_loss = val_loss * (1 - START_MARGIN)
        start: dict[str, Any] = {"train_loss": None, "val_loss": val_loss, "lr": 0.0}
        self.history.append({"expert": self.expert, "epoch": 0, **start, "seconds": 0.0})

    def end_epoch(self, n_train: int, val_loss: float | None, lr: float) -> dict[str, Any]:
        """Record an epoch. The caller keeps the parameters when :meth:`improves` said so.

        Args:
            n_train: Training spots.
            val_loss: Validation loss; None without validation spots, when the last epoch counts as
                the best.
            lr: Learning rate of its last step.

        Returns:
            The row of `training.csv`.
        """
        epoch = self.epochs_done + 1
        row: dict[str, Any] = {
            "expert": self.expert,
            "epoch": epoch,
            "train_loss": self.loss_sum / n_train,
            "val_loss": val_loss,
            "lr": lr,
            "seconds": round(self.seconds, 4),
        }
        self.history.append(row)
        if self.improves(val_loss):
            self.best_epoch = epoch
            self.best_loss = math.inf if val_loss is None else val_loss
        self.loss_sum = self.seconds = 0.0
        return row

    def finish(self) -> None:
        """Keep what is needed after training: the best parameters and the history."""
        self.params = self.best or self.params
        self.exp_avg, self.exp_avg_sq, self.best = {}, {}, {}
        self.done = True


def kept_epoch(losses: Mapping[int, float]) -> int:
    """Return the epoch whose parameters are kept, given the validation loss of every epoch.

    Args:
        losses: By epoch; where there is an epoch 0, training started from given heads.
    """
    advantage = {0: 1 - START_MARGIN}
    return min(losses, key=lambda epoch: (losses[epoch] * advantage.get(epoch, 1.0), epoch))


def new_state(
    expert: int,
    feature_dim: int,
    n_genes: int,
    *,
    dim: int,
    seed: int,
    initial: Mapping[str, Tensor] | None = None,
) -> ExpertState:
    """Return the state of an expert before its first step.

    Args:
        expert: The expert.
        feature_dim: D.
        n_genes: G.
        dim: P.
        seed: Seed of the run.
        initial: Parameters to start from, by `image.*` and `spot.*` names; None draws them.

    Raises:
        WeightsError: When ``initial`` has other names or shapes.
    """
    pair = ExpertPair.create(feature_dim, n_genes, dim, seed=seed, expert=expert)
    params = {name: tensor.detach() for name, tensor in pair.state_dict().items()}
    if initial is not None:
        shapes = {name: tuple(tensor.shape) for name, tensor in params.items()}
        check_tensors(initial, shapes, "the heads to start from")
        params = {name: initial[name].detach().float().clone() for name in params}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    return ExpertState(
        expert, params, zeros, {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    )


def checkpoint_path(out_dir: Path, expert: int) -> Path:
    """Return where the checkpoint of an expert lies."""
    return out_dir / "checkpoints" / f"expert_{expert:03d}.safetensors"


def save_state(path: Path, state: ExpertState, fingerprint: str) -> None:
    """Write a checkpoint, atomically."""
    groups = {group: getattr(state, group) for group in _GROUPS}
    save_checkpoint(path, groups, {key: getattr(state, key) for key in _SCALARS}, fingerprint)


def load_state(path: Path, fingerprint: str) -> ExpertState | None:
    """Read a checkpoint; None when none applies to this data and these settings, or is whole."""
    saved = load_checkpoint(path, fingerprint)
    if saved is None:
        return None
    values: dict[str, Any] = {**saved[1], **saved[0]}
    return ExpertState(**values)
