"""Settings that follow from the size of the cohort, each with its reason in one line.

The paper's settings (arXiv 2506.21857: 16 clusters per organ, 16 experts, 100 epochs at a rate of
1e-4, tau 0.1) are made for some 30,000 training spots per expert. A cohort of a few sections has a
thousand spots in all; there, 16 experts of 60 spots at that rate end at chance. What is left at
`auto` is therefore chosen here; what is given is obeyed, with a warning where it cannot work.

The numbers were measured on five sections of HER2ST, one left out in turn (`benchmarks/
small_cohort.py`), and on the simulator's control (`benchmarks/coupling.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.pretraining.prepare.spatialblocks import MIN_SECTION_SPOTS
from spade_bench.encoders.spade.pretraining.pretrainconfig import (
    ClusteringConfig,
    RoutingConfig,
    SplitConfig,
    TrainingConfig,
)
from spade_bench.errors import ConfigError

__all__ = [
    "FEW_SPOTS",
    "MIN_PATIENTS",
    "PAPER_STEPS",
    "SPOTS_PER_EXPERT",
    "Rule",
    "choose_clusters",
    "choose_split",
    "choose_tau",
    "choose_training",
    "rising_experts",
    "single_training",
    "small_experts",
    "split_key",
    "training_key",
]

SPOTS_PER_EXPERT = 300
"""Training spots that the rule asks for per expert."""
FEW_SPOTS = 100
"""An expert with fewer training spots than this is warned of: a batch takes 128."""
MIN_PATIENTS = 20
"""Patients from which whole ones are held out: a tenth is then two, and one may be unlike all."""
PAPER_STEPS = 10_000
"""Steps per expert from which the paper's rate arrives; its own experts took some 26,000."""
_SPOTS_PER_CLUSTER = 20
_PAPER = {"k": 16, "epochs": 100, "lr": 1e-4}
_FAST = {"epochs": 20, "lr": 1e-3}
_REFINE_LR = 1e-4  # of heads that are trained already; at 1e-3 their first epochs undo it
# How training is spread changes no weights, `min_steps` only `auto`; what experts start from is
# known by the weights themselves.
_NOT_IN_KEY = ("layout", "workers", "min_steps", "init")
_MEASURED = 20_000  # training spots on which the entropy of the routing is measured
_TAU_RANGE = (1e-6, 1e6)  # in units of the mean distance to the nearest centroid


@dataclass(frozen=True)
class Rule:
    """One setting that a rule has chosen.

    Attributes:
        name: Dotted name of the setting.
        value: What it is set to.
        reason: Why, for people.
    """

    name: str
    value: Any
    reason: str

    def __str__(self) -> str:
        """The line that is said."""
        value = f"{self.value:.4g}" if isinstance(self.value, float) else self.value
        return f"{self.name} = {value} by rule: {self.reason}"


def choose_split(
    config: SplitConfig, patients: int, largest: int
) -> tuple[SplitConfig, tuple[Rule, ...]]:
    """Settle what is held out.

    Args:
        config: As asked for.
        patients: Patients that no test holds out by name; an unknown one is its own.
        largest: Spots of the largest section.

    Returns:
        The configuration without `auto`, and what was chosen.
    """
    rules = []
    if config.validation == "auto":
        who = f"{patients} patient{'' if patients == 1 else 's'} to train and validate on"
        if patients >= MIN_PATIENTS:
            value, reason = "samples", f"{who}, at least {MIN_PATIENTS}: whole ones are held out"
        elif largest < MIN_SECTION_SPOTS:
            value = "samples"
            reason = f"{who}, and no section has {MIN_SECTION_SPOTS} spots, enough for strips"
        else:
            strips = "strips of every section are held out, with a guard band"
            value, reason = "blocks", f"{who}, fewer than {MIN_PATIENTS}: {strips}"
        rules.append(Rule("split.validation", value, reason))
    if config.test_fraction == "auto":
        named = bool(config.test_samples or config.test_patients)
        reason = "a test is named" if named else "what chooses the epoch is not reported on"
        fraction = 0.0 if named else config.val_fraction
        rules.append(Rule("split.test_fraction", fraction, reason))
    return replace(config, **_changes(rules)), tuple(rules)


def split_key(split: SplitConfig) -> dict[str, Any]:
    """Return what determines a settled split; as older versions wrote it where they could."""
    key = asdict(split)
    if split.validation == "samples":
        del key["validation"]
    if not split.test_fraction:
        del key["test_fraction"]
    return key


