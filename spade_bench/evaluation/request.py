"""What a run is asked to do: its settings, and the encoders and tasks that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from spade_bench import workspace as ws
from spade_bench.cohorts.columns import PUBLISHED_FIELDS, said_columns, with_columns
from spade_bench.cohorts.published.hestbench import HEST, hest_card, hest_folder
from spade_bench.cohorts.published.pathobench import PATHO_BENCH, patho_bench_card
from spade_bench.errors import ConfigError, DataError, PluginError, UserError
from spade_bench.evaluation.settings import EvaluationSettings, path_of
from spade_bench.registry import heads_of_kind, kinds, suggest, tasks
from spade_bench.tasks.kind import KindCard
from spade_bench.types import TaskCard

__all__ = ["MEASURED", "EncoderRequest", "EvaluationRequest", "TaskRequest", "resolve_task",
           "task_names"]  # fmt: skip

MEASURED = "regression:"
"""Prefix of a task whose target is a column of numbers, such as `regression:age`."""


@dataclass(frozen=True)
class EncoderRequest:
    """An encoder to run.

    Attributes:
        name: Registry name, or any name for precomputed features.
        label: Name in the results.
        weights: File or folder of its weights.
        options: Options of its own, such as SPADE's routing.
        loaded: The encoder itself, where it runs as it is; None where its name says how to load it.
    """

    name: str
    label: str
    weights: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    loaded: Any = None


@dataclass(frozen=True)
class TaskRequest:
    """A task to run.

    Attributes:
        card: The task.
        table: Its cohort table; of a task of expression the place of its sections.
        named: Whether the card was registered or read from YAML rather than made on the spot.
        test_table: Table of another cohort to test on, for `external`.
        splits: CLAM split file or folder of them, over the cases of the table.
        published: Patho-Bench task folder, or ROOT/TRAIN==TEST--TASK, or the sections of
            `hest:PATH`; it is its own table.
    """

    card: TaskCard
    table: Path
    named: bool = True
    test_table: Path | None = None
    splits: Path | None = None
    published: Path | None = None


@dataclass(frozen=True)
class EvaluationRequest:
    """A run: settings, with its encoders and tasks resolved.

    Attributes:
        given: The settings that flags, a YAML file or keywords gave.
        encoders: Encoders.
        tasks: Tasks with their tables.
        workspace: Stands behind the settings, and names features folders of cohorts.
        shard: Run every n-th row of the table from the i-th on, as (i, n), i from 0.
        seat: Begin with the i-th of n parts of the work, as (i, n), i from 0; the others follow,
            unless other processes have done them by then.
        dry_run: Say what would run, and stop.
    """

    given: EvaluationSettings
    encoders: tuple[EncoderRequest, ...]
    tasks: tuple[TaskRequest, ...]
    workspace: ws.Workspace | None = None
    shard: tuple[int, int] = (0, 1)
    seat: tuple[int, int] = (0, 1)
    dry_run: bool = False

    @property
    def is_first(self) -> bool:
        """Whether it is this one of the processes of a run that says what concerns all of them."""
        return self.shard[0] == 0 and self.seat[0] == 0

    @cached_property
    def settings(self) -> EvaluationSettings:
        """The settings over those of the workspace over the defaults."""
        return self.given.resolved(self.workspace)

    @property
    def out(self) -> Path:
        """Folder for results.

        Raises:
            WorkspaceError: When neither the settings nor a workspace name it.
        """
        if self.settings.out is None:
            raise ws.need("the folder for results", "--out DIR")
        return self.settings.out

    def heads_of(self, task: TaskCard) -> tuple[str, ...]:
        """Return the heads for a task: those asked for, else the default head of its kind.

        What the workspace says stands for tasks of every kind; where none of its heads serves
        the kind, the default head does.
        """
        kind, names = kinds.get(task.kind).card, self.settings.heads
        known = heads_of_kind(kind.head_kind)
        serving = any(n in known and kind.head_kind in known.get(n).card.kinds for n in names)
        if not names or not (serving or "heads" in self.given.said()):
            return (kind.default_head,)
        return names

    def features_of(self, task: TaskCard, *names: str | None) -> Path | None:
        """Return the features folder for the first of ``names`` that has one.

        Settings win over the workspace's cohorts; the folder of every name serves every name.
        """
        wanted = [name for name in names if name]
        folder = path_of(self.settings.features, *wanted)
        if folder is not None or self.workspace is None:
            return folder
        entry = _cohort_entry(self.workspace, task)
        for name in wanted:
            if entry is not None and name in entry.features:
                return self.workspace.resolve(entry.features[name])
        return None

    def cohort_features(self, task: TaskCard) -> dict[str, Path]:
        """Return the features folders that the workspace, and no setting, gives for a task."""
        entry = None if self.workspace is None else _cohort_entry(self.workspace, task)
        if entry is None or self.workspace is None or "*" in self.settings.features:
            return {}
        resolved = {name: self.workspace.resolve(path) for name, path in entry.features.items()}
        return {
            name: path
            for name, path in resolved.items()
            if path is not None and name not in self.settings.features
        }


def resolve_task(
    name: str,
    table: Path | None,
    workspace: ws.Workspace | None,
    *,
    test_table: Path | None = None,
    splits: Path | None = None,
    columns: Mapping[str, str] | None = None,
    bench_root: Path | None = None,
) -> TaskRequest:
    """Find the card and the table of a task.

    Args:
        name: A registered task, a YAML card, `patho-bench:PATH`, `hest:PATH`, `regression:COLUMN`,
            or with a table any name: the kind and the classes are then taken from the table.
        table: Cohort table given by flag.
        workspace: Names the table otherwise.
        test_table: Table of another cohort to test on.
        splits: CLAM split files over the table.
        columns: What columns are called, by field of the card, over the workspace and the card.
        bench_root: Folder of the task folders that `hest:TASK` names.

    Raises:
        PluginError: When the task is unknown and no table is given.
        WorkspaceError: When nothing gives the table.
        UserError: When its kind is unknown.
    """
    if name.startswith(PATHO_BENCH):
        if table is not None or splits is not None:
            raise UserError("a Patho-Bench task brings its own table and splits", where=name)
        unused = [field for field in columns or () if field not in PUBLISHED_FIELDS]
        if unused:
            option = "--" + unused[0].replace("_", "-")
            raise UserError(f"a Patho-Bench task names its own labels, not {option}", where=name)
        path = Path(name.removeprefix(PATHO_BENCH)).expanduser()
        return TaskRequest(with_columns(patho_bench_card(path), columns), path, published=path)
    if name.startswith(HEST):
        if table is not None or splits is not None or columns:
            raise UserError(
                "a task of sections takes no table, splits or columns of cases", where=name
            )
        place = hest_folder(name, bench_root)
        return TaskRequest(hest_card(place), place, published=place)
    card, named = _card(name, table or _listed_table(workspace, name), columns or {})
    _check_kind(card)
    if table is None and workspace is not None:
        entry = _cohort_entry(workspace, card)
        if entry is not None and card.name in entry.tables:
            table = workspace.resolve(entry.tables[card.name])
            # These say what the workspace's own table calls its columns.
            columns = {**said_columns(entry), **(columns or {})}
    card = with_columns(card, columns)
    if table is None:
        raise ws.need(f"the table of task '{card.name}'", "--table CSV and --features DIR")
    of_cases = kinds.get(card.kind).card.units == "cases"
    for given in (table, test_table):
        if given is not None and not (given.is_file() or (not of_cases and given.is_dir())):
            raise DataError("no such table", where=str(given), fix="Give a csv file with --table")
    return TaskRequest(card, table, named, test_table, splits)


def task_names(name: str) -> tuple[str, ...]:
    """Return the names by which paths may be given for a task, first choice first.

    A card file goes by what was typed, by the name in it, and by its stem.

    Raises:
        ConfigError: When the card file is missing or not YAML.
    """
    from spade_bench import config

    if name.startswith(MEASURED):
        return (name, name.removeprefix(MEASURED))
    if not _is_file(name):
        return (name,)
    inside = config.read_yaml(name).get("name")
    return (name, *((str(inside),) if inside else ()), Path(name).stem)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _card(name: str, table: Path | None, columns: Mapping[str, str]) -> tuple[TaskCard, bool]:
    from spade_bench import config

    if _is_file(name):
        return config.build(TaskCard, config.read_yaml(name), name), True
    if name.startswith(MEASURED):
        column = name.removeprefix(MEASURED)
        if not column:
            raise UserError("no column is named", where=name, fix=f"Write {MEASURED}COLUMN")
        metrics = tuple(kinds.get("regression").card.metrics)
        return TaskCard(column, "regression", column, column, label_column=column,
                        metrics=metrics), False  # fmt: skip
    if name in tasks:
        return tasks.get(name).card, True
    if table is None:
        try:
            tasks.get(name)
        except PluginError as error:
            raise PluginError(
                error.what,
                fix=f"{error.fix} Or give a task of your own with --table CSV --features DIR",
            ) from error
    if table is not None and table.is_file() and _is_survival(table, columns):
        card = TaskCard(name, "survival", name, name, metrics=("c_index", "c_index_uno", "ibs"))
        return card, False
    return TaskCard(name=name, kind="classification", title=name, cohort=name), False


def _is_survival(table: Path, columns: Mapping[str, str]) -> bool:
    from spade_bench.cohorts.tables import read_table

    if "label_column" in columns:
        return False
    there = set(read_table(table).columns)
    wanted = {columns.get("event_column", "event"), columns.get("days_column", "duration_days")}
    # A label that lies beside two columns that were named is not what was asked for.
    named = bool({"event_column", "days_column"} & set(columns))
    return wanted <= there and (named or "label" not in there)


def _listed_table(workspace: ws.Workspace | None, name: str) -> Path | None:
    """The table of a task that no card describes, where one cohort of the workspace names it."""
    if workspace is None or name in tasks:
        return None
    having = [entry for entry in workspace.cohorts.values() if name in entry.tables]
    return workspace.resolve(having[0].tables[name]) if len(having) == 1 else None


def _cohort_entry(workspace: ws.Workspace, task: TaskCard) -> ws.CohortEntry | None:
    """The cohort that the card names, else the only one that has a table for the task."""
    if task.cohort in workspace.cohorts:
        return workspace.cohorts[task.cohort]
    having = [entry for entry in workspace.cohorts.values() if task.name in entry.tables]
    return having[0] if len(having) == 1 else None


def check_card(card: TaskCard) -> None:
    """Refuse a task whose card names a kind that there is not, or a metric that it does not have.

    Raises:
        UserError: When there is no such kind.
        ConfigError: When it has no such metric; the message names those that it has.
    """
    known = _check_kind(card).metrics
    for name in card.metrics:
        if name not in known:
            near = suggest(name, known)
            raise ConfigError(
                f"{card.kind} has no metric '{name}'",
                where=f"task {card.name}",
                fix=f"Did you mean {near}?" if near else f"Use {', '.join(known)}",
            )


def _check_kind(card: TaskCard) -> KindCard:
    if card.kind not in kinds:
        near = suggest(card.kind, kinds.names())
        raise UserError(
            f"there is no {card.kind} kind of task",
            where=f"task {card.name}",
            fix=f"Did you mean {near}?" if near else f"Use {', '.join(kinds.names())}",
        )
    kind: KindCard = kinds.get(card.kind).card
    return kind
