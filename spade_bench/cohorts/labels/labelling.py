"""Labels of cases from downloaded tables by a recipe, with every exclusion counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spade_bench.cohorts.labels.downloads import (
    CASE,
    SAMPLE_TYPE,
    STUDY,
    SourceTable,
    column_key,
    expand_study,
    read_source,
)
from spade_bench.cohorts.labels.mutations import is_case_list, read_case_list, widen
from spade_bench.cohorts.labels.recipes import Field, Recipe, Rule
from spade_bench.cohorts.labels.verdicts import Verdict, judge
from spade_bench.errors import DataError, name_some

__all__ = [
    "Labelled",
    "Sources",
    "general_notes",
    "label_cases",
    "read_sources",
    "redacted_cases",
    "rows_of",
]


@dataclass(frozen=True)
class Sources:
    """The downloaded tables.

    Attributes:
        tables: In the order given.
        sequenced: Samples of a list of sequenced samples; empty without one.
    """

    tables: tuple[SourceTable, ...]
    sequenced: tuple[str, ...] = ()

    def find(self, field: Field, what: str) -> tuple[SourceTable, str]:
        """The first table that has the field, and the column's key.

        Raises:
            DataError: When none has it, naming the columns looked for.
        """
        for table in self.tables:
            if field.gene and "VARIANT_CLASSIFICATION" in table.columns:
                return widen(table, field.gene, self.sequenced), field.gene
            key = table.find(field.columns)
            if key is not None:
                return table, key
        raise DataError(
            f"no given table has a column {' or '.join(field.columns)} (for {what})",
            where=name_some([table.path.name for table in self.tables]),
            fix="Add the table that has it with --labels, or choose another --rule",
        )


@dataclass(frozen=True)
class Labelled:
    """Cases with a label, and the others with the reason.

    Attributes:
        label: Case -> class; empty for survival.
        survival: Case -> (event, days); empty otherwise.
        cancer_type: Case -> cancer type, where a table says it.
        dropped: Case -> why it has no label.
        filtered: What was passed over before any label was read -> number of rows.
        notes: Sentences on how conflicts were resolved.
    """

    label: Mapping[str, str]
    survival: Mapping[str, tuple[bool, float]]
    cancer_type: Mapping[str, str]
    dropped: Mapping[str, str]
    filtered: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def cases(self) -> set[str]:
        """Cases with a label."""
        return set(self.label) or set(self.survival)

    @property
    def reasons(self) -> Counter[str]:
        """Reason -> number of cases without a label."""
        return Counter(self.dropped.values())


def read_sources(paths: Sequence[Path], case_column: str = "") -> Sources:
    """Read tables and lists of sequenced samples, told apart by content.

    Args:
        paths: The downloads.
        case_column: Column of the tables that holds the case, where it is none of the known ones.

    Raises:
        DataError: When a file cannot be read or no table is among them.
    """
    lists = [path for path in paths if is_case_list(path)]
    tables = tuple(read_source(path, case_column) for path in paths if path not in lists)
    if case_column and not any(column_key(case_column) in table.columns for table in tables):
        raise DataError(
            f"no given table has a column '{case_column}'",
            where="--case-column",
            fix=f"The first has {name_some((tables[0].columns if tables else {}).values(), 12)}",
        )
    if not tables:
        raise DataError("no table of labels given", where="--labels")
    return Sources(tables, tuple(sample for path in lists for sample in read_case_list(path)))


def label_cases(
    sources: Sources,
    recipe: Recipe,
    rule: Rule,
    *,
    sample_type: str = "01",
    variant: str = "",
    keep_redacted: bool = False,
) -> Labelled:
    """Make the labels of a classification task.

    Args:
        sources: The downloaded tables.
        recipe: What the columns mean.
        rule: How fields become a label.
        sample_type: TCGA sample type whose rows count; tables without samples are unaffected.
        variant: Count only this protein change as mutant.
        keep_redacted: Keep cases that TCGA redacted.

    Raises:
        DataError: On a missing column or an unknown value.
    """
    filtered: Counter[str] = Counter()
    types: dict[str, str] = {}
    verdicts: list[dict[str, Verdict]] = []
    for name in rule.fields:
        field = recipe.fields[name]
        table, key = sources.find(field, name)
        where = f"{table.path.name}, column {table.columns[key]}"
        by_case: dict[str, list[Verdict]] = {}
        rows = rows_of(
            table,
            key,
            wanted=recipe.types,
            sample_type=sample_type,
            filtered=filtered,
            types=types,
        )
        for case, value in rows:
            verdict = judge(field, value, recipe.classes, variant=variant, where=where)
            by_case.setdefault(case, []).append(verdict)
        verdicts.append({case: _one(several) for case, several in by_case.items()})
    redacted = set() if keep_redacted else redacted_cases(sources)
    label: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for case in sorted(set().union(*verdicts)):
        verdict = _resolve([field.get(case) for field in verdicts], rule)
        if case in redacted:
            dropped[case] = "redacted by TCGA"
        elif verdict.label is None:
            dropped[case] = verdict.reason
        else:
            label[case] = verdict.label
    notes = _notes(rule, verdicts, label) + general_notes(sources)
    return Labelled(label, {}, types, dropped, dict(filtered), notes)


def rows_of(
    table: SourceTable,
    key: str,
    *,
    wanted: Sequence[str],
    sample_type: str,
    filtered: Counter[str],
    types: dict[str, str],
) -> list[tuple[str, str | None]]:
    """Case and value of the rows of the wanted cancer types and sample type.

    Args:
        table: The table.
        key: Column of the value.
        wanted: Cancer types.
        sample_type: Sample type; rows that name none are kept.
        filtered: Counts what is passed over; updated.
        types: Case -> cancer type; updated.
    """
    kept = []
    frame = table.frame
    columns = [frame[CASE], frame[SAMPLE_TYPE], frame[STUDY], frame[key]]
    for case, kind, study, value in zip(*columns, strict=True):
        if study is not None and not set(expand_study(study)) & set(wanted):
            filtered["rows of other cancer types"] += 1
        elif kind is not None and kind != sample_type:
            filtered[f"rows of sample type {kind}"] += 1
        else:
            if study in wanted:
                types.setdefault(str(case), str(study))
            kept.append((str(case), value))
    if table.n_foreign:
        filtered[f"rows of {table.path.name} without a TCGA barcode"] = table.n_foreign
    return kept


def general_notes(sources: Sources) -> tuple[str, ...]:
    """What the tables do not say and a reader should know."""
    notes = []
    if not any("REDACTION" in table.columns for table in sources.tables):
        notes.append("no table says which cases TCGA redacted; add TCGA-CDR to drop them")
    for table in sources.tables:
        if table.frame[STUDY].isna().all():
            notes.append(f"{table.path.name} does not name cancer types: all its cases are taken")
    return tuple(notes)


def redacted_cases(sources: Sources) -> set[str]:
    """Cases that a table marks as redacted."""
    redacted: set[str] = set()
    for table in sources.tables:
        if "REDACTION" in table.columns:
            marked = table.frame["REDACTION"].fillna("").str.lower() == "redacted"
            redacted |= set(table.frame[CASE][marked])
    return redacted


def _one(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a case with several rows."""
    labels = {verdict.label for verdict in verdicts if verdict.label is not None}
    if len(labels) > 1:
        return Verdict(None, "samples of the case disagree")
    return next((v for v in verdicts if v.label is not None), verdicts[0])


