"""The cohort of a task, kept beside the results: its cases, and who was left out and why.

Results name cases and nothing else. Their slides and sites, by which tables of sites are made and
maps of slides are found, and the cases that never came to a split stand here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError
from spade_bench.files import file_name, hash_obj, read_sealed, write_sealed

__all__ = ["LeftOut", "StoredCase", "StoredCohort", "read_cohorts", "write_cohort"]

_FOLDER = "cohorts"


@dataclass(frozen=True)
class StoredCase:
    """A case that was split.

    Attributes:
        case_id: Name of the case.
        slide_ids: Its slides with features.
        site: Contributing hospital; None where the table does not say.
    """

    case_id: str
    slide_ids: tuple[str, ...]
    site: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """A case of the table that was not split, or a slide of one that was.

    Attributes:
        case_id: Name of the case.
        why: Reason, in words that follow `left out:`.
        slide_id: The slide, where the case itself stayed; else empty.
    """

    case_id: str
    why: str
    slide_id: str = ""


@dataclass(frozen=True)
class StoredCohort:
    """The cohort of a task as a run split it.

    Attributes:
        task: Name of the task.
        cohort: Its hash, as rows carry it in `inputs`.
        source: Names of the files that cases came from, without their folders.
        cases: Cases that were split.
        left_out: Cases and slides of the table that were not.
    """

    task: str
    cohort: str
    source: tuple[str, ...]
    cases: tuple[StoredCase, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def sites(self) -> dict[str, str]:
        """Site of each case that has one."""
        return {case.case_id: case.site for case in self.cases if case.site is not None}


def write_cohort(out: Path, cohort: StoredCohort) -> Path:
    """Write a cohort; equal ones are one file, so all shards of a run write the same.

    Args:
        out: Folder of the results.
        cohort: The cohort.
    """
    content = asdict(cohort)
    path = out / _FOLDER / f"{file_name(cohort.task)}-{hash_obj(content)[:8]}.json"
    if not path.exists():
        write_sealed(path, content)
    return path


def read_cohorts(out: Path, problems: list[str]) -> list[StoredCohort]:
    """Read the cohorts of a folder of results; folders of older versions have none.

    Args:
        out: The folder.
        problems: Takes a sentence for each file that cannot be read.
    """
    cohorts = []
    for path in sorted((out / _FOLDER).glob("*.json")):
        try:
            cohorts.append(_cohort(read_sealed(path)))
        except DataError as error:
            problems.append(str(error))
        except (KeyError, TypeError, AttributeError, ValueError):
            problems.append(f"{path}: is not a cohort. Remove it")
    return cohorts


def _cohort(content: Mapping[str, Any]) -> StoredCohort:
    return StoredCohort(
        task=str(content["task"]),
        cohort=str(content["cohort"]),
        source=_texts(content["source"]),
        cases=tuple(
            StoredCase(
                str(case["case_id"]),
                _texts(case["slide_ids"]),
                None if case["site"] is None else str(case["site"]),
            )
            for case in content["cases"]
        ),
        left_out=tuple(
            LeftOut(str(one["case_id"]), str(one["why"]), str(one["slide_id"]))
            for one in content["left_out"]
        ),
    )


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(str, values))
