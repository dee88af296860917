"""Settings of a SPADE pretraining run, frozen and typed.

``auto`` leaves a setting to the rules of `settingrules` and `split`, which look at the size of the
cohort. `configs/pretrain/hest1k.yaml` gives the paper's (arXiv 2506.21857) sample filter and every
one of its settings, so that no rule touches them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from spade_bench.config import check_ranges
from spade_bench.errors import ConfigError

__all__ = [
    "ClusteringConfig",
    "ControlsConfig",
    "GenesConfig",
    "PretrainConfig",
    "RoutingConfig",
    "SamplesConfig",
    "SplitConfig",
    "TrainingConfig",
    "settled",
]

T = TypeVar("T", int, float)


def settled(value: T | Literal["auto"], name: str) -> T:
    """Return a setting that must not be left to a rule any more.

    Args:
        value: The setting.
        name: Its dotted name.

    Raises:
        ConfigError: When it still is `auto`.
    """
    if value == "auto":
        raise ConfigError(f"'{name}' is auto, and no rule has settled it", fix="Give a number")
    return value


@dataclass(frozen=True)
class SamplesConfig:
    """Where samples come from and which are kept.

    Attributes:
        hest: Folder in HEST-1k layout.
        manifest: Generic manifest csv.
        spaceranger: Space Ranger `outs/` folders, of Visium or Visium HD.
        xenium: Xenium output bundles.
        features: Folder of precomputed base features, one file per sample, instead of images.
        include: Metadata column -> value or values to keep, such as `species: Homo sapiens`.
        exclude: Metadata column -> values to leave out, such as `organ: [Brain]`.
        min_genes: Keep samples with more genes than this (HEST column `nb_genes`).
        exclude_ids: Samples to leave out by id.
        ids: When given, only these samples.
        trust: Samples used although a check doubts their axes, pixel size, patches or novelty.
        patch_px: Side of a spot's patch in pixels.
        mpp: Resolution of a spot's patch, micrometres per pixel.
        spot_um: Width of the pseudo-spots of Xenium (None: 100) and Visium HD (None: 112), µm.
        spot_grid: Lattice of pseudo-spots.
        spot_pitch_um: Distance between their centres, µm; None is their width.
    """

    hest: Path | None = None
    manifest: Path | None = None
    spaceranger: tuple[Path, ...] = ()
    xenium: tuple[Path, ...] = ()
    features: Path | None = None
    include: Mapping[str, Any] = field(default_factory=dict)
    exclude: Mapping[str, Any] = field(default_factory=dict)
    min_genes: int = 0
    exclude_ids: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    patch_px: int = 224
    mpp: float = 0.5
    spot_um: float | None = None
    spot_grid: Literal["square", "hexagonal"] = "square"
    spot_pitch_um: float | None = None


@dataclass(frozen=True)
class GenesConfig:
    """The gene panel.

    Attributes:
        panel: `intersection` chooses among the genes that all samples measure. `union` takes the
            variable genes of each sample whether or not the others measure them, and contrasts
            spots only with spots that measure the same genes of the panel.
        n_top: Highly variable genes taken from each sample.
        min_shared: A sample that would bring the gene intersection to this many or fewer is left
            out. `auto` means half the median number of genes of the samples, at most 10,000. The
            union leaves nobody out.
    """

    panel: Literal["intersection", "union"] = "intersection"
    n_top: int = 50
    min_shared: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class SplitConfig:
    """What trains, what chooses the epoch and what is reported on.

    Attributes:
        validation: What is held out of training: whole `samples`, patient-safe and stratified by
            organ, or spatial `blocks` of every section. `auto` looks at the number of patients.
        val_fraction: Share of samples, or of each section's spots, that choose the epoch.
        test_fraction: Share that is reported on and chooses nothing. `auto`: as large as
            `val_fraction` where no test sample or patient is named, else none.
        test_samples: Samples held out entirely.
        test_patients: Patients all of whose samples are held out entirely.
    """

    validation: Literal["auto", "samples", "blocks"] = "auto"
    val_fraction: float = 0.1
    test_fraction: float | Literal["auto"] = "auto"
    test_samples: tuple[str, ...] = ()
    test_patients: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusteringConfig:
    """Two-step K-means into data experts.

    Attributes:
        k_organ: Clusters per organ (step 1); `auto` by the number of training spots.
        k_experts: Experts (step 2); `auto` by the number of training spots.
        space: Space in which spots are clustered.
        n_init: Restarts.
        max_iter: Iterations at most.
        max_points_per_centroid: Training points per centroid at most; more are subsampled.
    """

    k_organ: int | Literal["auto"] = "auto"
    k_experts: int | Literal["auto"] = "auto"
    space: Literal["image", "expression", "joint"] = "image"
    n_init: int = 5
    max_iter: int = 50
    max_points_per_centroid: int = 50_000


@dataclass(frozen=True)
class TrainingConfig:
    """Contrastive training of the experts.

    Attributes:
        epochs: Epochs; the best one by validation loss is kept. `auto`: enough for `min_steps`.
        min_steps: Optimiser steps that an expert takes at least where `epochs` is `auto`.
        init: What an expert starts from: its own random heads (`none`), or those of the single
            expert, which is trained first (`k1`). `auto` by the number of training spots.
        batch_size: Spots a batch; the last partial batch is kept.
        lr: AdamW learning rate, cosine to zero per step; `auto` by the number of steps.
        weight_decay: AdamW weight decay.
        proj_dim: Projection width P.
        temperature: Contrastive temperature T.
        dropout: Dropout in the projection heads.
        detach_targets: Stop gradients through the soft targets.
        precision: Precision of the linear layers; similarities and norms stay in fp32.
        layout: How experts are trained together; `auto` picks by device.
        workers: Processes on CPU; 0 means one a core.
    """

    epochs: int | Literal["auto"] = "auto"
    min_steps: int = 300
    init: Literal["auto", "none", "k1"] = "auto"
    batch_size: int = 128
    lr: float | Literal["auto"] = "auto"
    weight_decay: float = 1e-2
    proj_dim: int = 256
    temperature: float = 1.0
    dropout: float = 0.1
    detach_targets: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    layout: Literal["auto", "grouped", "processes", "sequential"] = "auto"
    workers: int = 0


@dataclass(frozen=True)
class RoutingConfig:
    """Default routing stored with the model.

    Attributes:
        mode: How a patch is sent to experts.
        tau: Routing temperature; `auto` takes the one at which the routing of the training spots
            has the entropy `entropy`.
        entropy: Mean entropy of a training spot's shares of the centroids, in nats.
    """

    mode: Literal["soft", "hard", "mean", "random", "concat"] = "soft"
    tau: float | Literal["auto"] = "auto"
    entropy: float = 0.5


@dataclass(frozen=True)
class ControlsConfig:
    """Controls trained and reported beside the model.

    Attributes:
        k1: Train the single-expert model (BLEEP-like) on the same split.
        untrained_seeds: Number of untrained initialisations scored.
    """

    k1: bool = True
    untrained_seeds: int = 20


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that determines a SPADE model.

    Attributes:
        encoder: Base patch encoder.
        expression: `lognorm` scales counts to 10,000 a spot and takes log1p; `raw` keeps counts.
        seed: Seed of everything random.
    """

    encoder: str = "efficientnet-lite0"
    expression: Literal["lognorm", "raw"] = "lognorm"
    seed: int = 0
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    genes: GenesConfig = field(default_factory=GenesConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_ranges(self, _RANGES, "pretrain settings")
        if self.genes.panel != "union":
            return
        for setting, wrong, right in (
            ("clustering.space", self.clustering.space != "image", "image"),
            ("genes.min_shared", self.genes.min_shared != "auto", "auto"),
        ):
            if wrong:
                raise ConfigError(
                    "samples that measure different genes cannot be compared by this setting",
                    where=setting,
                    fix=f"Use {right} with genes.panel=union",
                )


_ANY, _TINY = math.inf, 1e-12
_RANGES = {
    "seed": (0, _ANY),
    "samples.min_genes": (0, _ANY),
    "samples.patch_px": (1, _ANY),
    "samples.mpp": (_TINY, _ANY),
    "samples.spot_um": (_TINY, _ANY),
    "samples.spot_pitch_um": (_TINY, _ANY),
    "genes.n_top": (1, _ANY),
    "genes.min_shared": (0, _ANY),
    "split.val_fraction": (0, 0.9),
    "split.test_fraction": (0, 0.9),
    "clustering.k_organ": (1, _ANY),
    "clustering.k_experts": (1, _ANY),
    "clustering.n_init": (1, _ANY),
    "clustering.max_iter": (1, _ANY),
    "clustering.max_points_per_centroid": (1, _ANY),
    "training.epochs": (1, _ANY),
    "training.min_steps": (1, _ANY),
    "training.batch_size": (2, _ANY),
    "training.lr": (_TINY, _ANY),
    "training.weight_decay": (0, _ANY),
    "training.proj_dim": (1, _ANY),
    "training.temperature": (_TINY, _ANY),
    "training.dropout": (0, 0.99),
    "training.workers": (0, _ANY),
    "routing.tau": (_TINY, _ANY),
    "routing.entropy": (_TINY, _ANY),
    "controls.untrained_seeds": (0, _ANY),
}
