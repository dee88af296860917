"""Cases that stand on more than one side of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spade_bench.errors import DataError, name_some

__all__ = ["Leak", "describe_leaks", "find_leaks", "name_some", "refuse_leaks"]

SIDES = ("train", "val", "test")


@dataclass(frozen=True)
class Leak:
    """The cases that a split puts on more than one side.

    Attributes:
        split: Name of the split, such as `fold_3`.
        cases: Case -> the sides it stands on, in the order train, val, test.
    """

    split: str
    cases: Mapping[str, tuple[str, ...]]

    @property
    def test_cases(self) -> tuple[str, ...]:
        """The cases that are tested on and also seen before."""
        return tuple(case for case, sides in self.cases.items() if "test" in sides)


def find_leaks(splits: Mapping[str, Iterable[tuple[str, str]]]) -> tuple[Leak, ...]:
    """Find cases on several sides of a split.

    Args:
        splits: Name of a split -> (case id, side) of each of its rows.

    Returns:
        One leak for each split that has such cases; none when all is well.
    """
    leaks = []
    for name, rows in splits.items():
        sides: dict[str, set[str]] = defaultdict(set)
        for case_id, side in rows:
            sides[case_id].add(side)
        several = {
            case_id: tuple(sorted(sides_of_case, key=_position))
            for case_id, sides_of_case in sorted(sides.items())
            if len(sides_of_case) > 1
        }
        if several:
            leaks.append(Leak(name, several))
    return tuple(leaks)


def describe_leaks(leaks: Sequence[Leak], limit: int = 20) -> str:
    """Say how many cases leak in which splits, and name them."""
    cases = sorted({case for leak in leaks for case in leak.cases})
    counts = ", ".join(f"{leak.split}: {len(leak.cases)}" for leak in leaks[:limit])
    return (
        f"{len(cases)} case(s) have slides on more than one side of a split ({counts}): "
        f"{name_some(cases, limit)}"
    )


def refuse_leaks(leaks: Sequence[Leak], where: str) -> None:
    """Refuse splits with leaks.

    Raises:
        DataError: Naming the cases, when there are any.
    """
    if leaks:
        raise DataError(
            describe_leaks(leaks),
            where=where,
            fix="Split by case, or accept them with --allow-leaky-splits, which marks every result",
        )


def _position(side: str) -> tuple[int, str]:
    return (SIDES.index(side) if side in SIDES else len(SIDES), side)
