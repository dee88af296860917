"""What one cell of a downloaded table says: a class, or why it says none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spade_bench.cohorts.labels.recipes import Field
from spade_bench.errors import DataError

__all__ = ["Verdict", "judge", "judge_calls"]

_WILD = {"WT", "WILDTYPE", "WILD TYPE", "NO", "NONE"}
_NOT_SEQUENCED = {"NS", "NOT SEQUENCED", "NOT PROFILED", "NP"}


@dataclass(frozen=True)
class Verdict:
    """What is known of one case.

    Attributes:
        label: Class, or None.
        reason: Why there is no class; empty when there is one.
    """

    label: str | None
    reason: str = ""


def judge(
    field: Field, value: str | None, classes: Sequence[str], *, variant: str = "", where: str = ""
) -> Verdict:
    """Read one cell.

    Args:
        field: What the column's values mean.
        value: The cell; None when blank.
        classes: Classes of the task; for numbers and calls the second one is positive.
        variant: Count only this protein change as mutant.
        where: File and column, for messages.

    Raises:
        DataError: On a value that the field does not know.
    """
    if value is None:
        return Verdict(None, "no value given")
    if field.gene:
        return judge_calls(value, classes, variant)
    if field.at_least is not None:
        try:
            number = float(value)
        except ValueError as error:
            raise DataError(f"'{value}' is not a number", where=where) from error
        return Verdict(classes[int(number >= field.at_least)])
    label = _lookup(field.labels, value)
    if label is not None:
        return Verdict(label)
    if value.lower() in {word.lower() for word in field.ignore}:
        return Verdict(None, value.lower())
    if field.others == "drop":
        return Verdict(None, f"other: {value}")
    known = ", ".join([*field.labels, *field.ignore])
    raise DataError(f"unknown value '{value}'", where=where, fix=f"Known: {known}")


def judge_calls(value: str, classes: Sequence[str], variant: str = "") -> Verdict:
    """Read the calls of one gene in one sample, as cBioPortal's mutation table writes them.

    ``NS`` means that the sample was not sequenced, which is neither class. A call whose protein
    change is synonymous (`T125=`) is neither, because it may be silent or alter splicing.

    Args:
        value: `WT`, `NS`, or protein changes separated by blanks.
        classes: Wild type and mutant.
        variant: Count only this protein change as mutant; others are then neither class.
    """
    if value.upper() in _NOT_SEQUENCED:
        return Verdict(None, "not sequenced")
    if value.upper() in _WILD:
        return Verdict(classes[0])
    plain = re.sub(r"\([^)]*\)", " ", value)  # newer downloads add "(driver)"
    calls = [call.removeprefix("p.") for call in re.split(r"[\s,;]+", plain) if call]
    altering = [call for call in calls if not call.endswith("=")]
    if not altering:
        return Verdict(None, "only synonymous calls")
    if variant and variant.removeprefix("p.") not in altering:
        return Verdict(None, f"mutant, but not {variant}")
    return Verdict(classes[1])


def _lookup(labels: Mapping[str, str], value: str) -> str | None:
    if value in labels:
        return labels[value]
    folded = {key.lower(): label for key, label in labels.items()}
    return folded.get(value.lower())
