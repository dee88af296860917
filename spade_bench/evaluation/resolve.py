"""From settings to a request: names are looked up, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from spade_bench import workspace as ws
from spade_bench.cohorts.columns import COLUMN_FIELDS
from spade_bench.cohorts.published.hestbench import HEST
from spade_bench.cohorts.published.pathobench import PATHO_BENCH
from spade_bench.errors import UserError, name_some
from spade_bench.evaluation.request import (
    EncoderRequest,
    EvaluationRequest,
    TaskRequest,
    resolve_task,
    task_names,
)
from spade_bench.evaluation.settingchecks import (
    check_controls,
    check_kind_options,
    check_numbers,
    check_protocol_options,
    check_regions,
    said_options,
)
from spade_bench.evaluation.settings import EvaluationSettings, path_of
from spade_bench.features.cache import check_cache_mode
from spade_bench.features.slideids import check_match
from spade_bench.registry import encoders as registered
from spade_bench.registry import head_registries, kinds, suggest
from spade_bench.registry import heads as known_heads

__all__ = ["check_names", "encoder_names", "resolve"]


def resolve(
    given: EvaluationSettings,
    workspace: ws.Workspace | None,
    *,
    loaded: Mapping[str, Any] | None = None,
    **rest: Any,
) -> EvaluationRequest:
    """Look up the encoders and tasks that settings name, and refuse what does not fit.

    Args:
        given: What flags, a YAML file or keywords say.
        workspace: Stands behind them.
        loaded: Label -> encoder, of encoders among them that run as they are.
        **rest: Fields of the request that are no settings: ``shard`` and ``dry_run``.

    Raises:
        UserError: When something is missing or a name is unknown.
    """
    if not given.encoders:
        raise UserError("no encoder given", fix="Give --encoder NAME (`spade-bench list encoders`)")
    if not given.tasks:
        raise UserError("no task given", fix="Give --task NAME (`spade-bench list tasks`)")
    settings = given.resolved(workspace)
    _check_protocol(settings.protocol, [kind.card.protocols for kind in kinds])
    check_numbers(settings)
    check_controls(settings)
    check_cache_mode(settings.cache)
    check_regions(settings)
    protocol = _protocol_of(settings)
    if protocol:
        check_protocol_options(said_options(given), protocol)
    for name in settings.heads:
        head_registries(name)
    encoders = _encoders(settings, workspace, loaded or {})
    tasks = _tasks(settings, workspace)
    for task in tasks:
        _check_protocol(
            settings.protocol, [kinds.get(task.card.kind).card.protocols], task.card.kind
        )
    check_kind_options(given.said(), {task.card.kind for task in tasks})
    request = EvaluationRequest(given, encoders, tasks, workspace, **rest)
    _check_set(request)
    for option, paths in (("--features", given.features), ("--weights", given.weights)):
        check_names(option, paths, encoder_names(encoders))
    return request


def _check_protocol(protocol: str, known: Sequence[Sequence[str]], kind: str = "") -> None:
    """Refuse a protocol that no kind of task has, or not the kind that shall run.

    Raises:
        UserError: Naming those there are.
    """
    names = dict.fromkeys(name for of_kind in known for name in of_kind)
    if protocol and protocol not in names:
        near = suggest(protocol, names)
        what = f"{kind} has no protocol" if kind else "there is no protocol"
        raise UserError(
            f"{what} '{protocol}'",
            where="--protocol",
            fix=f"Did you mean {near}?" if near else f"Use {', '.join(names)}",
        )


def _protocol_of(settings: EvaluationSettings) -> str:
    """The protocol that will run; empty where published splits decide it."""
    if settings.protocol:
        return settings.protocol
    if settings.splits or any(name.startswith((PATHO_BENCH, HEST)) for name in settings.tasks):
        return ""
    tables = settings.test_tables
    if tables and "*" not in tables and len(set(settings.tasks)) > 1:
        return ""  # each task has its own; see `check_request`
    return "external" if tables else "few-shot"


def _tasks(settings: EvaluationSettings, workspace: ws.Workspace | None) -> tuple[TaskRequest, ...]:
    requests: list[TaskRequest] = []
    for name in dict.fromkeys(settings.tasks):
        names = task_names(name)
        requests.append(
            resolve_task(
                name,
                path_of(settings.tables, *names),
                workspace,
                test_table=path_of(settings.test_tables, *names),
                splits=path_of(settings.splits, *names),
                columns=_columns(settings),
                bench_root=settings.bench_root,
            )
        )
    if "*" in settings.tables and len(requests) > 1:
        _check_targets(requests)
    return tuple(requests)


def _check_targets(requests: Sequence[TaskRequest]) -> None:
    """Refuse several tasks of one table that would all read the same column.

    Raises:
        UserError: Naming two of them.
    """
    owners: dict[tuple[str, str], str] = {}
    for request in requests:
        survival = kinds.get(request.card.kind).card.head_kind == "survival"
        column = request.card.event_column or "event" if survival else request.card.label_column
        first = owners.setdefault((str(request.table), column), request.card.name)
        if first != request.card.name:
            raise UserError(
                f"one table for several tasks: {first} and {request.card.name} both read its "
                f"column {column}",
                where="--table",
                fix="Write TASK=CSV, or give each task's card its own label_column",
            )


def _columns(settings: EvaluationSettings) -> dict[str, str]:
    """Columns that are named, by their field of the card; refuse a way to match unknown."""
    check_match(settings.match_ids)
    return {name: column for name in COLUMN_FIELDS if (column := getattr(settings, name))}


def _encoders(
    settings: EvaluationSettings, workspace: ws.Workspace | None, loaded: Mapping[str, Any]
) -> tuple[EncoderRequest, ...]:
    requests: list[EncoderRequest] = []
    for text in dict.fromkeys(settings.encoders):
        left, equals, right = text.partition("=")
        label, name = (left, right) if equals else (text, text)
        if not label or not name:
            raise UserError(f"cannot read '{text}'", where="--encoder", fix="Write LABEL=ENCODER")
        if any(request.label == label for request in requests):
            raise UserError(f"two encoders are called '{label}'", where="--encoder")
        if label in loaded:
            requests.append(_as_loaded(settings, name, label, loaded[label]))
        else:
            requests.append(_encoder(settings, workspace, name, label))
    return tuple(requests)


def _encoder(
    settings: EvaluationSettings, workspace: ws.Workspace | None, name: str, label: str
) -> EncoderRequest:
    """An encoder with its weights and options, over those of its entry in the workspace."""
    entry = ws.EncoderEntry()
    weights = settings.weights.get(label, settings.weights.get(name))
    if weights is None and _takes_weights(name):
        weights = settings.weights.get("*")
    if workspace is not None:
        entry = workspace.encoders.get(label) or workspace.encoders.get(name) or entry
        weights = workspace.resolve(entry.weights) if weights is None else weights
    options: dict[str, Any] = {**entry.options}
    for key in (name, label):
        options.update(settings.set.get(key, {}))
    if settings.trust_remote_code and name in registered and registered.get(name).card.remote_code:
        options.setdefault("trust_remote_code", True)
    return EncoderRequest(name, label, weights, options)


def _as_loaded(settings: EvaluationSettings, name: str, label: str, encoder: Any) -> EncoderRequest:
    """An encoder that runs as it is, for which it is too late to say how it is loaded."""
    for option in ("weights", "set"):
        if {name, label} & getattr(settings, option).keys():
            raise UserError(
                f"the encoder '{label}' is loaded already: it takes no {option}",
                fix="Give them where it is made, or name the encoder instead",
            )
    return EncoderRequest(name, label, loaded=encoder)


def _takes_weights(name: str) -> bool:
    """Only encoders of features load weights in a run; patch encoders come as features."""
    return name in registered and registered.get(name).card.input == "features"


def encoder_names(encoders: Iterable[EncoderRequest]) -> set[str]:
    """Names under which folders of features and weights may be given: theirs, and their bases'."""
    names = {name for encoder in encoders for name in (encoder.label, encoder.name)}
    known = [registered.get(name).card for name in names if name in registered]
    loaded = [encoder.loaded.card for encoder in encoders if encoder.loaded is not None]
    return names | {card.upstream for card in (*known, *loaded) if card.upstream}


def check_names(option: str, paths: Mapping[str, Any] | None, known: Collection[str]) -> None:
    """Refuse a path under a name that nothing would look up.

    Args:
        option: The option, for the message.
        paths: Name -> path, `*` for every name.
        known: Names that are looked up.

    Raises:
        UserError: Naming it, and those that there are.
    """
    for name in paths or ():
        if name != "*" and name not in known:
            near = suggest(name, known)
            there = name_some(sorted(set(known) - {"any"}), 10)
            raise UserError(
                f"no encoder here is called '{name}'",
                where=option,
                fix=f"Did you mean {near}?" if near else f"There are {there}",
            )


def _check_set(request: EvaluationRequest) -> None:
    """Refuse settings of what does not run."""
    known = {name for encoder in request.encoders for name in (encoder.name, encoder.label)}
    known |= {*(request.settings.heads or known_heads.names())}
    known |= {name for task in request.tasks for name in request.heads_of(task.card)}
    for key in request.settings.set:
        if key not in known:
            near = suggest(key, known)
            hint = f"Did you mean {near}?" if near else f"Known here: {', '.join(sorted(known))}"
            raise UserError(f"unknown key '{key}'", where="--set", fix=hint)
