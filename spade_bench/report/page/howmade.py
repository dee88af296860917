"""How the results were made: settings, commands that make them again, machines and versions."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from spade_bench.report.page.resultsview import ResultsView
from spade_bench.results.runsettings import folder_names

__all__ = ["Environment", "Folder", "RunSettings", "environments", "folders"]

_ENVIRONMENT = ("spade_bench", "python", "numpy", "torch", "system", "device")
_OF_PROTOCOL = {
    "few-shot": ("shots", "draws"),
    "cv": ("folds", "repeats", "holdout", "group_by_site", "preserve_sites"),
    "external": ("repeats",),
}
_ALWAYS = ("seed", "permutations", "match_ids", "positive", "pretrained_on")
_SWITCHES = ("select", "allow_missing", "allow_leaky_splits", "as_is", "group_by_site",
             "preserve_sites")  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """What one `run` was asked for.

    Attributes:
        name: Name of its file.
        folder: Name of the folder of results.
        command: The command that asks for the same.
        settings: Names and values, in words.
        heads: Hyperparameters of each head, in words.
    """

    name: str
    folder: str
    command: str
    settings: tuple[tuple[str, str], ...]
    heads: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Environment:
    """Machine and versions that computed some of the cells.

    Attributes:
        values: Names and values.
        cells: Finished cells.
        seconds: Time of fitting and predicting.
        first: Time of the first of them (ISO 8601, UTC).
        last: Time of the last.
    """

    values: tuple[tuple[str, str], ...]
    cells: int
    seconds: float
    first: str
    last: str


@dataclass(frozen=True)
class Folder:
    """A folder of results.

    Attributes:
        name: Its name, without the folders above it.
        cells: Finished cells.
        encoders: Encoders that have some, controls left out.
        tasks: Tasks.
    """

    name: str
    cells: int
    encoders: tuple[str, ...]
    tasks: tuple[str, ...]


def folders(results: ResultsView) -> list[Folder]:
    """Return what each folder holds."""
    from spade_bench.results import ResultStore

    out = []
    for path, name in zip(results.folders, folder_names(results.folders), strict=True):
        rows = [row for row in ResultStore(path).rows() if row.status == "ok"]
        mains = [row for row in rows if not row.control]
        out.append(
            Folder(
                name,
                len(rows),
                tuple(sorted({row.encoder for row in mains})),
                tuple(sorted({row.task for row in rows})),
            )
        )
    return out


def environments(results: ResultsView) -> list[Environment]:
    """Return machines and versions, the one of the most cells first."""
    groups: dict[tuple[tuple[str, str], ...], list[Any]] = {}
    for one in results.series:
        for row in one.rows:
            values = tuple((name, row.env[name]) for name in _ENVIRONMENT if name in row.env)
            groups.setdefault(values, []).append(row)
    found = []
    for values, rows in groups.items():
        times = sorted(row.created_utc for row in rows if row.created_utc) or [""]
        seconds = sum(row.seconds or 0.0 for row in rows)
        found.append(Environment(values, len(rows), seconds, times[0], times[-1]))
    return sorted(found, key=lambda one: -one.cells)


def run_settings(
    contents: Sequence[Mapping[str, Any]], bases: Collection[str] = ()
) -> list[RunSettings]:
    """Say in words, and as a command, what runs were asked for.

    Args:
        contents: The stored settings of the runs.
        bases: Encoders whose features others take.
    """
    out = []
    for content in contents:
        protocol = str(content.get("protocol") or "")
        shown = [*_OF_PROTOCOL.get(protocol or "few-shot", ()), *_ALWAYS, *_SWITCHES, "controls"]
        settings = [("protocol", protocol or "by the task (few-shot where it says nothing)")]
        settings += [
            (name.replace("_", " "), _words(content[name]))
            for name in dict.fromkeys(shown)
            if content.get(name) not in (None, [], "", False)
        ]
        settings += [
            (f"features of {name}, by the workspace", ", ".join(folders))
            for name, folders in _of_workspace(content, bases).items()
            if len(folders) > 1
        ]
        heads = [(name, _words(params)) for name, params in dict(content.get("heads", {})).items()]
        out.append(
            RunSettings(
                name=str(content["name"]),
                folder=str(content["folder"]),
                command=command(content, bases),
                settings=tuple(settings),
                heads=tuple(heads),
            )
        )
    return out


def command(content: Mapping[str, Any], bases: Collection[str] = ()) -> str:
    """Return the command that asks for what a run was asked for.

    Files and folders are named by the last part of their path: a report is passed on to people who
    have them elsewhere.

    Args:
        content: The stored settings of the run.
        bases: Encoders whose features others take.
    """
    parts: list[tuple[str, str]] = []
    for encoder in content["encoders"]:
        label, name = str(encoder["label"]), str(encoder["name"])
        parts.append(("--encoder", name if label == name else f"{label}={name}"))
        if encoder.get("weights"):
            parts.append(("--weights", f"{label}={_last(encoder['weights'])}"))
        parts += [
            ("--set", f"{label}.{key}={value}") for key, value in encoder.get("options", {}).items()
        ]
    for task in content.get("tasks", ()):
        name = str(task["name"])
        published = task.get("published")
        parts.append(("--task", f"patho-bench:{_last(published)}" if published else name))
        if not published:
            parts += [
                (flag, f"{name}={_last(task[key])}")
                for flag, key in (
                    ("--table", "table"),
                    ("--test-table", "test_table"),
                    ("--splits", "splits"),
                )
                if task.get(key)
            ]
    for flag, key in (("--features", "features"), ("--test-features", "test_features")):
        if content.get(f"any_{key}"):
            parts.append((flag, _last(content[f"any_{key}"])))
        parts += [(flag, f"{name}={_last(path)}") for name, path in content.get(key, {}).items()]
    # What the workspace gave, which others do not have; one encoder takes one folder on the command
    # line, so folders that differ between tasks are named in words.
    parts += [("--features", f"{name}={folders[0]}")
              for name, folders in _of_workspace(content, bases).items()
              if len(folders) == 1]  # fmt: skip
    if content.get("regions"):
        parts.append(("--regions", _last(content["regions"])))
        parts += [("--region-name", str(name)) for name in content.get("region_names") or ()]
        share = content.get("region_share")
        parts += [] if share is None else [("--region-share", f"{share:g}")]
    parts += [("--head", str(name)) for name in content.get("heads", {})]
    protocol = str(content.get("protocol") or "")
    parts += [("--protocol", protocol)] if protocol else []
    for name in (*_OF_PROTOCOL.get(protocol or "few-shot", ()), *_ALWAYS):
        value = content.get(name)
        if value in (None, [], "", False, "exact") or name in _SWITCHES:
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append((f"--{name.replace('_', '-')}", text))
    parts += [(f"--{name.replace('_', '-')}", "") for name in _SWITCHES if content.get(name)]
    parts += [] if content.get("controls", True) else [("--no-controls", "")]
    kept = content.get("keep_heads") or "folds"  # what `run` does unasked
    parts += [] if kept == "folds" else [("--keep-heads", str(kept))]
    parts.append(("--out", str(content["folder"])))
    lines = [f"{flag} {shlex.quote(value)}" if value else flag for flag, value in parts]
    return " \\\n    ".join(["spade-bench run", *lines])


def _of_workspace(content: Mapping[str, Any], bases: Collection[str]) -> dict[str, list[str]]:
    """Folders of features that the workspace gave to encoders of the run, and to their bases."""
    encoders = content["encoders"]
    used = {str(encoder[key]) for encoder in encoders for key in ("label", "name")} | set(bases)
    found: dict[str, dict[str, None]] = {}
    for folders in dict(content.get("cohort_features") or {}).values():
        for name, path in folders.items():
            if name in used:
                found.setdefault(name, {})[_last(path)] = None
    return {name: list(paths) for name, paths in found.items()}


def _last(path: object) -> str:
    """The last part of a path, whatever system wrote it."""
    text = str(path)
    return (PureWindowsPath(text) if "\\" in text else PurePosixPath(text)).name or text


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_words(one)}" for key, one in value.items()) or "defaults"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
