"""Tasks and splits that others published: Patho-Bench folders, CLAM split files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.cohorts.columns import Columns, columns_of
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.settingchecks import check_published
from spade_bench.types import Case, Cohort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spade_bench.cohorts.published.splits import PublishedSplits
    from spade_bench.evaluation.request import EvaluationRequest, TaskRequest

__all__ = ["read_published"]


def read_published(request: EvaluationRequest, task: TaskRequest) -> PublishedSplits:
    """Read the published splits of a task.

    Raises:
        DataError: When a case is on both sides of a split and this was not allowed, or files are
            not as their format has them.
        UserError: When the protocol asked for is not the one of the splits.
    """
    from spade_bench.cohorts.published import splits as readers

    allow, columns = request.settings.allow_leaky_splits, columns_of(task.card)
    if task.published is None:
        found = readers.read_clam(
            _given(task.splits),
            task.table,
            columns=columns,
            event_value=task.card.event_value,
            match_ids=request.settings.match_ids,
            classes=task.card.classes,
            survival=task.card.kind == "survival",
            unit="slide" if task.card.unit == "slide" else "case",
            allow_leaky=allow,
        )
    elif "==" in task.published.name:
        found = readers.read_patho_bench_pair(
            task.published.parent, task.published.name, allow_leaky=allow, columns=columns
        )
    elif request.settings.protocol == "few-shot":
        found = _published_shots(request, task.published, columns)
    else:
        found = readers.read_patho_bench(task.published, allow_leaky=allow, columns=columns)
    protocol = found.episodes[0].protocol
    if request.settings.protocol not in {"", protocol}:
        raise UserError(
            f"the published splits are of protocol {protocol}, not {request.settings.protocol}",
            where=task.card.name,
            fix=f"Leave --protocol out, or give --protocol {protocol}",
        )
    check_published(request, protocol)
    if task.card.classes and set(found.cohort.classes) != set(task.card.classes):
        raise DataError(
            f"classes are {', '.join(found.cohort.classes)}",
            where=task.card.name,
            fix=f"This task knows {', '.join(task.card.classes)}",
        )
    episodes = tuple(replace(episode, seed=request.settings.seed) for episode in found.episodes)
    return replace(found, episodes=episodes)


def _published_shots(request: EvaluationRequest, folder: Path, columns: Columns) -> PublishedSplits:
    """Published few-shot episodes: `k=1.tsv`, `k=2.tsv`, ..., as many as were asked for."""
    from spade_bench.cohorts.published.splits import read_patho_bench

    there = [k for k in request.settings.shots if (folder / f"k={k}.tsv").is_file()]
    if not there:
        raise DataError(
            f"no k={request.settings.shots[0]}.tsv: few-shot splits were not published",
            where=str(folder),
            fix="Leave --protocol out to run the published folds",
        )
    parts = [
        read_patho_bench(
            folder, shots=str(k), allow_leaky=request.settings.allow_leaky_splits, columns=columns
        )
        for k in there
    ]
    if len({part.unit for part in parts}) > 1:
        raise DataError("the unit differs between the files of shots", where=str(folder))
    cases: dict[str, Case] = {}
    for part in parts:
        for case in part.cohort.cases:
            if cases.setdefault(case.case_id, case) != case:
                raise DataError(f"case {case.case_id} differs between files", where=str(folder))
    classes = max((part.cohort.classes for part in parts), key=len)
    ordered = tuple(cases[case_id] for case_id in sorted(cases))
    return replace(
        parts[0],
        cohort=Cohort(parts[0].cohort.name, ordered, classes),
        episodes=tuple(episode for part in parts for episode in part.episodes),
        patient_of={unit: case for part in parts for unit, case in part.patient_of.items()},
        flags=_union([part.flags for part in parts]),
    )


def _union(flags: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flag for own in flags for flag in own))


def _given(path: Path | None) -> Path:
    if path is None:  # pragma: no cover - the caller asks only where there are splits
        raise AssertionError
    return path
