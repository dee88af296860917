"""Options that do not fit: those of another protocol, and numbers out of range."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from spade_bench.errors import UserError

__all__ = [
    "PROTOCOLS_OF",
    "check_controls",
    "check_kind_options",
    "check_numbers",
    "check_protocol_options",
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


def check_protocol_options(given: Mapping[str, Any], protocol: str) -> None:
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


def _flag(name: str) -> str:
    singular = {"test_tables": "test_table"}.get(name, name)
    return f"--{singular.replace('_', '-')}"
