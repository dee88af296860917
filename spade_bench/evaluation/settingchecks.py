"""Options that do not fit: those of another protocol, and numbers out of range."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spade_bench import workspace as ws
from spade_bench.console import say
from spade_bench.errors import UserError

if TYPE_CHECKING:
    from spade_bench.evaluation.request import RunRequest, TaskRequest

__all__ = [
    "PROTOCOLS_OF",
    "check_controls",
    "check_kind_options",
    "check_numbers",
    "check_protocol_options",
    "check_published",
    "check_request",
    "protocol_of",
    "said_options",
]

PROTOCOLS_OF: Mapping[str, tuple[str, ...]] = {
    "shots": ("few-shot",),
    "draws": ("few-shot",),
    "folds": ("cv",),
    "holdout": ("cv",),
    "group_by_site": ("cv",),
    "repeats": ("cv", "external"),
    "test_tables": ("external",),
    "test_features": ("external",),
}
"""Option -> protocols that it belongs to."""

# Option -> the kind of task that has no use for it, and what it is an option of.
_NOT_OF = {
    **dict.fromkeys(("label_column", "positive"), ("survival", "classification")),
    **dict.fromkeys(("event_column", "days_column", "event_value"), ("classification", "survival")),
}

_AT_LEAST = {"seed": 0, "draws": 1, "folds": 2, "repeats": 1, "permutations": 1}
_WITH_PUBLISHED = {"few-shot": ("shots",), "cv": (), "external": ("test_features",)}
"""Protocol of published splits -> options that they leave open."""


def protocol_of(request: RunRequest, task: TaskRequest) -> str:
    """The protocol that a task will run under; empty where published splits decide it."""
    if request.protocol:
        return request.protocol
    if task.published is not None or task.splits is not None:
        return ""
    return "few-shot" if task.test_table is None else "external"


def check_request(request: RunRequest) -> None:
    """Refuse numbers out of range, and options that the protocol of a task would not look at.

    Where published splits decide the protocol, :func:`check_published` looks again.

    Raises:
        UserError: Naming the option.
    """
    said = said_options(request)
    check_numbers({name: getattr(request, name) for name in (*_AT_LEAST, "shots")})
    check_controls(request.controls, request.permutations)
    protocols = [protocol_of(request, task) for task in request.tasks]
    if "" in protocols:
        return
    # An option of one task of several is no mistake.
    for protocol in dict.fromkeys(protocols):
        check_protocol_options({n for n in said if not _used_by_any(n, protocols)}, protocol)
    idle = [n for n in _from_workspace(request) if not _used_by_any(n, protocols)]
    if idle and request.workspace is not None:
        say(
            f"{request.workspace.path}: {' and '.join(idle)} of `run` belong to few-shot and are "
            f"not used with {' and '.join(dict.fromkeys(protocols))}"
        )


def said_options(request: RunRequest) -> set[str]:
    """Options of protocols that were said: by flag or file, or in Python by another value.

    What the workspace file says stands for every run, whatever its protocol, and is left out.
    """
    said = {name for name in request.given if name in PROTOCOLS_OF}
    standing = set(_from_workspace(request))
    for field in dataclasses.fields(request):
        if field.name in PROTOCOLS_OF and field.name not in standing:
            empty = {} if field.default is dataclasses.MISSING else field.default
            if getattr(request, field.name) != empty:
                said.add(field.name)
    if request.any_test_features is not None:
        said.add("test_features")
    if any(task.test_table is not None for task in request.tasks):
        # In Python every protocol takes the other cohort for its test set.
        said -= {"test_features"} - set(request.given)
    return said


def check_published(request: RunRequest, protocol: str) -> None:
    """Refuse options that splits which others published leave no room for.

    Args:
        request: What was asked for.
        protocol: The protocol of the splits.

    Raises:
        UserError: Naming the option.
    """
    others = [
        protocol_of(request, task)
        for task in request.tasks
        if task.published is None and task.splits is None
    ]
    said = {name for name in said_options(request) if not _used_by_any(name, others)}
    check_protocol_options(said, protocol)
    for name in PROTOCOLS_OF:
        grouped = name == "group_by_site" and request.select  # for the inner folds
        if name in said and not grouped and name not in _WITH_PUBLISHED[protocol]:
            raise UserError(
                f"{_flag(name)} divides cases, and published splits have divided them already",
                fix="Leave it out",
            )


def check_protocol_options(given: Collection[str], protocol: str) -> None:
    """Refuse options that the protocol would not look at.

    Args:
        given: Options that were said, by field name.
        protocol: The protocol that will run.

    Raises:
        UserError: When one of them belongs to other protocols only.
    """
    for name, owners in PROTOCOLS_OF.items():
        if name in given and protocol not in owners:
            whose = " and ".join(owners)
            raise UserError(
                f"{_flag(name)} is an option of {whose}, and the protocol is {protocol}",
                fix=f"Leave it out, or give --protocol {owners[0]}",
            )


def check_kind_options(given: Mapping[str, Any], kinds: Collection[str]) -> None:
    """Refuse options that no task would look at.

    Args:
        given: Options that were said, by field name.
        kinds: Kinds of the tasks that will run.

    Raises:
        UserError: When one of them belongs to another kind of task.
    """
    for name, (deaf, owner) in _NOT_OF.items():
        if name in given and set(kinds) == {deaf}:
            needed = "columns of event and days" if owner == "survival" else "a column of labels"
            raise UserError(
                f"{_flag(name)} is an option of {owner}, and every task here is {deaf}",
                fix=f"Leave it out, or give a table that has {needed}",
            )


def check_numbers(given: Mapping[str, Any]) -> None:
    """Refuse numbers that nothing can be done with.

    Raises:
        UserError: When one is too small.
    """
    for name, least in _AT_LEAST.items():
        value = given.get(name)
        if value is not None and value < least:
            raise UserError(f"{_flag(name)} is {value}", fix=f"Use {least} or more")
    for shot in given.get("shots") or ():
        if shot < 1:
            raise UserError(f"--shots holds {shot}", fix="Use 1 or more")


def check_controls(controls: bool | None, permutations: int | None) -> None:
    """Refuse an option of the controls where there are none.

    Raises:
        UserError: When shuffles were asked for, and no controls.
    """
    if controls is False and permutations is not None:
        raise UserError(
            "--permutations is an option of the controls, and --no-controls leaves them out",
            fix="Leave out one of the two",
        )


def _used_by_any(name: str, protocols: Sequence[str]) -> bool:
    return any(protocol in PROTOCOLS_OF[name] for protocol in protocols)


def _from_workspace(request: RunRequest) -> list[str]:
    """Options of protocols that the workspace file says and nothing else."""
    if request.workspace is None:
        return []
    own, usual = request.workspace.run, ws.RunEntry()
    return [
        name
        for name in ("shots", "draws")
        if name not in request.given
        and getattr(own, name) != getattr(usual, name)
        and getattr(request, name) == getattr(own, name)
    ]


def _flag(name: str) -> str:
    singular = {"test_tables": "test_table"}.get(name, name)
    return f"--{singular.replace('_', '-')}"
