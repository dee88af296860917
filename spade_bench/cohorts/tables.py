"""Cohort tables: one row per slide, read strictly into cases.

Columns: ``case_id, slide_id`` and ``label``, or ``event`` (1 = it happened) and ``duration_days``;
for regression the label is a number;
``site``, ``split`` (train, val, test), ``holdout`` (1 = test) and ``simulated`` (1) are optional
and any other column is allowed and ignored. Columns may be called otherwise (`Columns`), and values
are compared by one spelling (`spelling.fold`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.classorder import order_classes
from spade_bench.cohorts.columns import Columns
from spade_bench.cohorts.spelling import MISSING_WORDS, is_missing, read_flag, read_number
from spade_bench.cohorts.tabletext import read_frame
from spade_bench.cohorts.targets import name_like_cases, spell_numbers, spell_targets
from spade_bench.errors import DataError
from spade_bench.features.slideids import describe_near, near_ids
from spade_bench.files import hash_obj
from spade_bench.types import Case, Cohort

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Coverage", "cohort_hash", "keep_covered", "read_cohort", "read_table"]

_SPLITS = ("train", "val", "test")


def read_table(path: Path, keep: Collection[str] = ()) -> pd.DataFrame:
    """Read a table as text, whatever its encoding and separator, blanks as None.

    Args:
        path: csv, tsv or workbook; see `read_frame`.
        keep: Values that are no blanks here, such as a declared class called `none`.

    Raises:
        DataError: When the file is missing, unreadable or empty, or a column occurs twice.
    """
    frame = read_frame(path)
    names = [str(column).strip() for column in frame.columns]
    frame.columns = names
    # pandas numbers a name that occurs twice.
    needed = ("case_id", "slide_id", "label", "event", "duration_days")
    twice = [name for name in needed if name in names and f"{name}.1" in names]
    if twice:
        raise DataError(
            f"two columns are called {twice[0]}", where=str(path), fix="Rename one of them"
        )
    frame = frame.apply(lambda column: column.str.strip())
    blank = frame.apply(lambda column: column.map(lambda value: is_missing(value, keep)))
    blanked: pd.DataFrame = frame.where(~blank, None)
    return blanked


def read_cohort(
    path: Path,
    *,
    name: str = "",
    classes: Sequence[str] = (),
    label_column: str = "label",
    survival: bool = False,
    continuous: bool = False,
    drop_unlabelled: bool = False,
    columns: Columns | None = None,
    event_value: str = "",
    partial: bool = False,
) -> Cohort:
    """Read a cohort table.

    Args:
        path: csv or tsv file, one row per slide.
        name: Name of the cohort; the file's stem by default.
        classes: Allowed labels in order; empty takes them from the table, sorted, with a
            recognisably positive one last.
        label_column: Column of the label.
        survival: Read ``event`` and ``duration_days`` instead of a label.
        continuous: Read the label as a number.
        drop_unlabelled: Leave cases without a label out instead of refusing the table.
        columns: Names of the columns; they win over `label_column`.
        event_value: Value of the event column that means that it happened; 1 by default.
        partial: Accept a table without any case of some of `classes`, as a cohort to test on.

    Raises:
        DataError: On missing columns, duplicate slides, contradicting rows of one case, unknown
            or missing labels, or values that cannot be what they should be.
    """
    where = str(path)
    columns = columns or Columns(label=label_column)
    wanted = ["case_id", "slide_id", *(["event", "duration_days"] if survival else ["label"])]
    frame = columns.rename(read_table(path, classes), wanted, where)
    _refuse_blank(frame, ["case_id", "slide_id"], where)
    twice = frame["slide_id"][frame["slide_id"].duplicated()].unique()
    if len(twice):
        raise DataError(
            f"{len(twice)} slide(s) stand in more than one row: {_some(twice)}", where=where
        )
    targets = wanted[2:]
    blank = frame[targets].isna().any(axis=1)
    if blank.any() and not drop_unlabelled:
        raise DataError(
            f"{int(blank.sum())} row(s) without {' or '.join(columns.named(targets))}: "
            f"{_some(frame['slide_id'][blank])}",
            where=where,
            fix=f"Nothing is what {MISSING_WORDS} say. Remove these rows, or leave the cases out "
            "with --allow-missing",
        )
    frame = frame[~blank]
    if continuous:
        frame = spell_numbers(frame)
    else:
        frame = spell_targets(frame, classes, survival, event_value, where)
    name_like_cases(frame, where)
    cases = _cases(frame, targets, continuous, where)
    if not cases:
        raise DataError(f"no row has {' and '.join(targets)}", where=where)
    order = () if survival or continuous else _check_classes(cases, tuple(classes), where, partial)
    return Cohort(name or path.stem, cases, order, simulated=_is_simulated(frame, where))


@dataclass(frozen=True)
class Coverage:
    """How many of a table's slides have usable features.

    Attributes:
        n_slides: Slides in the table.
        missing: Slides without features.
        unusable: Slide -> what is wrong with its file.
        dropped_cases: Cases left without any slide.
        n_extra: Feature files that the table does not name.
        near: Missing slide -> the file that would be it, were its id spelt otherwise.
    """

    n_slides: int
    missing: tuple[str, ...]
    unusable: Mapping[str, str]
    dropped_cases: tuple[str, ...]
    n_extra: int
    near: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every slide of the table can be used."""
        return not self.missing and not self.unusable

    def describe(self) -> str:
        """Return the coverage as one line."""
        n_bad = len(self.missing) + len(self.unusable)
        text = f"{self.n_slides - n_bad} of {self.n_slides} slides of the table have features"
        if self.missing:
            text += f"; {len(self.missing)} missing: {_some(self.missing)}"
            text += f"; {hint}" if (hint := describe_near(self.near)) else ""
        if self.unusable:
            shown = [f"{slide} ({why})" for slide, why in self.unusable.items()]
            text += f"; {len(self.unusable)} unusable: {_some(shown)}"
        if self.dropped_cases:
            text += f"; {len(self.dropped_cases)} case(s) without any slide left"
        if self.n_extra:
            text += f"; {self.n_extra} feature file(s) not in the table"
        return text