def _resolve(verdicts: Sequence[Verdict | None], rule: Rule) -> Verdict:
    known = [verdict or Verdict(None, "no value given") for verdict in verdicts]
    if rule.resolve == "first":
        decided = [verdict for verdict in known if verdict.label is not None]
        # The last field is the fallback: why it does not decide is why nothing does, unless it
        # is merely blank and an earlier one said something.
        informed = [verdict for verdict in reversed(known) if verdict.reason != "no value given"]
        return decided[0] if decided else (informed or known)[0]
    undecided = [verdict for verdict in known if verdict.label is None]
    if undecided:
        return undecided[0]
    if len({verdict.label for verdict in known}) > 1:
        return Verdict(None, f"{' and '.join(rule.fields)} disagree")
    return known[0]


def _notes(
    rule: Rule, verdicts: Sequence[Mapping[str, Verdict]], label: Mapping[str, str]
) -> tuple[str, ...]:
    if len(rule.fields) < 2 or rule.resolve != "first":
        return ()
    decided_by: Counter[str] = Counter()
    rescued: Counter[str] = Counter()
    conflicts = 0
    for case in label:
        judged = [field.get(case, Verdict(None, "no value given")) for field in verdicts]
        by = next(i for i, verdict in enumerate(judged) if verdict.label is not None)
        decided_by[rule.fields[by]] += 1
        conflicts += len({verdict.label for verdict in judged if verdict.label is not None}) > 1
        for name, other in zip(rule.fields, judged, strict=True):
            if other.label is None and other.reason != "no value given":
                rescued[f"{name} {other.reason}, decided by {rule.fields[by]}"] += 1
    counts = ", ".join(f"{name} {decided_by[name]}" for name in rule.fields)
    notes = [f"decided by: {counts}"]
    notes += [f"{what}: {n} case(s)" for what, n in rescued.most_common()]
    if conflicts:
        notes.append(
            f"{' and '.join(rule.fields)} contradict each other in {conflicts} case(s); "
            f"{rule.fields[0]} was taken"
        )
    return tuple(notes)
