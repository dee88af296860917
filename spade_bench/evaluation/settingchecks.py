"""Options that do not fit: those of another protocol, and numbers out of range."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from spade_bench.console import say
from spade_bench.errors import UserError
from spade_bench.evaluation.settings import EvaluationSettings, from_workspace
from spade_bench.regions.outlines import check_share
from spade_bench.registry import kinds

if TYPE_CHECKING:
    from spade_bench.evaluation.request import EvaluationRequest, TaskRequest

__all__ = [
    "PROTOCOLS_OF",
    "check_controls",
    "check_kind_options",
    "check_numbers",
    "check_protocol_options",
    "check_published",
    "check_regions",
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
    "preserve_sites": ("cv",),
    "repeats": ("cv", "external"),
    "test_tables": ("external",),
    "test_features": ("external",),
}
"""Option -> protocols that it belongs to."""

# Option -> the kinds of task that have no use for it, what it is an option of, what that needs.
_CLASSES = ("classification", "a column of labels")
_EVENTS = ("survival", "columns of event and days")
_NOT_OF: Mapping[str, tuple[set[str], tuple[str, str]]] = {
    "label_column": ({"survival"}, _CLASSES),
    "positive": ({"survival", "regression"}, _CLASSES),
    **dict.fromkeys(
        ("event_column", "days_column", "event_value"), ({"classification", "regression"}, _EVENTS)
    ),
}

_AT_LEAST = {"seed": 0, "draws": 1, "folds": 2, "repeats": 1, "permutations": 1}
_WITH_PUBLISHED = {"few-shot": ("shots",), "cv": (), "external": ("test_features",),
                   "leave-site-out": ()}  # fmt: skip
"""Protocol of published splits -> options that they leave open."""


def protocol_of(request: EvaluationRequest, task: TaskRequest) -> str:
    """The protocol that a task will run under; empty where published splits or sections do."""
    if request.settings.protocol:
        return request.settings.protocol
    if kinds.get(task.card.kind).card.units == "spots":
        return ""  # the sections decide
    if task.published is not None or task.splits is not None:
        return ""
    return "few-shot" if task.test_table is None else "external"


def check_request(request: EvaluationRequest) -> None:
    """Refuse numbers out of range, and options that the protocol of a task would not look at.

    Where published splits decide the protocol, :func:`check_published` looks again. What the
    workspace says for other protocols and kinds of task is no mistake; it is said.

    Raises:
        UserError: Naming the option.
    """
    check_numbers(request.settings)
    check_controls(request.settings)
    check_regions(request.settings)
    _say_heads_not_used(request)
    protocols = [protocol_of(request, task) for task in request.tasks]
    if "" in protocols:
        return
    # An option of one task of several is no mistake.
    options = _options_of(request)
    for protocol in dict.fromkeys(protocols):
        check_protocol_options({n for n in options if not _used_by_any(n, protocols)}, protocol)
    standing = from_workspace(request.workspace).said() - request.given.said()
    idle = [n for n in PROTOCOLS_OF if n in standing and not _used_by_any(n, protocols)]
    if idle and request.workspace is not None:
        owners = " and ".join(dict.fromkeys(owner for n in idle for owner in PROTOCOLS_OF[n]))
        say(
            f"{request.workspace.path}: {' and '.join(idle)} of `run` belong to {owners} and are "
            f"not used with {' and '.join(dict.fromkeys(protocols))}"
        )


def said_options(given: EvaluationSettings) -> set[str]:
    """Options of protocols that are set; to leave something off asks for nothing."""
    return {
        name for name in given.said() & PROTOCOLS_OF.keys() if getattr(given, name) is not False
    }


def _options_of(request: EvaluationRequest) -> set[str]:
    """Options of protocols that are set, less what belongs to another cohort where there is one.

    In Python every protocol takes the other cohort of a task for its test set.
    """
    tested = any(task.test_table is not None for task in request.tasks)
    return said_options(request.given) - ({"test_features"} if tested else set())


def _say_heads_not_used(request: EvaluationRequest) -> None:
    """Say for which kinds of task no head of the workspace serves; see `heads_of`."""
    said = set()
    for task in request.tasks:
        taken, kind = request.heads_of(task.card), task.card.kind
        if request.settings.heads and taken != request.settings.heads and kind not in said:
            said.add(kind)
            place = request.workspace.path if request.workspace is not None else ""
            say(f"{place}: no head of `run` serves {kind}, which takes {', '.join(taken)}")


def check_published(request: EvaluationRequest, protocol: str) -> None:
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
    said = {name for name in _options_of(request) if not _used_by_any(name, others)}
    check_protocol_options(said, protocol)
    for name in PROTOCOLS_OF:
        grouped = name == "group_by_site" and request.settings.select  # for the inner folds
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


def check_kind_options(given: Collection[str], kinds: Collection[str]) -> None:
    """Refuse options that no task would look at.

    Args:
        given: Options that were said, by field name.
        kinds: Kinds of the tasks that will run.

    Raises:
        UserError: When one of them belongs to another kind of task.
    """
    for name, (deaf, (owner, needed)) in _NOT_OF.items():
        if name in given and set(kinds) <= deaf:
            here = " or ".join(sorted(set(kinds)))
            raise UserError(
                f"{_flag(name)} is an option of {owner}, and every task here is {here}",
                fix=f"Leave it out, or give a table that has {needed}",
            )


def check_numbers(settings: EvaluationSettings) -> None:
    """Refuse numbers that nothing can be done with.

    Raises:
        UserError: When one is too small.
    """
    for name, least in _AT_LEAST.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UserError(f"{_flag(name)} is {value}", fix=f"Use {least} or more")
    for shot in settings.shots or ():
        if shot < 1:
            raise UserError(f"--shots holds {shot}", fix="Use 1 or more")


def check_controls(settings: EvaluationSettings) -> None:
    """Refuse an option of the controls where there are none.

    Raises:
        UserError: When shuffles were asked for, and no controls.
    """
    if settings.controls is False and settings.permutations is not None:
        raise UserError(
            "--permutations is an option of the controls, and --no-controls leaves them out",
            fix="Leave out one of the two",
        )


def check_regions(settings: EvaluationSettings) -> None:
    """Refuse options of regions where there are none, and a share that is none.

    Raises:
        UserError: Naming the option.
    """
    for name in ("region_names", "region_share"):
        if getattr(settings, name) and settings.regions is None:
            flag = {"region_names": "--region-name"}.get(name) or _flag(name)
            raise UserError(
                f"{flag} chooses among regions, and none are given",
                fix="Add --regions DIR, or leave it out",
            )
    check_share(settings.region_share)


def _used_by_any(name: str, protocols: Sequence[str]) -> bool:
    return any(protocol in PROTOCOLS_OF[name] for protocol in protocols)


def _flag(name: str) -> str:
    singular = {"test_tables": "test_table"}.get(name, name)
    return f"--{singular.replace('_', '-')}"
