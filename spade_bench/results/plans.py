"""What a run set out to do, kept beside the results, so that a report can tell what is absent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from spade_bench.errors import DataError
from spade_bench.files import file_name, hash_obj, read_sealed, write_sealed

__all__ = ["absent_cells", "write_plan"]

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


def absent_cells(out: Path, there: Collection[str], problems: list[str]) -> list[str]:
    """Say for each plan with absent cells how many they are, and of which encoders.

    Args:
        out: Folder of the results.
        there: Run ids of the rows, failed ones included.
        problems: Takes a sentence for each plan that cannot be read.
    """
    sentences = []
    for path in sorted((out / _FOLDER).glob("*.json")):
        try:
            plan = read_sealed(path)
            cells = {str(name): [str(i) for i in ids] for name, ids in plan["cells"].items()}
            task = str(plan["task"])
        except DataError as error:
            problems.append(str(error))
            continue
        except (KeyError, TypeError, AttributeError):
            problems.append(f"{path}: is not a plan. Remove it")
            continue
        absent = {name: sum(i not in there for i in ids) for name, ids in cells.items()}
        lacking = [name for name, count in absent.items() if count]
        if lacking:
            total = sum(map(len, cells.values()))
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            sentences.append(
                f"{task}: {sum(absent.values())} of {total} planned cells are absent "
                f"({'; '.join(lacking[:3])}{more}): another shard has them, or a run was "
                f"interrupted. Run it again, or remove {path} if they are not wanted"
            )
    return sentences
