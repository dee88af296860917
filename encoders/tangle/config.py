"""Settings of TANGLE's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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
    scale: str = "counts"


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

    method: str = "tangle"
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
            ConfigError: Naming the setting.
        """
        train = self.training
        checks = {
            "seed": self.seed >= 0,
            "method": self.method == "tangle",
            "genes.scale": self.genes.scale in {"counts", "log"},
            "genes.n_top": self.genes.n_top >= 0,
            "split": self.split.val > 0 and self.split.test > 0
            and self.split.val + self.split.test < 1,
            "training.epochs": train.epochs >= 1,
            "training.batch_size": train.batch_size >= 2,
            "training.patches": train.patches >= 1,
            "training.lr": train.lr > 0,
            "training.temperature": train.temperature > 0,
            "training.hidden": train.hidden >= 1 and train.attention >= 1,
            "training.dropout": 0 <= train.dropout < 0.5,
        }  # fmt: skip
        for key, good in checks.items():
            if not good:
                raise ConfigError(f"setting '{key}' is out of range", where="tangle settings")
