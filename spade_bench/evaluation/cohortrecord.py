"""Keeps the cohort of a task beside the results: who was split, and who was left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spade_bench.errors import printable
from spade_bench.evaluation.request import TaskRequest
from spade_bench.evaluation.variants import Variant
from spade_bench.features.casebags import BagInfo
from spade_bench.results.cohortfiles import LeftOut, StoredCase, StoredCohort, write_cohort
from spade_bench.types import Case, Cohort

__all__ = ["store_cohort"]


def store_cohort(
    out: Path,
    task: TaskRequest,
    *,
    digest: str,
    whole: Cohort,
    kept: Cohort,
    rows: Sequence[Variant],
    infos: Mapping[Path, BagInfo],
) -> None:
    """Write down the cases that were split, and those of the table that were not.

    Args:
        out: Folder of the results.
        task: The task.
        digest: Hash of the cohort that was split.
        whole: The cases that have what the task asks of them.
        kept: Those of them that every encoder and control covers.
        rows: Encoders and controls, with the files they start from.
        infos: What was found in each feature file.
    """
    tables = [path for path in (task.table, task.test_table) if path is not None]
    left_out = [] if task.published else _not_usable(tables, task, whole)
    slides = {case.case_id: set(case.slide_ids) for case in kept.cases}
    for case in whole.cases:
        left_out += _without_features(case, slides.get(case.case_id, set()), rows, infos)
    source = [task.published] if task.published is not None else tables
    write_cohort(
        out,
        StoredCohort(
            task=task.card.name,
            cohort=digest,
            source=tuple(printable(path.name) for path in source),
            cases=tuple(StoredCase(c.case_id, c.slide_ids, c.site) for c in kept.cases),
            left_out=tuple(left_out),
        ),
    )


def _not_usable(tables: Sequence[Path], task: TaskRequest, whole: Cohort) -> list[LeftOut]:
    """Cases of the tables that the task cannot use, for want of a label, of time or of a split."""
    from spade_bench.cohorts.columns import columns_of
    from spade_bench.cohorts.tables import read_table
    from spade_bench.registry import kinds

    # By slide, because slides are the cases where patients would stand on both sides.
    known = {slide for case in whole.cases for slide in case.slide_ids}
    survival = kinds.get(task.card.kind).card.head_kind == "survival"
    targets = ["event", "duration_days"] if survival else ["label"]
    out: dict[str, LeftOut] = {}
    for path in tables:
        needed = ["case_id", "slide_id", *targets]
        frame = read_table(path, task.card.classes)
        frame = columns_of(task.card).rename(frame, needed, str(path), strict=False)
        if not set(needed) <= set(frame.columns):
            continue
        there = frame[targets].notna().all(axis=1)
        for case, slide, has_target in zip(frame["case_id"], frame["slide_id"], there, strict=True):
            if case is not None and slide not in known:
                why = _why(has_target, survival, targets, task.splits is not None)
                out[str(case)] = LeftOut(str(case), why)
    return list(out.values())


def _why(has_target: bool, survival: bool, targets: Sequence[str], split: bool) -> str:
    if not has_target:
        return f"no {' or '.join(targets)}".replace("duration_days", "duration")
    if split:
        return "in none of the given splits"
    return "a duration of zero days" if survival else "not usable for this task"


def _without_features(
    case: Case, kept: set[str], rows: Sequence[Variant], infos: Mapping[Path, BagInfo]
) -> list[LeftOut]:
    """The slides of a case that some encoder has no usable features of; the case if none stays."""
    gone = [slide for slide in case.slide_ids if slide not in kept]
    if not gone:
        return []
    reasons = {slide: _reason(slide, rows, infos) for slide in gone}
    if not kept:
        return [LeftOut(case.case_id, "; ".join(dict.fromkeys(reasons.values())))]
    return [LeftOut(case.case_id, why, slide) for slide, why in reasons.items()]


def _reason(slide: str, rows: Sequence[Variant], infos: Mapping[Path, BagInfo]) -> str:
    """Why a slide could not be used, by the encoders that lack it."""
    missing: list[str] = []
    unusable: dict[str, None] = {}
    for row in rows:
        if slide not in row.files:
            missing.append(row.base or row.label)
        elif (info := infos.get(row.files[slide])) is not None and info.problem:
            unusable[info.problem] = None
    parts = [f"no features of {', '.join(dict.fromkeys(missing))}"] if missing else []
    return "; ".join([*parts, *(f"unusable features ({problem})" for problem in unusable)])
