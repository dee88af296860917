"""The workspace file: what a user would otherwise repeat as flags.

A `spade-bench.yaml` in the current folder maps cohorts to tables and features, encoders to
weights, the HEST folder, the device and the output folders. Flags always win over it. Relative
paths are relative to the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spade_bench import config
from spade_bench.errors import WorkspaceError
from spade_bench.registry import suggest

__all__ = [
    "FILE_NAME",
    "CohortEntry",
    "EncoderEntry",
    "PretrainEntry",
    "Workspace",
    "load",
    "need",
]

FILE_NAME = "spade-bench.yaml"


@dataclass(frozen=True)
class EncoderEntry:
    """An encoder's settings.

    Attributes:
        weights: File or folder with its weights.
        options: Options of its own, such as SPADE's routing.
    """

    weights: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CohortEntry:
    """A cohort's files.

    Attributes:
        tables: Task name -> cohort table.
        features: Encoder name -> folder of its features.
        slides: Folder of whole slides, for `extract`.
        case_column: Column of the case in the tables, where it is not the usual one; likewise the
            next five, see `TaskCard`.
        slide_column: Column of the slide.
        label_column: Column of the label.
        event_column: Column of the event.
        days_column: Column of the days.
        event_value: Value that means that the event happened.
    """

    tables: Mapping[str, Path] = field(default_factory=dict)
    features: Mapping[str, Path] = field(default_factory=dict)
    slides: Path | None = None
    case_column: str = ""
    slide_column: str = ""
    label_column: str = ""
    event_column: str = ""
    days_column: str = ""
    event_value: str = ""


@dataclass(frozen=True)
class PretrainEntry:
    """What `pretrain` does without flags.

    Attributes:
        encoder: Base encoder.
        config: Named pretraining config or file.
        out: Folder of the pretrained SPADE.
        set: Single settings, as ``--set`` would give them (dotted keys or nested).
    """

    encoder: str = "efficientnet-lite0"
    config: str | None = None
    out: Path = Path("spade")
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workspace:
    """The whole file.

    Attributes:
        device: `auto`, `cpu` or `cuda[:n]`.
        out: Folder for results of `run`.
        hest: Pretraining samples in HEST-1k layout.
        manifest: Pretraining samples as a manifest csv, instead of `hest`.
        pretrain: Settings of `pretrain`.
        run: Settings of `run` without flags, by the names that a sweep gives them; see
            `spade_bench.evaluation.settings`, which reads them.
        encoders: Encoder name -> settings.
        cohorts: Cohort name -> files.
        path: Where the workspace was read from.
    """

    device: str = "auto"
    out: Path = Path("runs")
    hest: Path | None = None
    manifest: Path | None = None
    pretrain: PretrainEntry = field(default_factory=PretrainEntry)
    run: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, EncoderEntry] = field(default_factory=dict)
    cohorts: Mapping[str, CohortEntry] = field(default_factory=dict)
    path: Path = field(default=Path(FILE_NAME), init=False)

    def resolve(self, path: Path | None) -> Path | None:
        """Return ``path`` relative to the workspace file (absolute paths stay)."""
        return None if path is None else (self.path.parent / path)

    def cohort(self, name: str) -> CohortEntry:
        """Return a cohort's entry.

        Raises:
            WorkspaceError: When the file does not list it.
        """
        if name in self.cohorts:
            return self.cohorts[name]
        near = suggest(name, self.cohorts)
        raise WorkspaceError(
            f"no cohort '{name}'",
            where=str(self.path),
            fix=f"Did you mean {near}?" if near else f"Add it under 'cohorts' in {FILE_NAME}",
        )


def load(path: str | Path | None = None) -> Workspace | None:
    """Read the workspace file of the current folder, or the one given.

    Returns:
        The workspace, or None when the current folder has none.

    Raises:
        WorkspaceError: When a path is given and missing.
        ConfigError: When the file has unknown keys or wrong values.
    """
    file = Path(path) if path is not None else Path(FILE_NAME)
    if not file.is_file():
        if path is not None:
            raise WorkspaceError("no such workspace file", where=str(file))
        return None
    workspace = config.build(Workspace, config.read_yaml(file), str(file))
    object.__setattr__(workspace, "path", file)
    return workspace


def need(what: str, flags: str) -> WorkspaceError:
    """Return the error for something that neither flags nor a workspace file gave."""
    return WorkspaceError(
        f"{what} is not given, and no {FILE_NAME} that is read names it",
        fix=f"Give {flags}, or write a workspace with `spade-bench init`, which commands read in "
        f"its folder and Python reads as workspace='{FILE_NAME}'; "
        "`make demo` (or `spade-bench demo`) shows a complete one on simulated data",
    )
