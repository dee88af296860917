"""What a run is asked to do, with the workspace file filling in what flags leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spade_bench import workspace as ws
from spade_bench.cohorts.columns import PUBLISHED_FIELDS, said_columns, with_columns
from spade_bench.cohorts.published.pathobench import PATHO_BENCH, patho_bench_card
from spade_bench.errors import DataError, PluginError, UserError
from spade_bench.registry import kinds, tasks
from spade_bench.types import TaskCard

__all__ = ["EncoderRequest", "RunRequest", "TaskRequest", "resolve_task", "task_names"]


@dataclass(frozen=True)
class EncoderRequest:
    """An encoder to run.

    Attributes:
        name: Registry name, or any name for precomputed features.
        label: Name in the results.
        weights: File or folder of its weights.
        options: Options of its own, such as SPADE's routing.
    """

    name: str
    label: str
    weights: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRequest:
    """A task to run.

    Attributes:
        card: The task.
        table: Its cohort table.
        named: Whether the card was registered or read from YAML rather than made on the spot.
        test_table: Table of another cohort to test on, for `external`.
        splits: CLAM split file or folder of them, over the cases of the table.
        published: Patho-Bench task folder, or ROOT/TRAIN==TEST--TASK; it is its own table.
    """

    card: TaskCard
    table: Path
    named: bool = True
    test_table: Path | None = None
    splits: Path | None = None
    published: Path | None = None


@dataclass(frozen=True)
class RunRequest:
    """Everything `run` was asked for.

    Attributes:
        encoders: Encoders.
        tasks: Tasks with their tables.
        out: Folder for results.
        heads: Head names; empty for the default head of the kind of task.
        head_params: Head name -> hyperparameters that replace its defaults.
        features: Encoder label or name -> features folder.
        any_features: Features folder for encoders not in ``features``.
        workspace: Fills in features folders of a task's cohort.
        test_features: Like ``features``, for the cohort of a `test_table`.
        any_test_features: Like ``any_features``, for that cohort.
        protocol: Protocol name; empty for few-shot, or for that of published splits.
        shots: Cases per class.
        draws: Draws per shot.
        folds: Folds of cross-validation.
        repeats: How often folds are drawn, or how often an external model is fitted.
        holdout: Share of cases that cross-validation holds out where the table gives no split.
        group_by_site: Keep the cases of a site on one side of every split.
        select: Choose hyperparameters from the head's grid, on training cases only.
        allow_leaky_splits: Accept published splits with cases on both sides, and flag every row.
        seed: Seed of everything random.
        controls: Whether controls run beside the encoders.
        permutations: How often the labels of the control with permuted labels are shuffled; None
            for several times where the head is cheap, else once.
        allow_missing: Go on without slides that have no usable features.
        device: Device name.
        memory: What training may take besides cached bags, such as `4GB`; None for a share.
        match_ids: `exact`, or `loose`; see `spade_bench.features.slideids`.
        shard: Run every n-th row of the table from the i-th on, as (i, n), i from 0.
        dry_run: Say what would run, and stop.
        positive: The positive one of two classes; None leaves it to the order of classes.
        as_is: Take files that name another encoder, and flag every row.
        pretrained_on: Data sets that encoders outside the registry saw in pretraining: each entry
            `A,B` for all of them, or `ENCODER=A,B`; `none` means nothing.
        keep_heads: Whose fitted heads are kept: `none`, `folds` or `all`.
        given: Names of the settings that were said, also where they say what is usual.
    """

    encoders: tuple[EncoderRequest, ...]
    tasks: tuple[TaskRequest, ...]
    out: Path
    heads: tuple[str, ...] = ()
    head_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    features: Mapping[str, Path] = field(default_factory=dict)
    any_features: Path | None = None
    workspace: ws.Workspace | None = None
    test_features: Mapping[str, Path] = field(default_factory=dict)
    any_test_features: Path | None = None
    protocol: str = ""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    draws: int = 10
    folds: int = 5
    repeats: int = 1
    holdout: float | None = None
    group_by_site: bool = False
    select: bool = False
    allow_leaky_splits: bool = False
    seed: int = 0
    controls: bool = True
    permutations: int | None = None
    allow_missing: bool = False
    device: str = "auto"
    memory: str | None = None
    match_ids: str = "exact"
    shard: tuple[int, int] = (0, 1)
    dry_run: bool = False
    positive: str | None = None
    as_is: bool = False
    pretrained_on: tuple[str, ...] = ()
    keep_heads: str = "folds"
    given: tuple[str, ...] = ()

    def test_features_of(self, *names: str) -> Path | None:
        """Return the features folder of the cohort to test on; None when it is the same one."""
        for name in names:
            if name in self.test_features:
                return self.test_features[name]
        return self.any_test_features

    def features_of(self, task: TaskCard, *names: str | None) -> Path | None:
        """Return the features folder for the first of ``names`` that has one.

        Flags win over the workspace; the unnamed ``--features`` serves every name.
        """
        wanted = [name for name in names if name]
        for name in wanted:
            if name in self.features:
                return self.features[name]
        if self.any_features is not None:
            return self.any_features
        if self.workspace is None:
            return None
        entry = _cohort_entry(self.workspace, task)
        for name in wanted:
            if entry is not None and name in entry.features:
                return self.workspace.resolve(entry.features[name])
        return None


def resolve_task(
    name: str,
    table: Path | None,
    workspace: ws.Workspace | None,
    *,
    test_table: Path | None = None,
    splits: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> TaskRequest:
    """Find the card and the table of a task.

    Args:
        name: A registered task, a YAML card, `patho-bench:PATH`, or with a table any name: the
            kind and the classes are then taken from the table.
        table: Cohort table given by flag.
        workspace: Names the table otherwise.
        test_table: Table of another cohort to test on.
        splits: CLAM split files over the table.
        columns: What columns are called, by field of the card, over the workspace and the card.

    Raises:
        PluginError: When the task is unknown and no table is given.
        WorkspaceError: When nothing gives the table.
        UserError: When its kind is unknown.
    """
    if name.startswith(PATHO_BENCH):
        if table is not None or splits is not None:
            raise UserError("a Patho-Bench task brings its own table and splits", where=name)
        own = {key: said for key, said in (columns or {}).items() if key not in PUBLISHED_FIELDS}
        if own:
            option = "--" + next(iter(own)).replace("_", "-")
            raise UserError(f"a Patho-Bench task names its own labels, not {option}", where=name)
        path = Path(name.removeprefix(PATHO_BENCH)).expanduser()
        return TaskRequest(with_columns(patho_bench_card(path), columns), path, published=path)
    card, named = _card(name, table, columns or {})
    if card.kind not in kinds:
        known = ", ".join(kinds.names())
        raise UserError(
            f"there is no {card.kind} kind of task", where=f"task {card.name}", fix=f"Use {known}"
        )
    if table is None and workspace is not None:
        entry = _cohort_entry(workspace, card)
        if entry is not None and card.name in entry.tables:
            table = workspace.resolve(entry.tables[card.name])
            # These say what the workspace's own table calls its columns.
            columns = {**said_columns(entry), **(columns or {})}
    card = with_columns(card, columns)
    if table is None:
        raise ws.need(f"the table of task '{card.name}'", "--table CSV and --features DIR")
    for given in (table, test_table):
        if given is not None and not given.is_file():
            raise DataError("no such table", where=str(given), fix="Give a csv file with --table")
    return TaskRequest(card, table, named, test_table, splits)


def task_names(name: str) -> tuple[str, ...]:
    """Return the names by which paths may be given for a task, first choice first.

    A card file goes by what was typed, by the name in it, and by its stem.

    Raises:
        ConfigError: When the card file is missing or not YAML.
    """
    from spade_bench import config

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
    asked = bool({"event_column", "days_column"} & set(columns))
    return wanted <= there and (asked or "label" not in there)


def _cohort_entry(workspace: ws.Workspace, task: TaskCard) -> ws.CohortEntry | None:
    """The cohort that the card names, else the only one that has a table for the task."""
    if task.cohort in workspace.cohorts:
        return workspace.cohorts[task.cohort]
    having = [entry for entry in workspace.cohorts.values() if task.name in entry.tables]
    return having[0] if len(having) == 1 else None
