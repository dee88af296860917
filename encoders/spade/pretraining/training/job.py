"""What every layout of training needs to know, and where it saves its states."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training.schedule import Schedule
from spade_bench.encoders.spade.pretraining.training.state import (
    ExpertState,
    checkpoint_path,
    load_state,
    new_state,
    save_state,
)
from spade_bench.encoders.spade.pretraining.training.trainingdata import TrainingData

__all__ = ["Job", "Keeper"]

CHECKPOINT_SECONDS = 30.0


@dataclass
class Keeper:
    """Saves the state of experts, not more often than every few seconds.

    Attributes:
        out_dir: Checkpoints lie in its `checkpoints` folder.
        fingerprints: What determines each expert's weights, by expert.
        every: Seconds between two checkpoints.
        last: When the last one was due.
    """

    out_dir: Path
    fingerprints: Mapping[str, str]
    every: float = CHECKPOINT_SECONDS
    last: float = field(default_factory=time.monotonic)

    def load(self, expert: int) -> ExpertState | None:
        """Return the saved state of an expert, if it still applies."""
        path = checkpoint_path(self.out_dir, expert)
        return load_state(path, self.fingerprints[str(expert)])

    def save(self, state: ExpertState) -> None:
        """Save a state now."""
        path = checkpoint_path(self.out_dir, state.expert)
        save_state(path, state, self.fingerprints[str(state.expert)])

    def due(self) -> bool:
        """Return whether it is time to save; if so, the clock starts again."""
        now = time.monotonic()
        if now - self.last < self.every:
            return False
        self.last = now
        return True


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        data: All spots.
        config: Training settings.
        seed: Seed.
        device: Where to compute.
        keeper: Loads and saves states.
        report: Called with the row of `training.csv` at the end of each expert's epoch.
        initial: Parameters that every expert starts from; None draws each expert's own.
    """

    data: TrainingData
    config: TrainingConfig
    seed: int
    device: torch.device
    keeper: Keeper
    report: Callable[[dict[str, Any]], None]
    initial: Mapping[str, Tensor] | None = None

    def state(self, expert: int) -> ExpertState:
        """Return an expert's saved state, or the one before its first step."""
        saved = self.keeper.load(expert)
        if saved is not None:
            return saved
        widths = int(self.data.features.shape[1]), int(self.data.expression.shape[1])
        dim = self.config.proj_dim
        return new_state(expert, *widths, dim=dim, seed=self.seed, initial=self.initial)

    def chooses_start(self, state: ExpertState, schedule: Schedule) -> bool:
        """Return whether the heads an expert starts from stand for the choice of its epoch."""
        return self.initial is not None and state.step == 0 and schedule.validates

    def schedule(self, expert: int) -> Schedule:
        """Return the steps of an expert."""
        sizes = len(self.data.rows(expert, "train")), len(self.data.rows(expert, "val"))
        return Schedule(self.seed, expert, *sizes, config=self.config)
