"""Join labelled cases with slides into a cohort table, and count what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_bench.cohorts.labels.barcodes import parse_barcode, site_of
from spade_bench.cohorts.labels.labelling import Labelled
from spade_bench.cohorts.labels.recipes import Recipe
from spade_bench.errors import DataError
from spade_bench.files import atomic_path

__all__ = ["CohortTable", "Count", "build_table", "count_labels", "write_table"]


@dataclass(frozen=True)
class Count:
    """One line of the account of what was kept and what was not.

    Attributes:
        step: `labels`, `slides` or `table`.
        what: What is counted.
        n: How many.
        unit: `rows`, `cases` or `slides`.
        excluded: Whether these were left out.
    """

    step: str
    what: str
    n: int
    unit: str
    excluded: bool = False


@dataclass(frozen=True)
class CohortTable:
    """A finished table.

    Attributes:
        columns: Names of the columns.
        rows: One row per slide, sorted by case and slide.
        counts: The account.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    counts: tuple[Count, ...]


def count_labels(labelled: Labelled, recipe: Recipe) -> list[Count]:
    """The account of the label tables, before any slide."""
    counts = [
        Count("labels", what.removeprefix("rows "), n, "rows", excluded=True)
        for what, n in sorted(labelled.filtered.items())
    ]
    for reason, n in labelled.reasons.most_common():
        counts.append(Count("labels", reason, n, "cases", excluded=True))
    counts += _classes(labelled, recipe, labelled.cases, "labels")
    return counts


def build_table(
    labelled: Labelled,
    recipe: Recipe,
    slides: Sequence[str],
    *,
    sample_type: str = "01",
    slide_type: str = "DX",
) -> CohortTable:
    """Join cases with slides.

    Args:
        labelled: Cases with their labels.
        recipe: The recipe that made them.
        slides: Slide ids.
        sample_type: TCGA sample type to keep, `01` for primary tumours.
        slide_type: Kind of slide to keep, `DX` for diagnostic ones; empty keeps every kind.

    Raises:
        DataError: When no labelled case has a slide.
    """
    left_out: Counter[str] = Counter()
    kept: list[tuple[str, str]] = []
    for slide in slides:
        barcode = parse_barcode(slide)
        if barcode is None:
            left_out["no TCGA slide barcode"] += 1
        elif slide_type and barcode.kind != slide_type:
            left_out[f"slide type {barcode.kind}, not {slide_type}"] += 1
        elif barcode.sample_type != sample_type:
            left_out[f"sample type {barcode.sample_type}, not {sample_type}"] += 1
        elif barcode.case_id in labelled.dropped:
            left_out[f"case without label ({labelled.dropped[barcode.case_id]})"] += 1
        elif barcode.case_id not in labelled.cases:
            left_out["case not among the labels"] += 1
        else:
            kept.append((barcode.case_id, slide))
    cases = {case for case, _ in kept}
    if not cases:
        raise DataError(
            f"none of {len(slides)} slides belongs to a labelled case",
            where=recipe.name,
            fix="Slides must be named by their TCGA barcode",
        )
    counts = [Count("slides", "given", len(slides), "slides")]
    for what, n in left_out.most_common():
        counts.append(Count("slides", what, n, "slides", excluded=True))
    without = len(labelled.cases) - len(cases)
    counts.append(Count("table", "labelled, but without a slide", without, "cases", excluded=True))
    counts += _classes(labelled, recipe, cases, "table")
    counts.append(Count("table", "slides", len(kept), "slides"))
    several = sum(n > 1 for n in Counter(case for case, _ in kept).values())
    counts.append(Count("table", "cases with several slides", several, "cases"))
    target = ("label",) if labelled.label else ("event", "duration_days")
    return CohortTable(
        columns=("case_id", "slide_id", "cohort", "site", *target),
        rows=tuple(_row(labelled, recipe, case, slide) for case, slide in sorted(kept)),
        counts=tuple(counts),
    )


def write_table(path: Path, table: CohortTable) -> None:
    """Write a cohort table as csv, atomically."""
    import csv

    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(table.rows)


def _row(labelled: Labelled, recipe: Recipe, case: str, slide: str) -> tuple[Any, ...]:
    kind = labelled.cancer_type.get(case, "".join(recipe.types))
    if labelled.label:
        return (case, slide, kind, site_of(case), labelled.label[case])
    event, days = labelled.survival[case]
    return (case, slide, kind, site_of(case), int(event), days)


def _classes(labelled: Labelled, recipe: Recipe, cases: Iterable[str], step: str) -> list[Count]:
    if labelled.label:
        counted = Counter(labelled.label[case] for case in cases)
        return [Count(step, f"label {name}", counted[name], "cases") for name in recipe.classes]
    events = [labelled.survival[case][0] for case in cases]
    return [
        Count(step, "with time and event status", len(events), "cases"),
        Count(step, "of these with the event", sum(events), "cases"),
    ]