def keep_covered(
    cohort: Cohort, available: Iterable[str], unusable: Mapping[str, str]
) -> tuple[Cohort, Coverage]:
    """Leave out slides without usable features, and cases without slides.

    Args:
        cohort: The cohort of the table.
        available: Slides with a feature file.
        unusable: Slides whose file cannot be used -> why.

    Returns:
        The cohort that remains and what was left out. A slide never stands in for another.
    """
    present = set(available)
    slides = [slide for case in cohort.cases for slide in case.slide_ids]
    missing = tuple(slide for slide in slides if slide not in present)
    bad = {slide: unusable[slide] for slide in slides if slide in unusable}
    gone = {*missing, *bad}
    kept, dropped = [], []
    for case in cohort.cases:
        left = tuple(slide for slide in case.slide_ids if slide not in gone)
        if left:
            kept.append(replace(case, slide_ids=left))
        else:
            dropped.append(case.case_id)
    extra = present.difference(slides)
    near = near_ids(missing, extra) if missing else {}
    coverage = Coverage(len(slides), missing, bad, tuple(dropped), len(extra), near)
    return replace(cohort, cases=tuple(kept)), coverage


def cohort_hash(cohort: Cohort) -> str:
    """Hash what a cohort contributes to the numbers; its name and file do not."""
    rows = [
        [
            *(case.case_id, case.slide_ids, case.label, case.event, case.duration_days, case.split),
            *(() if case.value is None else (case.value,)),
        ]
        for case in cohort.cases
    ]
    return hash_obj([cohort.classes, rows])


def _cases(
    frame: pd.DataFrame, targets: list[str], continuous: bool, where: str
) -> tuple[Case, ...]:
    import pandas as pd

    frame = frame.assign(_split=pd.Series(_splits(frame, where), frame.index, dtype=object))
    columns = [*targets, "_split", *(["site"] if "site" in frame else [])]
    cases = []
    for case_id, rows in frame.sort_values(["case_id", "slide_id"]).groupby("case_id"):
        value = {}
        for column in columns:
            distinct = rows[column].dropna().unique()
            if len(distinct) > 1 and column != "site":
                what = "split" if column == "_split" else column
                raise DataError(
                    f"case {case_id} has more than one {what}: {_some(distinct)}",
                    where=where,
                    fix="The unit is the case: all its slides must agree",
                )
            value[column] = str(distinct[0]) if len(distinct) else None
        cases.append(
            Case(
                case_id=str(case_id),
                slide_ids=tuple(rows["slide_id"]),
                site=value.get("site"),
                split=value["_split"],
                **_outcome({name: value[name] for name in targets}, continuous, case_id, where),
            )
        )
    return tuple(cases)


