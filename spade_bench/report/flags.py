"""What flags mean, and which of them a table has to show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["OF_CELLS", "code", "empty_cell", "explain", "meaning", "shared"]

OF_CELLS = {"missing", "failed", "undefined", "no-gene-side"}
"""Flags that a table shows in the cell itself, not among the flags."""
_WHY_EMPTY = {"undefined": "undefined", "failed": "failed", "no-gene-side": "no gene side"}

_EXACT = {
    "contamination:unknown": "nobody says whether the encoder saw this task's data set in "
    "pretraining (--pretrained-on), or the task does not say which data set it is (`sources` on "
    "its card)",
    "contamination:training-samples": "slides of this cohort were training samples of the encoder",
    "contamination:training-patients": "cases of this cohort were training patients of the encoder",
    "control:permuted-labels": "trained on shuffled labels: must lie at chance",
    "control:random-projection": "a fixed random projection of the same features, each value below "
    "zero set to zero: it keeps much of what they hold, so it says nothing of pretraining",
    "control:random-weights": "an untrained encoder of images: what its features tell without "
    "pretraining",
    "control:base": "the encoder below, without the one that sits on it",
    "control:pca": "principal components of the base features, as many as the encoder is wide",
    "control:k1": "the same training with a single expert",
    "control:random-routing": "patches sent to experts at random",
    "ensemble": "mean prediction of the fold models on held-out cases",
    "few-cases": "fewer than 10 test cases (or events) of some class: intervals are wide, and left "
    "out below 5 (AUROC: 2; calibration slope: 20; sensitivity at 90% specificity: 50, at 95%: "
    "100)",
    "same-draws": "all draws train on the same cases: they are one draw, not several",
    "small-pool": "the shots are more than a third of the pool's smallest class: draws share "
    "training cases, and their spread says too little about other training cases",
    "failed": "some cells failed, see the errors in results.jsonl",
    "leaky-splits": "cases on both sides of the given splits: numbers are too good",
    "loose-ids": "slide ids of table and files are the same only without suffix, leading "
    "zeros or case: --match-ids loose took them",
    "missing": "other encoders have results here, this one lacks some or all",
    "missing-slides": "run without slides that had no features",
    "random-projection": "stored by an older version: a random projection of the same features, "
    "not an untrained encoder of images",
    "regions": "bags hold the patches inside the regions that were outlined on each slide, not "
    "whole slides",
    "simulated": "simulated data, not patients",
    "unit:slide": "slides, not patients, are split and counted; intervals resample patients",
    "mixed-identities": "the feature files were made in different ways",
    "control:permuted-spots": "trained on expression dealt anew among the spots of each section: "
    "what remains is chance",
    "control:total-counts": "the total count of each spot alone: depth of sequencing, no image",
    "control:coordinates": "the place of each spot in its section alone: smoothness, no image",
    "patients-repeat": "sections that are tested are of patients that also train: numbers say "
    "little about other patients",
    "patients-unknown": "nobody says of which patient some sections are: each counts as one",
    "unregistered": "a task without a card: nobody declared its classes, sources and metrics",
    "undefined": "the metric cannot be computed, as where a class is absent",
    "no-gene-side": "the head retrieves spots in a space of images and expression, and this "
    "encoder places images only",
}
_PREFIX = {
    "contamination:": "the encoder saw {} in pretraining, the data set of this task: its number "
    "is too good",
    "encoder-mismatch:": "the files say that they hold features of {}, not of the encoder named: "
    "taken as they are, because --as-is was given",
    "trained-on:": "the encoder learned from spots of {}, perhaps beside others",
    "permutations:": "how often the labels of each training set were shuffled: the interval "
    "rests on all of them",
    "patients:": "{} patients are tested: intervals over patients are wide, and with one there is "
    "none",
    "sections:": "one patient is tested: intervals are over its {} sections and say nothing of "
    "other patients",
    "constant-genes:": "genes with one value in all test spots of a fold, {} counted over folds: "
    "left out of correlations and R², and named in results.jsonl",
    "undefined-folds:": "folds in which the metric cannot be computed, {} of them: the mean is "
    "over the others",
    "missing-class:": "no test case has the class {}: metrics speak of the others",
    "inputs:": "results of one name from several features or encoders, told apart by hash",
    "tasks:": "number of tasks that count",
}
_CODES = {
    "contamination:unknown": "C?",
    "control:permuted-labels": "pl",
    "control:random-projection": "rp",
    "control:random-weights": "rw",
    "control:permuted-spots": "ps",
    "control:total-counts": "tc",
    "control:coordinates": "xy",
    "patients-repeat": "pr",
    "patients-unknown": "p?",
    "control:base": "ba",
    "control:pca": "pc",
    "control:k1": "k1",
    "control:random-routing": "rr",
    "ensemble": "en",
    "few-cases": "fc",
    "same-draws": "sd",
    "small-pool": "sp",
    "leaky-splits": "L",
    "loose-ids": "li",
    "missing-slides": "ms",
    "simulated": "S",
    "unit:slide": "us",
    "mixed-identities": "mi",
    "unregistered": "u",
}
_CODE_PREFIX = {
    "contamination:": "C:",
    "encoder-mismatch:": "M:",
    "trained-on:": "t:",
    "permutations:": "P",
    "missing-class:": "K:",
    "constant-genes:": "cg",
    "undefined-folds:": "uf",
    "inputs:": "I:",
    "tasks:": "T",
}


def code(flag: str) -> str:
    """Return the short form of a flag for narrow tables, whose legend says what it stands for.

    A flag that is not known here, such as one of a plugin, is its own code.
    """
    if flag in _CODES:
        return _CODES[flag]
    prefix = next((p for p in _CODE_PREFIX if flag.startswith(p)), "")
    return f"{_CODE_PREFIX.get(prefix, '')}{flag.removeprefix(prefix)}"


def empty_cell(flags: Sequence[str]) -> str:
    """Return what a table says where a row has no number: why, by its flags, or `missing`."""
    return next((text for flag, text in _WHY_EMPTY.items() if flag in flags), "missing")


def explain(flags: Iterable[str], words: Mapping[str, str] | None = None) -> list[str]:
    """One line for each flag whose meaning is known, with its code, in alphabetical order.

    Args:
        flags: Flags of any rows.
        words: What flags mean that are not known here, such as controls that an encoder brought.
    """
    lines = []
    for flag in sorted(set(flags)):
        if text := meaning(flag, words):
            short = "" if flag in OF_CELLS else f"{code(flag)} = "
            lines.append(f"{short}{flag}: {text}")
    return lines


def meaning(flag: str, words: Mapping[str, str] | None = None) -> str:
    """Return what a flag means; empty where nobody says. See :func:`explain`."""
    text = _EXACT.get(flag, "") or (words or {}).get(flag, "")
    for prefix, template in _PREFIX.items():
        if not text and flag.startswith(prefix):
            text = template.format(flag.removeprefix(prefix))
    return text


def shared(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Flags that every row has, in the order of the first one; those of single cells apart."""
    if not rows:
        return ()
    return tuple(f for f in rows[0] if f not in OF_CELLS and all(f in other for other in rows))
