"""What `validate` would refuse, a run refuses too: the same checks, on the cases as read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.cohorts.checks.measuredvalues import check_values
from spade_bench.cohorts.checks.outcomes import check_outcomes
from spade_bench.cohorts.checks.tablerows import Target, check_rows
from spade_bench.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from spade_bench.types import Cohort, TaskCard

__all__ = ["refuse_unsound"]

# A cohort to test on may lack a class; that is flagged where it is read.
_OF_THE_WHOLE = {"classes"}


def refuse_unsound(cohort: Cohort, card: TaskCard, where: str, *, partial: bool = False) -> None:
    """Refuse a cohort in which `validate` finds something to fix.

    Args:
        cohort: The cases, however they were read.
        card: Names the columns, and the value that means an event.
        where: The table, for messages.
        partial: The cohort is there to be tested on and may lack a class.

    Raises:
        DataError: With everything that must be fixed, in the words of `validate`.
    """
    target = _target(cohort, card)
    frame = _frame(cohort, target)
    issues = check_rows(frame, target)
    if target.kind == "regression":
        issues += check_values(frame, target)
    if target.kind == "survival":
        # Events are read by now: 1 is what the user says, if anything was said.
        issues += check_outcomes(frame, target, "1" if card.event_value else None, read=True)
    skipped = _OF_THE_WHOLE if partial else set()
    wrong = [i for i in issues if i.severity == "error" and i.check not in skipped]
    if wrong:
        raise DataError(
            "; ".join(issue.sentence for issue in wrong),
            where=where,
            fix="; ".join(dict.fromkeys(issue.fix for issue in wrong if issue.fix)),
        )


def _target(cohort: Cohort, card: TaskCard) -> Target:
    if cohort.classes:
        return Target("classification", "label", classes=cohort.classes if card.classes else ())
    if any(case.value is not None for case in cohort.cases):
        return Target("regression", "label", plausible=card.plausible, unit=card.measured_in)
    return Target("survival", event_column=card.event_column or "event")


def _frame(cohort: Cohort, target: Target) -> pd.DataFrame:
    """One row per slide, as `validate` reads them."""
    import pandas as pd

    rows = []
    for case in cohort.cases:
        targets: tuple[str | None, ...] = (case.label,)
        if target.kind == "regression":
            targets = (str(case.value),)
        elif target.kind == "survival":
            targets = (str(int(bool(case.event))), str(case.duration_days))
        rows += [(case.case_id, slide, *targets) for slide in case.slide_ids]
    return pd.DataFrame(rows, columns=["case_id", "slide_id", *target.columns], dtype=object)