def choose_clusters(
    config: ClusteringConfig, organ: Sequence[str] | NDArray[Any]
) -> tuple[ClusteringConfig, tuple[Rule, ...]]:
    """Settle the numbers of clusters and experts.

    Args:
        config: As asked for.
        organ: Organ of each training spot.

    Returns:
        The configuration without `auto`, and what was chosen.
    """
    n, (_, counts) = len(organ), np.unique(np.asarray(organ, dtype=str), return_counts=True)
    largest = int(counts.max()) if n else 0
    rules = []
    if config.k_organ == "auto":
        k = max(1, min(_PAPER["k"], largest // _SPOTS_PER_CLUSTER))
        reason = f"{largest:,} training spots in the largest organ, {_SPOTS_PER_CLUSTER} per"
        rules.append(Rule("clustering.k_organ", k, f"{reason} cluster, at most {_PAPER['k']}"))
    if config.k_experts == "auto":
        k = max(1, min(_PAPER["k"], n // SPOTS_PER_EXPERT))
        reason = f"{n:,} training spots, {SPOTS_PER_EXPERT} per expert"
        rules.append(Rule("clustering.k_experts", k, f"{reason}, at most {_PAPER['k']}"))
    return replace(config, **_changes(rules)), tuple(rules)


def choose_training(
    config: TrainingConfig, sizes: Sequence[int] | NDArray[np.int64], *, control: bool = True
) -> tuple[TrainingConfig, tuple[Rule, ...]]:
    """Settle epochs, rate and what the experts start from.

    Args:
        config: As asked for.
        sizes: Training spots of each expert.
        control: Whether the single expert is trained, from which others can start.

    Returns:
        The configuration without `auto`, and what was chosen.

    Raises:
        ConfigError: When experts are to start from a single expert that is not trained.
    """
    if config.init == "k1" and not control and len(sizes) > 1:
        raise ConfigError(
            "'training.init' is k1, which needs the single expert",
            fix="Leave controls.k1 on, or choose training.init=none",
        )
    spots, per_epoch, total = _steps(config, sizes)
    few = total < PAPER_STEPS
    steps = f"{spots:,} spots per expert, {total // per_epoch} epochs are {total:,} steps"
    why = f"{steps}, {'fewer' if few else 'not fewer'} than {PAPER_STEPS:,}"
    rules = []
    if config.epochs == "auto":
        epochs = _enough_epochs(config.min_steps, per_epoch)
        enough = f"{per_epoch} steps per epoch, at least {config.min_steps} steps and 20 epochs"
        rules.append(
            Rule("training.epochs", epochs, enough)
            if few
            else Rule("training.epochs", _PAPER["epochs"], f"as in the paper: {why}")
        )
    if config.init == "auto":
        rules.append(_start(len(sizes), few, control, why))
    if config.lr == "auto":
        started = "k1" in (config.init, *(rule.value for rule in rules))
        rules.append(_rate(few, started, why))
    return replace(config, **_changes(rules)), tuple(rules)


def single_training(
    asked: TrainingConfig, settled: TrainingConfig, sizes: Sequence[int] | NDArray[np.int64]
) -> TrainingConfig:
    """Return the training of the single expert, which has more steps per epoch.

    Args:
        asked: As asked for.
        settled: What the experts train with.
        sizes: Training spots of each expert; the single one has them all.
    """
    single = replace(settled, init="none")
    if _steps(asked, sizes)[2] >= PAPER_STEPS:
        return single
    if asked.lr == "auto":
        single = replace(single, lr=_FAST["lr"])
    if asked.epochs == "auto":
        per_epoch = max(1, math.ceil(int(np.sum(sizes)) / settled.batch_size))
        single = replace(single, epochs=_enough_epochs(settled.min_steps, per_epoch))
    return single


def _steps(
    config: TrainingConfig, sizes: Sequence[int] | NDArray[np.int64]
) -> tuple[int, int, int]:
    """Return spots of the average expert, its steps per epoch, and those of the epochs asked for.

    Where none are asked for, the paper's count.
    """
    spots = int(np.mean(sizes)) if len(sizes) else 0
    per_epoch = max(1, math.ceil(spots / config.batch_size))
    epochs = _PAPER["epochs"] if config.epochs == "auto" else config.epochs
    return spots, per_epoch, int(epochs) * per_epoch


def training_key(training: TrainingConfig) -> dict[str, Any]:
    """Return what of settled settings determines weights; as older versions wrote it."""
    return {k: v for k, v in asdict(training).items() if k not in _NOT_IN_KEY}


def _enough_epochs(min_steps: int, per_epoch: int) -> int:
    return max(int(_FAST["epochs"]), math.ceil(min_steps / per_epoch))


def _rate(few: bool, started: bool, why: str) -> Rule:
    name = "training.lr"
    if not few:
        return Rule(name, _PAPER["lr"], f"as in the paper: {why}")
    if started:
        better = "experts that start from the single expert's heads refine them"
        return Rule(name, _REFINE_LR, f"{better}, which trains at {_FAST['lr']:g}")
    return Rule(name, _FAST["lr"], why)


def _start(n_experts: int, few: bool, control: bool, why: str) -> Rule:
    name = "training.init"
    if n_experts < 2:
        return Rule(name, "none", "there is a single expert")
    if not few:
        return Rule(name, "none", f"as in the paper: {why}")
    if not control:
        return Rule(name, "none", "controls.k1 is off, so there is no single expert to start from")
    return Rule(name, "k1", why)


def choose_tau(
    config: RoutingConfig, experts: Experts, features: Any, rows: NDArray[np.int64], *, seed: int
) -> tuple[RoutingConfig, tuple[Rule, ...]]:
    """Settle the routing temperature by the entropy of the routing of the training spots.

    Distances grow with the scale of the base encoder's features and with their number, so that no
    temperature suits two encoders. The entropy of softmax(-d / tau) grows with tau for every spot,
    from 0 to log C for C centroids, and its mean is brought to `config.entropy`.

    Args:
        config: As asked for.
        experts: Centroids and their experts.
        features: Base features (N, D).
        rows: Training spots.
        seed: Seed of the sample of at most 20,000 spots on which it is measured.

    Returns:
        The configuration without `auto`, and what was chosen.
    """
    if config.tau != "auto":
        return config, ()
    if len(rows) > _MEASURED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MEASURED, replace=False))
    distances = _distances(np.asarray(features[rows], dtype=np.float64), experts.centroids)
    nearest = float(distances.min(axis=1).mean()) or 1.0
    n = len(experts.centroids)
    target = min(config.entropy, 0.9 * math.log(n)) if n > 1 else 0.0
    low, high = (math.log(edge * nearest) for edge in _TAU_RANGE)
    for _ in range(60):
        middle = (low + high) / 2
        below = _entropy(distances, math.exp(middle)) < target
        low, high = (middle, high) if below else (low, middle)
    tau = float(f"{math.exp(high):.4g}") if n > 1 else nearest
    reason = (
        f"an entropy of {target:.2g} nats over {n} centroids on {len(rows):,} training spots, "
        f"which lie {nearest:.3g} from the nearest"
        if n > 1
        else "there is a single centroid"
    )
    return replace(config, tau=tau), (Rule("routing.tau", tau, reason),)


def small_experts(sizes: Sequence[int] | NDArray[np.int64]) -> str:
    """Return a warning of experts with too few training spots; empty without any."""
    few = {e: int(n) for e, n in enumerate(sizes) if n < FEW_SPOTS}
    if not few:
        return ""
    if len(sizes) == 1:
        return f"{few[0]} training spots, fewer than {FEW_SPOTS}: little can be learnt from them"
    listed = ", ".join(f"{e} ({n})" for e, n in list(few.items())[:5])
    listed += f" and {len(few) - 5} more" if len(few) > 5 else ""
    return (
        f"{len(few)} of {len(sizes)} experts have fewer than {FEW_SPOTS} training spots: {listed}; "
        "they learn little: ask for fewer with clustering.k_experts, or leave it to the rule"
    )


def rising_experts(history: Sequence[Mapping[str, Any]]) -> str:
    """Return a warning of experts whose validation loss rises from the start; empty without any.

    Args:
        history: Rows of `training.csv`.
    """
    curves: dict[int, list[float]] = {}
    for row in sorted(history, key=lambda row: (row["expert"], row["epoch"])):
        if row["val_loss"] is not None:
            curves.setdefault(row["expert"], []).append(row["val_loss"])
    rising = [e for e, losses in curves.items() if len(losses) > 1 and min(losses[1:]) > losses[0]]
    if not rising:
        return ""
    listed = ", ".join(map(str, rising[:8])) + (" and more" if len(rising) > 8 else "")
    return (
        f"the validation loss of {len(rising)} of {len(curves)} experts rises from the start "
        f"({listed}): what they keep is what they began with; see losses.png"
    )


def _changes(rules: Sequence[Rule]) -> dict[str, Any]:
    return {rule.name.partition(".")[2]: rule.value for rule in rules}


def _distances(points: NDArray[np.float64], centroids: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Euclidean distances (n, C)."""
    from scipy.spatial.distance import cdist

    found: NDArray[np.float64] = cdist(points, np.asarray(centroids, dtype=np.float64))
    return found


def _entropy(distances: NDArray[np.float64], tau: float) -> float:
    """Return the mean entropy in nats of softmax(-d / tau) over the rows of (n, C)."""
    scaled = (distances.min(axis=1, keepdims=True) - distances) / tau  # (n, C)
    weights = np.exp(scaled)  # (n, C)
    total = weights.sum(axis=1)  # (n,)
    return float((np.log(total) - (weights * scaled).sum(axis=1) / total).mean())
