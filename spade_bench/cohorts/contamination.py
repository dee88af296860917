"""The contamination ledger: whether an encoder saw a task's data in its own pretraining.

Three things are matched: the data sets that cards name (`pretrained_on`, `undeclared`) against the
`sources` of the task, along the chain of encoders down to the one that sees images; and the samples
and patients that a SPADE model was trained on against the slides and cases of the cohort. What
nobody declares counts as unknown, never as clean. The technologies of its training samples stand
beside, where they are not those of the paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spade_bench.cohorts.hiddennames import KnownNames
from spade_bench.registry import encoders
from spade_bench.types import Cohort, EncoderCard, Episode, TaskCard

__all__ = [
    "HEST_BENCH",
    "LEDGER",
    "UNKNOWN",
    "Provenance",
    "cohort_sources",
    "contamination",
    "hest_bench_seen",
    "leaks_of_fold",
    "provenance",
]

LEDGER = ("TCGA", "CPTAC", "PANDA", "CAMELYON16", "HEST-1k")
"""Data sets about which every card says yes, no or nothing."""

HEST_BENCH: Mapping[str, tuple[str, ...]] = {
    "PRAD": tuple(f"MEND{i}" for i in range(139, 163) if i != 155),
    "READ": ("ZEN36", "ZEN40", "ZEN48", "ZEN49"),
    "ccRCC": tuple(f"INT{i}" for i in range(1, 25)),
    "LYMPH_IDC": ("NCBI681", "NCBI682", "NCBI683", "NCBI684"),
    "IDC": ("TENX95", "TENX99", "NCBI783", "NCBI785"),
    "PAAD": ("TENX116", "TENX126", "TENX140"),
    "SKCM": ("TENX115", "TENX117"),
    "COAD": ("TENX111", "TENX147", "TENX148", "TENX149"),
    "LUAD": ("TENX118", "TENX141"),
}
"""Samples behind the tasks of HEST-Bench, which are part of HEST-1k: the first four are of Visium,
the others of Xenium."""

_USUAL = {"visium"}  # of the paper's training samples, which no row needs to say

_BARCODES = {
    "TCGA": re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}.*", re.IGNORECASE),
    "CPTAC": re.compile(r"C3[LN]-\d{5}.*", re.IGNORECASE),
}
_PARTS = {"hest-bench": "hest-1k", "hest": "hest-1k", "camelyon": "camelyon16"}
_VAGUE = ("unnamed", "others", "other public")
# "Patient 1", "P2", "B": names of which every study has one, so equality says nothing.
_COMMON_NAME = re.compile(
    r"(patient|pt|donor|subject|case|sample|p|d|s)?[\s_#-]*[a-z]?\d{0,3}", re.IGNORECASE
)


@dataclass(frozen=True)
class Provenance:
    """What an encoder, with those below it, was trained on.

    Attributes:
        datasets: Names of data sets; None when nothing is known.
        undeclared: Data sets of the ledger about which a card says nothing.
        samples: Ids of the samples that it was trained on, where its weights say so.
        patients: Their patients.
        technologies: What these samples were measured with, where its weights say so.
    """

    datasets: tuple[str, ...] | None = None
    undeclared: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    technologies: tuple[str, ...] = ()

    def with_base(self, base: Provenance) -> Provenance:
        """Add what the encoder below has seen; one unknown makes the whole unknown."""
        known = None
        if self.datasets is not None and base.datasets is not None:
            known = tuple(dict.fromkeys((*self.datasets, *base.datasets)))
        # What is certain stays certain even where the other link of the chain says nothing.
        seen = (*(self.datasets or ()), *(base.datasets or ()))
        if known is None and seen:
            known = (*dict.fromkeys(seen), "others, unnamed")
        some_unknown = self.datasets is None or base.datasets is None
        undeclared = (*self.undeclared, *base.undeclared, *(LEDGER if some_unknown else ()))
        return Provenance(
            known,
            tuple(dict.fromkeys(undeclared)),
            tuple(dict.fromkeys((*self.samples, *base.samples))),
            tuple(dict.fromkeys((*self.patients, *base.patients))),
            tuple(dict.fromkeys((*self.technologies, *base.technologies))),
        )


UNKNOWN = Provenance()


def provenance(
    card: EncoderCard | None, encoder: Any = None, base: str | None = None
) -> Provenance:
    """Collect what an encoder has seen, itself and through the encoders below it.

    Args:
        card: Its card; None for features that nobody has a card for.
        encoder: The loaded encoder, where there is one; it may know its `training_samples`,
            `training_patients` and `training_technologies`.
        base: Encoder whose features it takes; the card's `upstream` when None.
    """
    if card is None:
        return UNKNOWN
    direct = Provenance(
        card.pretrained_on,
        card.undeclared,
        tuple(getattr(encoder, "training_samples", ())),
        tuple(getattr(encoder, "training_patients", ())),
        tuple(getattr(encoder, "training_technologies", ())),
    )
    below = base or card.upstream
    if card.input == "image":
        return direct
    if below in (None, "", "any") or below not in encoders:
        return direct.with_base(UNKNOWN)
    return direct.with_base(provenance(encoders.get(str(below)).card))


def contamination(
    seen: Provenance | Sequence[str] | None,
    task: TaskCard,
    simulated: bool = False,
    cohort: Cohort | None = None,
) -> tuple[str, ...]:
    """Flag an encoder that saw a task's data in pretraining, or might have.

    Args:
        seen: What it saw; bare names of data sets and None, for unknown, will do.
        task: Its `sources` are the data sets of the cohort; none means unknown.
        simulated: Whether the cohort comes from the simulator, whatever the card says.
        cohort: The cases, to be matched with the samples and patients that it was trained on.

    Returns:
        `contamination:NAME` for each data set seen, `contamination:training-samples` and
        `contamination:training-patients` for slides and cases seen, `contamination:unknown` where
        nobody says, or nothing; and `trained-on:TECHNOLOGY` for each technology of the training
        samples, where it is not Visium alone.
    """
    if not isinstance(seen, Provenance):
        seen = Provenance(None if seen is None else tuple(seen))
    flags = list(_from_training(seen, cohort)) if cohort is not None else []
    if {name.casefold() for name in seen.technologies} - _USUAL:
        flags += [f"trained-on:{name}" for name in seen.technologies]
    sources = ("simulated",) if simulated else task.sources
    if not sources:
        return (*flags, "contamination:unknown")
    # Samples and patients that were kept back, without a hash, may be any of the cohort.
    unknown = cohort is not None and KnownNames((*seen.samples, *seen.patients)).incomplete
    for source in sources:
        if any(_same(source, name) for name in seen.datasets or ()):
            flags.append(f"contamination:{source}")
        else:
            unknown |= _unknown(source, seen, simulated)
    return (*flags, *(("contamination:unknown",) if unknown else ()))


def cohort_sources(case_ids: Iterable[str]) -> tuple[str, ...]:
    """Data sets of a cohort that no card describes, by the barcodes of its cases.

    Returns:
        `TCGA`, `CPTAC`, and `private` where some case has neither's barcode: nobody can then say
        that an encoder has not seen it.
    """
    names: dict[str, None] = {}
    for case in case_ids:
        name = next((n for n, barcode in _BARCODES.items() if barcode.fullmatch(case)), "private")
        names[name] = None
    return tuple(sorted(names))


def hest_bench_seen(samples: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Count the samples of each Visium task of HEST-Bench among training samples.

    Returns:
        Task -> (samples seen, samples of the task), for tasks of which at least one was seen.
    """
    trained = {sample.casefold() for sample in samples}
    counts = {
        task: (sum(name.casefold() in trained for name in names), len(names))
        for task, names in HEST_BENCH.items()
    }
    return {task: count for task, count in counts.items() if count[0]}


