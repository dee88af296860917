"""What a run set out to do, kept beside the results, so that a report can tell what is absent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spade_bench.errors import DataError
from spade_bench.files import file_name, hash_obj, read_sealed, write_sealed

__all__ = ["Plan", "absent_cells", "read_plans", "write_plan"]

_FOLDER = "plans"


def write_plan(out: Path, task: str, cells: Mapping[str, Sequence[str]]) -> Path:
    """Write down the cells of a task that the whole run has, whatever shard of it runs here.

    Equal plans are one file, so all shards of a run write the same.

    Args:
        out: Folder of the results.
        task: Name of the task.
        cells: Run ids by `ENCODER, HEAD`.
    """
    content = {"task": task, "cells": {name: list(ids) for name, ids in cells.items()}}
    path = out / _FOLDER / f"{file_name(task)}-{hash_obj(content)[:8]}.json"
    if not path.exists():
        write_sealed(path, content)
    return path


@dataclass(frozen=True)
class Plan:
    """The cells that a run set out to do for one task.

    Attributes:
        task: Name of the task.
        cells: Run ids by `ENCODER, HEAD`.
        path: Where it is stored.
    """

    task: str
    cells: Mapping[str, Sequence[str]]
    path: Path


def read_plans(out: Path, problems: list[str]) -> list[Plan]:
    """Read the plans of a folder of results.

    Args:
        out: The folder.
        problems: Takes a sentence for each plan that cannot be read.
    """
    plans = []
    for path in sorted((out / _FOLDER).glob("*.json")):
        try:
            content = read_sealed(path)
            cells = {str(name): [str(i) for i in ids] for name, ids in content["cells"].items()}
            plans.append(Plan(str(content["task"]), cells, path))
        except DataError as error:
            problems.append(str(error))
        except (KeyError, TypeError, AttributeError):
            problems.append(f"{path}: is not a plan. Remove it")
    return plans


def absent_cells(out: Path, there: Collection[str], problems: list[str]) -> list[str]:
    """Say for each plan with absent cells how many they are, and of which encoders.

    Args:
        out: Folder of the results.
        there: Run ids of the rows, failed ones included.
        problems: Takes a sentence for each plan that cannot be read.
    """
    sentences = []
    for plan in read_plans(out, problems):
        absent = {name: sum(i not in there for i in ids) for name, ids in plan.cells.items()}
        lacking = [name for name, count in absent.items() if count]
        if lacking:
            total = sum(map(len, plan.cells.values()))
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            sentences.append(
                f"{plan.task}: {sum(absent.values())} of {total} planned cells are absent "
                f"({'; '.join(lacking[:3])}{more}): another shard has them, or a run was "
                f"interrupted. Run it again, or remove {plan.path} if they are not wanted"
            )
    return sentences
