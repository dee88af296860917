"""What people ask for, from flags or from one YAML file, made into a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spade_bench import config
from spade_bench import workspace as ws
from spade_bench.cohorts.columns import COLUMN_FIELDS
from spade_bench.cohorts.published.pathobench import PATHO_BENCH
from spade_bench.errors import UserError
from spade_bench.evaluation.request import (
    EncoderRequest,
    RunRequest,
    TaskRequest,
    resolve_task,
    task_names,
)
from spade_bench.evaluation.settingchecks import (
    check_controls,
    check_kind_options,
    check_numbers,
    check_protocol_options,
)
from spade_bench.features.slideids import check_match
from spade_bench.registry import encoders as registered
from spade_bench.registry import heads as known_heads
from spade_bench.registry import suggest
from spade_bench.tasks.protocols import PROTOCOLS

__all__ = ["Asked", "Named", "read_asked", "to_request"]


@dataclass(frozen=True)
class Named:
    """Paths by name, and one that serves every other name.

    Attributes:
        by_name: Name -> path.
        other: The path without a name.
    """

    by_name: Mapping[str, Path] = field(default_factory=dict)
    other: Path | None = None

    def get(self, *names: str) -> Path | None:
        """Return the path of the first name that has one, else the one without a name."""
        for name in names:
            if name in self.by_name:
                return self.by_name[name]
        return self.other


@dataclass(frozen=True)
class Asked:
    """A sweep: what `run --config FILE` may hold. None, or empty, is left to the workspace.

    Attributes:
        encoders: Encoders, or LABEL=ENCODER.
        tasks: Named tasks, cards (.yaml), `patho-bench:PATH`, or any name with a table.
        heads: Heads.
        tables: Task -> table; `*` for every task.
        features: Encoder or label -> folder; `*` for every encoder.
        weights: Label -> file or folder; `*` for every encoder of features.
        test_tables: Task -> table of another cohort; `*` for every task.
        test_features: Like `features`, for the other cohort.
        splits: Task -> CLAM split files; `*` for every task.
        case_column: Column of the case in every table; likewise the next four.
        slide_column: Column of the slide.
        label_column: Column of the label.
        event_column: Column of the event.
        days_column: Column of the days.
        event_value: Value that means that the event happened.
        match_ids: `exact`, or `loose`; see `spade_bench.features.slideids`.
        protocol: few-shot, cv or external.
        shots: Training cases per class.
        draws: Draws per number of shots.
        folds: Folds of cross-validation.
        repeats: How often folds are drawn.
        holdout: Share of cases that cross-validation holds out.
        group_by_site: Keep the cases of a site on one side of every split.
        select: Choose hyperparameters on training cases.
        seed: Seed of everything random.
        controls: Whether controls run.
        permutations: How often the control with permuted labels shuffles them.
        allow_missing: Leave out slides and labels that are missing.
        allow_leaky_splits: Accept published splits that leak.
        trust_remote_code: Agree to run code that lies beside the weights of encoders.
        device: Device.
        memory: What training may take, such as 4GB.
        positive: The positive one of two classes.
        as_is: Take files that name another encoder, and flag every row.
        pretrained_on: What encoders outside the registry saw: `TCGA,CPTAC`, or `ENCODER=TCGA`.
        keep_heads: Whose fitted heads are kept: `none`, `folds` or `all`.
        set: Settings of heads and encoders.
        out: Folder for results.
    """

    encoders: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    tables: Mapping[str, Path] = field(default_factory=dict)
    features: Mapping[str, Path] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    test_tables: Mapping[str, Path] = field(default_factory=dict)
    test_features: Mapping[str, Path] = field(default_factory=dict)
    splits: Mapping[str, Path] = field(default_factory=dict)
    case_column: str | None = None
    slide_column: str | None = None
    label_column: str | None = None
    event_column: str | None = None
    days_column: str | None = None
    event_value: str | None = None
    match_ids: str | None = None
    protocol: str | None = None
    shots: tuple[int, ...] = ()
    draws: int | None = None
    folds: int | None = None
    repeats: int | None = None
    holdout: float | None = None
    group_by_site: bool | None = None
    select: bool | None = None
    seed: int | None = None
    controls: bool | None = None
    permutations: int | None = None
    allow_missing: bool | None = None
    allow_leaky_splits: bool | None = None
    trust_remote_code: bool | None = None
    device: str | None = None
    memory: str | None = None
    positive: str | None = None
    as_is: bool | None = None
    pretrained_on: tuple[str, ...] | None = None
    keep_heads: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    out: Path | None = None

    def over(self, other: Asked) -> Asked:
        """Return these values, and those of ``other`` where nothing is said here."""
        changes: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if isinstance(mine, Mapping):
                changes[f.name] = config.merge(theirs, mine)
            elif mine is None or mine == ():
                changes[f.name] = theirs
        return dataclasses.replace(self, **changes)


def read_asked(path: Path) -> Asked:
    """Read a sweep from YAML; relative paths are relative to the file.

    Raises:
        ConfigError: When the file is missing, or holds unknown keys or wrong values.
    """
    content = config.read_yaml(path)
    for key in ("tables", "features", "weights", "test_tables", "test_features", "splits"):
        if isinstance(content.get(key), str):
            content[key] = {"*": content[key]}
    settings = content.get("set")
    if isinstance(settings, Mapping):
        # Dotted keys mean what they mean to --set.
        parts = [config.parse_set([f"{k}=null"]) for k in settings]
        content["set"] = config.merge(
            *(_filled(part, value) for part, value in zip(parts, settings.values(), strict=True))
        )
    asked = config.build(Asked, content, str(path))
    near = path.parent
    changes: dict[str, Any] = {
        f.name: {name: near / value for name, value in getattr(asked, f.name).items()}
        for f in dataclasses.fields(asked)
        if f.name not in {"set"} and isinstance(getattr(asked, f.name), Mapping)
    }
    if asked.out is not None:
        changes["out"] = near / asked.out
    return dataclasses.replace(asked, **changes)


def to_request(asked: Asked, workspace: ws.Workspace | None, **rest: Any) -> RunRequest:
    """Check names and fill in what is left out from the workspace.

    Args:
        asked: What was asked for.
        workspace: Fills in the rest.
        **rest: Fields of the request that only flags give.

    Raises:
        UserError: When something is missing or a name is unknown.
    """
    if not asked.encoders:
        raise UserError("no encoder given", fix="Give --encoder NAME (`spade-bench list encoders`)")
    if not asked.tasks:
        raise UserError("no task given", fix="Give --task NAME (`spade-bench list tasks`)")
    if asked.protocol and asked.protocol not in PROTOCOLS:
        raise UserError(
            f"there is no protocol '{asked.protocol}'",
            where="--protocol",
            fix=f"Use {', '.join(PROTOCOLS)}",
        )
    given = {
        f.name: value
        for f in dataclasses.fields(asked)
        if (value := getattr(asked, f.name)) is not None
        and value is not False
        and value != ()
        and value != {}
    }
    check_numbers(given)
    check_controls(asked.controls, asked.permutations)
    protocol = _protocol_of(asked)
    if protocol:
        check_protocol_options(given, protocol)
    defaults = workspace.run if workspace is not None else ws.RunEntry()
    names = _heads(asked, defaults)
    encoders = _encoders(asked, workspace, names)
    tasks = _tasks(asked, workspace)
    check_kind_options(given, {task.card.kind for task in tasks})
    features, test_features = _named(asked.features), _named(asked.test_features)
    out = asked.out
    if out is None:
        if workspace is None:
            raise ws.need("the folder for results", "--out DIR")
        out = workspace.resolve(workspace.out) or workspace.out
    plain = {
        name: getattr(asked, name)
        for name in (
            *("protocol", "folds", "repeats", "holdout", "group_by_site", "select", "controls"),
            *("allow_missing", "allow_leaky_splits", "memory", "match_ids", "positive", "as_is"),
            *("pretrained_on", "permutations", "keep_heads"),
        )
        if getattr(asked, name) is not None
    }
    return RunRequest(
        encoders=encoders,
        tasks=tasks,
        out=out,
        heads=names,
        head_params={name: params for name, params in asked.set.items() if name in known_heads},
        features=features.by_name,
        any_features=features.other,
        test_features=test_features.by_name,
        any_test_features=test_features.other,
        workspace=workspace,
        shots=tuple(sorted(set(asked.shots))) or defaults.shots,
        draws=defaults.draws if asked.draws is None else asked.draws,
        seed=defaults.seed if asked.seed is None else asked.seed,
        device=asked.device or (workspace.device if workspace else "auto"),
        given=tuple(given),
        **plain,
        **rest,
    )


def _protocol_of(asked: Asked) -> str:
    """The protocol that will run; empty where published splits decide it."""
    if asked.protocol:
        return asked.protocol
    if asked.splits or any(name.startswith(PATHO_BENCH) for name in asked.tasks):
        return ""
    if asked.test_tables and "*" not in asked.test_tables and len(set(asked.tasks)) > 1:
        return ""  # each task has its own; see `check_request`
    return "external" if asked.test_tables else "few-shot"


def _heads(asked: Asked, defaults: ws.RunEntry) -> tuple[str, ...]:
    """Heads asked for; a workspace that says nothing leaves them to the kind of task."""
    names = tuple(dict.fromkeys(asked.heads))
    if not names and defaults.heads != ws.RunEntry().heads:
        names = defaults.heads
    for name in names:
        known_heads.get(name)
    return names


def _tasks(asked: Asked, workspace: ws.Workspace | None) -> tuple[TaskRequest, ...]:
    tables, tests = _named(asked.tables), _named(asked.test_tables)
    splits = _named(asked.splits)
    if tables.other is not None and len(set(asked.tasks)) > 1:
        raise UserError("one table for several tasks", where="--table", fix="Write TASK=CSV")
    requests = []
    for name in dict.fromkeys(asked.tasks):
        names = task_names(name)
        requests.append(
            resolve_task(
                name,
                tables.get(*names),
                workspace,
                test_table=tests.get(*names),
                splits=splits.get(*names),
                columns=_columns(asked),
            )
        )
    return tuple(requests)


def _columns(asked: Asked) -> dict[str, str]:
    """Columns that were asked for, by their field of the card; refuse a way to match unknown."""
    check_match(asked.match_ids)
    return {name: said for name in COLUMN_FIELDS if (said := getattr(asked, name))}


def _encoders(
    asked: Asked, workspace: ws.Workspace | None, heads: Sequence[str]
) -> tuple[EncoderRequest, ...]:
    weights_of = _named(asked.weights)
    requests: list[EncoderRequest] = []
    for text in dict.fromkeys(asked.encoders):
        left, equals, right = text.partition("=")
        label, name = (left, right) if equals else (text, text)
        if not label or not name:
            raise UserError(f"cannot read '{text}'", where="--encoder", fix="Write LABEL=ENCODER")
        if any(request.label == label for request in requests):
            raise UserError(f"two encoders are called '{label}'", where="--encoder")
        entry = None
        if workspace is not None:
            entry = workspace.encoders.get(label) or workspace.encoders.get(name)
        weights = weights_of.by_name.get(label, weights_of.by_name.get(name))
        if weights is None and weights_of.other is not None and _takes_weights(name):
            weights = weights_of.other
        if weights is None and entry is not None and workspace is not None:
            weights = workspace.resolve(entry.weights)
        options = {**(entry.options if entry else {}), **asked.set.get(name, {})}
        options.update(asked.set.get(label, {}))
        if asked.trust_remote_code and name in registered and registered.get(name).card.remote_code:
            options.setdefault("trust_remote_code", True)
        requests.append(EncoderRequest(name, label, weights, options))
    known = {*(heads or known_heads.names())}
    known |= {name for r in requests for name in (r.name, r.label)}
    for key in asked.set:
        if key not in known:
            near = suggest(key, known)
            hint = f"Did you mean {near}?" if near else f"Known here: {', '.join(sorted(known))}"
            raise UserError(f"unknown key '{key}'", where="--set", fix=hint)
    return tuple(requests)


def _takes_weights(name: str) -> bool:
    """Only encoders of features load weights in a run; patch encoders come as features."""
    return name in registered and registered.get(name).card.input == "features"


def _named(paths: Mapping[str, Path]) -> Named:
    return Named({k: v for k, v in paths.items() if k != "*"}, paths.get("*"))


def _filled(nested: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Put a value at the end of a chain of keys."""
    return {key: value if inner is None else _filled(inner, value) for key, inner in nested.items()}
