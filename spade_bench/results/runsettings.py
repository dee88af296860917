"""What runs were asked for: the files `configs/run-*.json` beside their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError
from spade_bench.files import read_json

__all__ = ["folder_names", "read_run_settings", "stored_settings"]


def folder_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, with the one above it where two would be the same."""
    names = [path.resolve().name for path in paths]
    return [
        name if names.count(name) == 1 else f"{path.resolve().parent.name}/{name}"
        for path, name in zip(paths, names, strict=True)
    ]


def read_run_settings(folder: Path, problems: list[str]) -> list[tuple[Path, Mapping[str, Any]]]:
    """Read what the runs of a folder were asked for, by the names of the files.

    Args:
        folder: Folder of results.
        problems: Takes a sentence for each file that cannot be read.
    """
    found: list[tuple[Path, Mapping[str, Any]]] = []
    for file in sorted((folder / "configs").glob("run-*.json")):
        try:
            content = read_json(file)
        except DataError as error:
            problems.append(str(error))
            continue
        if isinstance(content, dict) and isinstance(content.get("encoders"), list):
            found.append((file, content))
        else:
            problems.append(f"{file}: does not hold the settings of a run. Remove it")
    return found


def stored_settings(paths: Sequence[Path], problems: list[str]) -> list[Mapping[str, Any]]:
    """Read what runs of several folders were asked for; each with `folder` and `name` of its file.

    Args:
        paths: Folders of results.
        problems: Takes a sentence for each file that cannot be read.
    """
    return [
        {**content, "folder": name, "name": file.name}
        for path, name in zip(paths, folder_names(paths), strict=True)
        for file, content in read_run_settings(path, problems)
    ]
