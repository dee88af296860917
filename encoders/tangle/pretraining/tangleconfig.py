"""Settings of TANGLE's training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spade_bench.config import check_ranges
from spade_bench.errors import ConfigError

__all__ = ["GeneConfig", "SplitConfig", "TangleConfig", "TrainingConfig"]


@dataclass(frozen=True)
class GeneConfig:
    """How the expression table is read.

    Attributes:
        n_top: Genes of largest variance over training cases that are kept; 0 keeps all.
        scale: `counts` (counts per million, then log1p) or `log` (already on a log scale).
    """

    n_top: int = 5000
    scale: Literal["counts", "log"] = "counts"


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the cases; a case is a patient and lies on one side only.

    Attributes:
        val: Chooses the epoch.
        test: Held out; retrieval is scored on it.
    """

    val: float = 0.15
    test: float = 0.25


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation. Defaults are the authors', but for the temperature.

    Attributes:
        epochs: Passes over the training cases.
        warmup_epochs: Epochs of linearly rising learning rate before the cosine.
        batch_size: Cases in a step.
        patches: Patches sampled from a case in a step.
        lr: Highest learning rate of AdamW.
        weight_decay: Its weight decay.
        temperature: Of the contrast. The authors use 0.01 with thousands of cases; with hundreds
            that fits the training cases at once.
        hidden: Width of both towers, and of the slide vector.
        attention: Width of the attention's gate.
        dropout: Dropout of the slide tower; the gate's and the expression tower's is twice that.
    """

    epochs: int = 100
    warmup_epochs: int = 5
    batch_size: int = 64
    patches: int = 2048
    lr: float = 1e-4
    weight_decay: float = 1e-4
    temperature: float = 0.07
    hidden: int = 512
    attention: int = 256
    dropout: float = 0.1


@dataclass(frozen=True)
class TangleConfig:
    """Everything `pretrain --config tangle` can be told.

    Attributes:
        method: `tangle`; tells this file from SPADE's.
        features: Folder of patch features.
        table: Expression, cases x genes: csv, parquet or h5ad.
        encoder: Patch encoder to take of several in the folder; None where there is one.
        cohort: csv with case_id and slide_id; None matches slide names that start with a case id.
        pretrained_on: Data sets of the cohort, in the contamination ledger's names.
        permute_pairs: Exchange expression among cases of the same split: a control that must not
            beat chance.
        seed: Seed of everything random.
        genes: The expression side.
        split: Shares of the cases.
        training: The optimisation.
    """

    method: Literal["tangle"] = "tangle"
    features: Path | None = None
    table: Path | None = None
    encoder: str | None = None
    cohort: Path | None = None
    pretrained_on: tuple[str, ...] | None = None
    permute_pairs: bool = False
    seed: int = 0
    genes: GeneConfig = field(default_factory=GeneConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_ranges(self, _RANGES, "tangle settings")
        if self.split.val + self.split.test >= 1:
            raise ConfigError(
                f"'split.val' and 'split.test' are {self.split.val} and {self.split.test}: nothing "
                "is left to train on",
                where="tangle settings",
                fix="Let them sum to less than 1",
            )


_ANY, _TINY = math.inf, 1e-12
_RANGES = {
    "seed": (0, _ANY),
    "genes.n_top": (0, _ANY),
    "split.val": (_TINY, 1),
    "split.test": (_TINY, 1),
    "training.epochs": (1, _ANY),
    "training.warmup_epochs": (0, _ANY),
    "training.batch_size": (2, _ANY),
    "training.patches": (1, _ANY),
    "training.lr": (_TINY, _ANY),
    "training.weight_decay": (0, _ANY),
    "training.temperature": (_TINY, _ANY),
    "training.hidden": (1, _ANY),
    "training.attention": (1, _ANY),
    "training.dropout": (0, 0.49),  # the gate drops twice as much
}
