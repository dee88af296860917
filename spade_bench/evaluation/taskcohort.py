"""Which cases a task has, and episodes where others published them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.checks.refuse import refuse_unsound
from spade_bench.cohorts.classorder import with_positive
from spade_bench.cohorts.episodes import episode_hash
from spade_bench.console import warn
from spade_bench.errors import DataError, name_some
from spade_bench.files import hash_obj
from spade_bench.types import Case, Cohort, Episode

if TYPE_CHECKING:
    from pathlib import Path

    from spade_bench.evaluation.request import EvaluationRequest, TaskRequest
    from spade_bench.tasks.kind import TaskKind

__all__ = ["TaskCases", "draw", "load_cases"]


@dataclass(frozen=True)
class TaskCases:
    """Cases of a task.

    Attributes:
        cohort: All of them.
        published: Episodes that came with them; None when they are to be drawn.
        flags: Flags of every row.
        tested: Slides of another cohort to test on, whose features may lie elsewhere.
        patient_of: Slide -> patient where slides are the units; empty where patients are.
    """

    cohort: Cohort
    published: tuple[Episode, ...] | None = None
    flags: tuple[str, ...] = ()
    tested: frozenset[str] = frozenset()
    patient_of: Mapping[str, str] = field(default_factory=dict)


def load_cases(request: EvaluationRequest, task: TaskRequest, kind: TaskKind) -> TaskCases:
    """Read the table or tables of a task, or the splits that someone published.

    Raises:
        DataError: When they are unsound, or leak and this was not allowed.
    """
    if task.published is not None or task.splits is not None:
        from spade_bench.evaluation.publishedtasks import read_published

        splits = read_published(request, task)
        checked = kind.check(splits.cohort, str(task.splits or task.published))
        checked = _positive(checked, request, task)
        if task.splits is not None:
            checked = replace(checked, simulated=_is_simulated(task.table))
        refuse_unsound(checked, task.card, str(task.splits or task.published))
        outside = {id_ for e in splits.episodes if e.protocol == "external" for id_ in e.test}
        tested = _slides(case for case in checked.cases if case.case_id in outside)
        patient_of = splits.patient_of if splits.unit == "slide" else {}
        return TaskCases(checked, splits.episodes, splits.flags, tested, patient_of)
    cohort = kind.cohort(task.card, task.table, drop_unlabelled=request.settings.allow_missing)
    refuse_unsound(cohort, task.card, str(task.table))
    cohort = _positive(cohort, request, task)
    if task.test_table is None:
        return TaskCases(cohort)
    # Classes are the training cohort's, so that columns of predictions mean the same.
    card = replace(task.card, classes=cohort.classes)
    where = str(task.test_table)
    other = kind.cohort(card, task.test_table, request.settings.allow_missing, partial=True)
    refuse_unsound(other, task.card, where, partial=True)
    both = _two_cohorts(cohort, other, request.settings.allow_leaky_splits, where)
    return replace(both, flags=(*both.flags, *_absent_classes(other, where)))


def draw(
    request: EvaluationRequest, kind: TaskKind, cases: TaskCases, cohort: Cohort
) -> tuple[list[Episode], list[str], dict[str, Any]]:
    """Return the episodes over the covered cohort, notes on them, and what determines them.

    Raises:
        UserError: When the protocol or its settings do not fit the cases.
    """
    if cases.published is not None:
        episodes = _covered(cases.published, cohort)
        hashes = hash_obj([episode_hash(episode) for episode in episodes])
        determined: dict[str, Any] = {"published": hashes, "seed": request.settings.seed}
        shots = {episode.k_shot for episode in episodes} - {None}
        if shots:  # the files of two numbers of shots may hold the same cases
            determined["shots"] = shots
        folds = f"{len(episodes)} published split(s)"
        return episodes, [folds, *cases.flags], determined
    protocol = request.settings.protocol or ("external" if cases.tested else "few-shot")
    settings: dict[str, Any] = {"seed": request.settings.seed}
    if protocol == "few-shot":
        settings = {"shots": request.settings.shots, "draws": request.settings.draws, **settings}
    elif protocol != "leave-site-out":
        settings["repeats"] = request.settings.repeats
    if protocol == "cv":
        settings["folds"] = request.settings.folds
        settings["holdout"] = request.settings.holdout
        settings["group_by_site"] = request.settings.group_by_site
        if request.settings.preserve_sites:  # older folders know of no such setting
            settings["preserve_sites"] = True
    return *kind.episodes(cohort, protocol, settings), settings


def _positive(cohort: Cohort, request: EvaluationRequest, task: TaskRequest) -> Cohort:
    if request.settings.positive is None:
        return cohort
    where = f"task {task.card.name}"
    return replace(cohort, classes=with_positive(cohort.classes, request.settings.positive, where))


def _two_cohorts(train: Cohort, test: Cohort, allow_leaky: bool, where: str) -> TaskCases:
    slides = sorted(_slides(train.cases) & _slides(test.cases))
    if slides:
        raise DataError(f"slides in both tables: {name_some(slides)}", where=where)
    flags: tuple[str, ...] = ()
    patient_of: dict[str, str] = {}
    both = sorted({c.case_id for c in train.cases} & {c.case_id for c in test.cases})
    if both and not allow_leaky:
        raise DataError(
            f"{len(both)} case(s) train and test: {name_some(both)}",
            where=where,
            fix="Remove them from one table, or accept and flag it with --allow-leaky-splits",
        )
    if both:
        # A case cannot stand on both sides, so slides become the units.
        patient_of = {s: c.case_id for c in (*train.cases, *test.cases) for s in c.slide_ids}
        train, test = _as_slides(train), _as_slides(test)
        flags = ("leaky-splits", "unit:slide")
    cases = [replace(case, split="train") for case in train.cases]
    cases += [replace(case, split="test") for case in test.cases]
    ordered = tuple(sorted(cases, key=lambda case: case.case_id))
    simulated = train.simulated or test.simulated
    cohort = replace(train, cases=ordered, simulated=simulated)
    return TaskCases(cohort, None, flags, _slides(test.cases), patient_of)


def _absent_classes(other: Cohort, where: str) -> list[str]:
    """Flags of the classes that a cohort to test on lacks, and a word to the person."""
    there = {case.label for case in other.cases}
    absent = [name for name in other.classes if name not in there]
    if absent:
        warn(f"{where}: no case is labelled {', '.join(absent)}; metrics that need it are left out")
    return [f"missing-class:{name}" for name in absent]


def _is_simulated(table: Path) -> bool:
    from spade_bench.cohorts.spelling import read_flag
    from spade_bench.cohorts.tables import read_table

    frame = read_table(table)
    return "simulated" in frame and any(map(read_flag, frame["simulated"]))


def _as_slides(cohort: Cohort) -> Cohort:
    units = [
        replace(case, case_id=slide, slide_ids=(slide,))
        for case in cohort.cases
        for slide in case.slide_ids
    ]
    return replace(cohort, cases=tuple(units))


def _slides(cases: Iterable[Case]) -> frozenset[str]:
    return frozenset(slide for case in cases for slide in case.slide_ids)


def _covered(episodes: Iterable[Episode], cohort: Cohort) -> list[Episode]:
    """Published episodes without the cases that were left out."""
    there = {case.case_id for case in cohort.cases}

    def only(ids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(case for case in ids if case in there)

    kept = [replace(e, train=only(e.train), test=only(e.test), tune=only(e.tune)) for e in episodes]
    for episode in kept:
        if not episode.train or not episode.test:
            raise DataError(f"fold {episode.fold} has an empty side", where=cohort.name)
    return kept