def leaks_of_fold(
    seen: Provenance, fold: Episode, patient_of: Mapping[str, str]
) -> tuple[str, ...]:
    """Flag an encoder that was trained on test sections of a fold, or on their patients.

    Where the fold itself trains on other sections of a patient whom it tests, that the encoder has
    seen them adds nothing.

    Samples that trained it and are among the task's sections tell patients for certain, whatever
    these are called; names that every study has, such as `Patient 1`, are otherwise no evidence.

    Args:
        seen: What it was trained on.
        fold: Sections to train on and to test.
        patient_of: Patient of every section of the task.

    Returns:
        `contamination:training-samples`, `contamination:training-patients`, both or nothing.
    """
    trained, patients = KnownNames(seen.samples), KnownNames(seen.patients)
    certain = {p.casefold() for name, p in patient_of.items() if name in trained}
    flags = []
    if any(name in trained for name in fold.test):
        flags.append("contamination:training-samples")
    new = {patient_of[name] for name in fold.test} - {patient_of[name] for name in fold.train}
    if any(p.casefold() in certain or (_tells(p) and p in patients) for p in new):
        flags.append("contamination:training-patients")
    return tuple(flags)


def _from_training(seen: Provenance, cohort: Cohort) -> Iterable[str]:
    trained, patients = KnownNames(seen.samples), KnownNames(seen.patients)
    slides = {slide for case in cohort.cases for slide in case.slide_ids}
    cases = {case.case_id for case in cohort.cases}
    if any(name in trained for name in slides | cases):
        yield "contamination:training-samples"
    if any(_tells(case) and case in patients for case in cases):
        yield "contamination:training-patients"


def _tells(patient: str) -> bool:
    """Whether a patient's name is no name that every study has."""
    return _COMMON_NAME.fullmatch(patient.strip()) is None


def _unknown(source: str, seen: Provenance, simulated: bool) -> bool:
    """Whether nobody says if this data set, not among those seen, was seen after all."""
    if seen.datasets is None or _key(source) == "private":
        return True
    if simulated:
        return False
    if any(_same(source, name) for name in seen.undeclared):
        return True
    listed = any(_same(source, name) for name in LEDGER)
    vague = any(word in name.casefold() for name in seen.datasets for word in _VAGUE)
    return vague and not listed


def _same(source: str, name: str) -> bool:
    """Whether two data set names mean the same or one a part of the other (TCGA, TCGA-COAD)."""
    a, b = _key(source), _key(name)
    return a == b or a.startswith((f"{b}-", f"{b} ")) or b.startswith((f"{a}-", f"{a} "))


def _key(name: str) -> str:
    key = name.strip().casefold()
    return _PARTS.get(key, key)
