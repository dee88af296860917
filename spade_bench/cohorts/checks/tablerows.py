"""Checks of the rows of a cohort table, without any features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spade_bench.cohorts.checks.issues import Issue, error, note, warning
from spade_bench.cohorts.columns import Columns, missing_columns
from spade_bench.cohorts.labels.barcodes import parse_barcode
from spade_bench.cohorts.leaks import find_leaks
from spade_bench.cohorts.spelling import (
    fold,
    one_spelling,
    pair,
    read_flag,
    read_number,
    to_classes,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Target",
    "case_labels",
    "check_rows",
    "check_splits",
    "is_usable",
    "respell",
    "target_of",
]

_FEW = 10
# Values that downloaded tables hold where nothing was measured or nothing was decided.
_NO_CLASS = {
    "ns", "not sequenced", "equivocal", "indeterminate", "unknown", "not evaluated",
    "[not available]", "[not evaluated]", "[unknown]", "[not applicable]", "not performed",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What the table is to be used for.

    Attributes:
        kind: `classification`, `regression` or `survival`.
        label_column: Column of the label or of the measured value.
        event_column: Column of the event.
        classes: Classes the task knows; empty takes any.
        plausible: Lowest and highest value that may have been measured; empty where nobody says.
        unit: What values are measured in; empty where nobody says.
    """

    kind: Literal["classification", "regression", "survival"]
    label_column: str = "label"
    event_column: str = "event"
    classes: tuple[str, ...] = ()
    plausible: tuple[float, ...] = ()
    unit: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that hold the target."""
        if self.kind == "survival":
            return (self.event_column, "duration_days")
        return (self.label_column,)


def target_of(frame: pd.DataFrame, label_column: str = "label") -> Target:
    """Guess from the columns what a table is for."""
    survival = "duration_days" in frame or "event" in frame
    if survival and label_column not in frame:
        return Target("survival", label_column)
    return Target("classification", label_column)


def is_usable(frame: pd.DataFrame) -> bool:
    """Whether the table names its cases and slides at all."""
    return {"case_id", "slide_id"} <= set(frame.columns)


def check_rows(frame: pd.DataFrame, target: Target) -> list[Issue]:
    """Check ids, duplicates, labels and class sizes.

    Args:
        frame: The table as text, blanks as None.
        target: What it is for.
    """
    names = ("event", "duration_days") if target.kind == "survival" else ("label",)
    columns = Columns(label=target.label_column, event=target.event_column)
    missing = [name for name in ("case_id", "slide_id", *target.columns) if name not in frame]
    issues = []
    absent = missing_columns(frame, columns, ("case_id", "slide_id", *names))
    if absent:
        issues.append(
            error(
                "columns",
                absent[0].replace("missing column(s)", "the table lacks"),
                missing,
                fix=absent[1],
            )
        )
    if not is_usable(frame):
        return issues
    issues += _ids(frame)
    if not set(missing) & set(target.columns):
        issues += _targets(frame, target)
        if target.kind == "classification":
            issues += _classes(frame, target)
    return issues


def respell(
    frame: pd.DataFrame, target: Target, event_value: str | None = None
) -> tuple[pd.DataFrame, list[Issue]]:
    """Spell labels, events and days as a run does, and say what was spelt otherwise.

    Args:
        frame: The table as text, blanks as None.
        target: What it is for.
        event_value: Value that means that the event happened; events are then left as they are.
    """
    import pandas as pd

    issues = []
    if "case_id" in frame:
        alike = one_spelling(frame["case_id"].dropna().unique())
        if alike:
            pairs = [f"{old} and {new}" for old, new in alike.items()]
            text = f"{len(pairs)} pair(s) of cases are only spelt otherwise, and taken as different"
            issues.append(warning("spelling", text, pairs, fix="Spell a case one way"))
    if not set(target.columns) <= set(frame.columns):
        return frame, issues
    if target.kind == "survival":
        event = frame[target.event_column]
        if event_value is None:
            flags = [None if value is None else read_flag(value) for value in event]
            plain = [v if f is None else str(int(f)) for v, f in zip(event, flags, strict=True)]
            events = pd.Series(plain, frame.index, dtype=object)
            frame = frame.assign(**{target.event_column: events})
        days = [None if value is None else fold(value) for value in frame["duration_days"]]
        return frame.assign(duration_days=pd.Series(days, frame.index, dtype=object)), issues
    given = frame[target.label_column]
    if target.kind == "regression":
        numbers = [(value, read_number(value)) for value in given]
        spelt = [value if number is None else repr(number) for value, number in numbers]
        values = pd.Series(spelt, frame.index, dtype=object)
        return frame.assign(**{target.label_column: values}), issues
    known = given.dropna()
    changes = to_classes(known, target.classes) if target.classes else one_spelling(known)
    if changes:
        pairs = [pair(old, new) for old, new in changes.items()]
        text = f"{len(pairs)} label(s) are spelt otherwise and taken as one"
        issues.append(warning("spelling", text, pairs, fix="Spell a class one way"))
        label = [changes.get(value, value) for value in given]
        frame = frame.assign(**{target.label_column: label})
    return frame, issues


def case_labels(frame: pd.DataFrame, column: str) -> pd.Series:
    """First value of each case that has one, indexed by case."""
    known = frame.dropna(subset=["case_id", column])
    return known.groupby("case_id")[column].first()


def check_splits(frame: pd.DataFrame) -> list[Issue]:
    """Check the splits that the table itself gives: `split`, `holdout` and `fold_*` columns."""
    columns = [str(c) for c in frame if c in {"split", "holdout"} or str(c).startswith("fold_")]
    rows = {
        column: [
            (str(case), str(side))
            for case, side in zip(frame["case_id"], frame[column], strict=True)
            if case is not None and side not in {None, "-1"}
        ]
        for column in columns
    }
    return [
        error(
            "leakage",
            f"{len(leak.cases)} case(s) stand on more than one side of {leak.split}",
            [f"{case} ({' and '.join(sides)})" for case, sides in leak.cases.items()],
            fix="Give all slides of a case the same side",
        )
        for leak in find_leaks(rows)
    ]


def _ids(frame: pd.DataFrame) -> list[Issue]:
    issues = []
    for column in ("case_id", "slide_id"):
        blank = int(frame[column].isna().sum())
        if blank:
            issues.append(
                error("ids", f"{blank} row(s) without {column}", count=blank, fix="Fill them in")
            )
    slides = frame.dropna(subset=["case_id", "slide_id"])
    n_cases = slides.groupby("slide_id")["case_id"].nunique()
    shared = list(n_cases[n_cases > 1].index)
    if shared:
        issues.append(
            error(
                "duplicates",
                f"{len(shared)} slide(s) belong to more than one case",
                shared,
                fix="A slide belongs to one case",
            )
        )
    twice = sorted(set(slides["slide_id"][slides["slide_id"].duplicated()]) - set(shared))
    if twice:
        issues.append(
            error(
                "duplicates",
                f"{len(twice)} slide(s) stand in more than one row",
                twice,
                fix="Keep one row per slide",
            )
        )
    several = slides.groupby("case_id")["slide_id"].nunique()
    n_several = int((several > 1).sum())
    if n_several:
        issues.append(
            note(
                "several-slides",
                f"{n_several} of {len(several)} cases have several slides (up to "
                f"{int(several.max())}); their bags are concatenated",
                several[several > 1].sort_values(ascending=False).index,
                count=n_several,
            )
        )
    return issues + _barcodes(slides)


def _barcodes(slides: pd.DataFrame) -> list[Issue]:
    """Slides whose TCGA barcode says something else than the table."""
    other, types = [], {}
    for case, slide in zip(slides["case_id"], slides["slide_id"], strict=True):
        code = parse_barcode(slide)
        if code is None:
            continue
        if str(case).startswith("TCGA-") and code.case_id != str(case)[:12]:
            other.append(f"{slide} under {case}")
        if code.sample_type != "01":
            types[slide] = code.sample_type
    issues = []
    if other:
        issues.append(
            error(
                "barcodes",
                f"{len(other)} slide(s) stand under another patient than their barcode names",
                other,
                fix="Correct case_id",
            )
        )
    if types:
        issues.append(
            warning(
                "sample-types",
                f"{len(types)} slide(s) are not of the primary tumour (TCGA sample types "
                f"{', '.join(sorted(set(types.values())))})",
                types,
                fix="Leave them out: 02 is recurrence, 06 metastasis, 11 normal tissue",
            )
        )
    return issues


def _targets(frame: pd.DataFrame, target: Target) -> list[Issue]:
    issues = []
    for column in target.columns:
        blank = frame["slide_id"][frame[column].isna()]
        if len(blank):
            issues.append(
                error(
                    "labels",
                    f"{len(blank)} row(s) without {column}",
                    blank,
                    fix="Remove them, or run with --allow-missing",
                )
            )
        known = frame.dropna(subset=["case_id", column])
        n_values = known.groupby("case_id")[column].nunique()
        torn = list(n_values[n_values > 1].index)
        if torn:
            issues.append(
                error(
                    "labels",
                    f"{len(torn)} case(s) have rows that disagree in {column}",
                    torn,
                    fix="All slides of a case share its label",
                )
            )
    return issues


def _classes(frame: pd.DataFrame, target: Target) -> list[Issue]:
    label = case_labels(frame, target.label_column)
    counts = label.value_counts()
    if counts.empty:
        return [error("classes", "no case has a label", fix="Fill in the label column")]
    known: Sequence[str] = target.classes
    issues = []
    undecided = [value for value in counts.index if str(value).lower() in _NO_CLASS]
    unknown = [value for value in counts.index if known and value not in known]
    strange = list(dict.fromkeys([*undecided, *unknown]))
    if strange:
        n = int(counts[strange].sum())
        fix = f"This task knows {', '.join(known)}" if known else "Leave these cases out"
        if undecided:
            fix += "; a value such as NS or Equivocal says that nothing is known, not a class"
        issues.append(
            error("classes", f"{n} case(s) have a label that is not a class", strange, fix=fix)
        )
    absent = [name for name in known if name not in counts.index]
    if absent or len(counts) < 2:
        text = f"no case is labelled {', '.join(absent)}" if absent else "only one class"
        issues.append(error("classes", text, absent or counts.index, fix="Two classes are needed"))
    listed = ", ".join(f"{name} {counts[name]}" for name in known if name in counts.index)
    listed = listed or ", ".join(f"{name} {n}" for name, n in counts.sort_index().items())
    issues.append(note("class-counts", f"{len(label)} cases: {listed}", count=len(label)))
    few = [name for name, n in counts.items() if n < _FEW and name not in strange]
    if few:
        issues.append(
            warning(
                "class-counts",
                f"fewer than {_FEW} cases of {', '.join(map(str, few))}",
                few,
                fix="Expect few shots, wide intervals and folds without this class",
            )
        )
    return issues
