"""Patient-safe, organ-stratified split of samples into training, validation and test.

Source: arXiv 2506.21857 validates on about 10% of the samples, stratified by organ. Beyond the
paper, samples of one patient never fall on both sides of training and validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spade_bench.encoders.spade.pretraining.pretrainconfig import SplitConfig
from spade_bench.encoders.spade.streams import stream_seed
from spade_bench.errors import ConfigError
from spade_bench.spatial.instruments.technologies import mixed_technologies

__all__ = ["Member", "SplitResult", "patient_groups", "split_samples"]


@dataclass(frozen=True)
class Member:
    """What the split needs of a sample.

    Attributes:
        sample_id: Its id.
        organ: Its organ.
        patient: Its patient, None where unknown (then it is its own group).
        technology: What it was measured with. Where a cohort mixes technologies, validation is
            stratified by organ and technology.
    """

    sample_id: str
    organ: str
    patient: str | None = None
    technology: str | None = None


@dataclass(frozen=True)
class SplitResult:
    """Where each sample goes.

    Attributes:
        split: Sample id -> `train`, `val` or `test`.
        notes: What a reader must know, such as a test patient that also trains.
    """

    split: Mapping[str, str]
    notes: tuple[str, ...] = ()


def split_samples(members: Sequence[Member], config: SplitConfig, seed: int = 0) -> SplitResult:
    """Splits samples; the outcome depends on the seed and on the samples, not on their order.

    The test split is what the config names. Of the rest, whole patient groups go to validation
    until about `val_fraction` of the samples are there, each time the group that brings every
    organ closest to its share. A group never takes an organ's last training sample, and none is
    larger than the share, except that a cohort of at least two groups gets the smallest one
    when this leaves validation empty. Where `test_fraction` asks for samples to report on, groups
    go to test first, in the same way. With validation by blocks, all of the rest trains here: the
    spots of its sections are split later.

    Raises:
        ConfigError: A test sample or patient that does not exist, a fraction outside [0, 1), or
            nothing left to train on.
    """
    if not 0 <= config.val_fraction < 1:
        raise ConfigError(f"split.val_fraction is {config.val_fraction}", fix="give 0 up to 1")
    members = sorted(members, key=lambda m: m.sample_id)
    test = _test_samples(members, config)
    split = {m.sample_id: "test" if m.sample_id in test else "train" for m in members}
    rest = [m for m in members if m.sample_id not in test]
    if not rest:
        raise ConfigError("every sample is held out for test", where="split")
    notes = _shared_patients(members, test)
    if config.validation == "blocks":
        return SplitResult(split, tuple(notes))
    n = len(rest)
    if config.test_fraction != "auto" and config.test_fraction > 0:
        reported = _held_out(rest, config.test_fraction, stream_seed(seed, 0, "test"))
        split |= dict.fromkeys(reported, "test")
        rest = [m for m in rest if m.sample_id not in reported]
        if not reported:
            notes.append("nothing to report on: all training samples are of one patient group")
    if config.val_fraction > 0:
        # a share of all samples, so that what is reported on does not shrink what chooses
        chosen = _held_out(rest, config.val_fraction * n / len(rest), seed)
        split |= dict.fromkeys(chosen, "val")
        if not chosen:
            notes.append("no validation split: all training samples are of one patient group")
    return SplitResult(split, tuple(notes))


def patient_groups(members: Sequence[Member], config: SplitConfig) -> int:
    """Return how many patients are not held out by name; an unknown one is its own."""
    test = _test_samples(members, config)
    return len(_groups([m for m in members if m.sample_id not in test]))


def _test_samples(members: Sequence[Member], config: SplitConfig) -> set[str]:
    names = {m.sample_id for m in members}
    patients = {m.patient for m in members if m.patient}
    for kind, given, known in (
        ("sample", config.test_samples, names),
        ("patient", config.test_patients, patients),
    ):
        missing = [g for g in given if g not in known]
        if missing:
            raise ConfigError(
                f"no prepared {kind} named {', '.join(missing)}",
                where=f"split.test_{kind}s",
                fix=f"known: {', '.join(sorted(known)[:10]) or 'none'}",
            )
    held_out = set(config.test_samples)
    return held_out | {m.sample_id for m in members if m.patient in config.test_patients}


def _shared_patients(members: Sequence[Member], test: set[str]) -> list[str]:
    """Says which test samples share their patient with the samples that train."""
    notes = []
    training = {m.patient for m in members if m.patient and m.sample_id not in test}
    for patient in sorted({m.patient for m in members if m.sample_id in test and m.patient}):
        if patient in training:
            of_patient = [m.sample_id for m in members if m.patient == patient]
            outside = [name for name in of_patient if name in test]
            notes.append(
                f"test sample {', '.join(outside)} is of {patient}, whose other "
                f"{len(of_patient) - len(outside)} samples are in training or validation"
            )
    return notes


def _groups(rest: Sequence[Member]) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for m in rest:
        key = f"patient {m.patient}" if m.patient else f"sample {m.sample_id}"
        groups.setdefault(key, []).append(m)
    return groups


def _held_out(rest: Sequence[Member], fraction: float, seed: int) -> list[str]:
    """Chooses whole groups to hold out; returns sample ids."""
    groups = _groups(rest)
    if len(groups) < 2:
        return []
    keys = sorted(groups)
    keys = [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]
    mixed = mixed_technologies({m.sample_id: m.technology for m in rest})
    strata = {m.sample_id: f"{m.organ} {mixed.get(m.sample_id, '')}" for m in rest}
    left = Counter(strata[m.sample_id] for m in rest)
    want = {stratum: fraction * n for stratum, n in left.items()}
    taken: Counter[str] = Counter()
    room = max(1, round(fraction * len(rest)))
    chosen: list[str] = []
    while room > 0:
        best = None
        for key in keys:
            counts = Counter(strata[m.sample_id] for m in groups[key])
            if counts.total() > room or any(left[o] - n < 1 for o, n in counts.items()):
                continue
            cost = sum(
                (taken[o] + n - want[o]) ** 2 - (taken[o] - want[o]) ** 2 for o, n in counts.items()
            )
            if best is None or cost < best[0] - 1e-9:
                best = (cost, key, counts)
        if best is None:
            break
        _, key, counts = best
        keys.remove(key)
        chosen += [m.sample_id for m in groups[key]]
        left.subtract(counts)
        taken.update(counts)
        room -= counts.total()
    if not chosen:
        chosen = [m.sample_id for m in groups[min(keys, key=lambda k: (len(groups[k]), k))]]
    return sorted(chosen)