def _outcome(
    value: Mapping[str, str | None], continuous: bool, case_id: object, where: str
) -> dict[str, Any]:
    """The fields of a case that say what is true of it."""
    case = str(case_id)
    if "event" in value:
        days = _days(value["duration_days"], case, where)
        return {"event": _event(value["event"], case, where), "duration_days": days}
    label = value["label"]
    if not continuous:
        return {"label": label}
    number = read_number(label)
    if number is None:
        raise DataError(
            f"the target of case {case} is {label}",
            where=where,
            fix="Use a decimal point" if "," in str(label) else "Write numbers without units",
        )
    return {"value": number}


def _splits(frame: pd.DataFrame, where: str) -> list[str | None]:
    """One split per row, from ``split`` or ``holdout``."""
    if "split" in frame:
        sides = [None if v is None else str(v).lower() for v in frame["split"]]
        unknown = [v for v in frame["split"].dropna().unique() if str(v).lower() not in _SPLITS]
        if unknown:
            raise DataError(
                f"unknown value(s) of split: {_some(unknown)}",
                where=where,
                fix=f"Use {', '.join(_SPLITS)}",
            )
        _refuse_blank(frame, ["split"], where)
        return list(sides)
    if "holdout" in frame:
        flags = {v: read_flag(v) for v in frame["holdout"].unique()}
        unknown = [v for v, flag in flags.items() if flag is None]
        if unknown:
            raise DataError(
                f"unknown value(s) of holdout: {_some(unknown)}", where=where, fix="Use 0 or 1"
            )
        return ["test" if flags[v] else "train" for v in frame["holdout"]]
    return [None] * len(frame)


def _check_classes(
    cases: Sequence[Case], classes: tuple[str, ...], where: str, partial: bool = False
) -> tuple[str, ...]:
    present = sorted({str(case.label) for case in cases})
    if not classes:
        if len(present) < 2:
            raise DataError(f"only one class in the table: {present[0]}", where=where)
        return order_classes(present)
    unknown = [label for label in present if label not in classes]
    if unknown:
        raise DataError(
            f"unknown label value(s): {_some(unknown)}",
            where=where,
            fix=f"This task knows {', '.join(classes)}",
        )
    absent = [label for label in classes if label not in present]
    if absent and not partial:
        raise DataError(f"no case is labelled {_some(absent)}", where=where)
    return classes


def _is_simulated(frame: pd.DataFrame, where: str) -> bool:
    if "simulated" not in frame:
        return False
    flags = {value: read_flag(value) for value in frame["simulated"].dropna().unique()}
    if None in flags.values():
        raise DataError(f"column simulated holds {_some(sorted(flags))}", where=where)
    return any(flags.values())


def _event(value: str | None, case_id: str, where: str) -> bool:
    happened = None if value is None else read_flag(value)
    if happened is None:
        raise DataError(
            f"event of case {case_id} is {value}",
            where=where,
            fix="Use 1 or 0, or say which value means that it happened with --event-value",
        )
    return happened


def _days(value: str | None, case_id: str, where: str) -> float:
    try:
        days = float(str(value))
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        fix = "Use a decimal point" if "," in str(value) else "Days are numbers from 0 on"
        raise DataError(f"duration_days of case {case_id} is {value}", where=where, fix=fix)
    return days


def _refuse_blank(frame: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    for column in columns:
        blank = int(frame[column].isna().sum())
        if blank:
            raise DataError(f"{blank} row(s) without {column}", where=where)


def _some(values: Iterable[object], limit: int = 5) -> str:
    """Name the first few values and count the rest."""
    names = [str(value) for value in values]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
