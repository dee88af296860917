"""Turn rows of slides with published sides into a cohort and episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spade_bench.cohorts.leaks import Leak, find_leaks, refuse_leaks
from spade_bench.cohorts.spelling import read_flag
from spade_bench.errors import DataError, name_some
from spade_bench.types import Case, Cohort, Episode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PublishedSplits", "Unit", "assemble"]

Unit = Literal["case", "slide"]


@dataclass(frozen=True)
class PublishedSplits:
    """A cohort with splits that others published.

    Attributes:
        cohort: The units; with slides as units, each slide is a case of its own.
        episodes: One per fold, in units.
        unit: What a unit is.
        patient_of: Unit -> case, for resampling by case where slides are the units.
        leaks: What was accepted with `allow_leaky`; empty otherwise.
        flags: Marks that every result from these splits must carry.
    """

    cohort: Cohort
    episodes: tuple[Episode, ...]
    unit: Unit
    patient_of: Mapping[str, str]
    leaks: tuple[Leak, ...]
    flags: tuple[str, ...]


def assemble(
    frame: pd.DataFrame,
    sides: Mapping[str, Sequence[str | None]],
    *,
    name: str,
    where: str,
    classes: tuple[str, ...],
    unit: Unit,
    allow_leaky: bool,
    protocol: str = "",
    k_shot: int | None = None,
) -> PublishedSplits:
    """Check the rows and build the cohort and its episodes.

    Args:
        frame: One row per slide: `case_id`, `slide_id`, and `label` or `event, duration_days`.
        sides: `fold_{i}` -> for each row train, val, test, or None when it is not used.
        name: Name of the cohort.
        where: File or folder, for messages.
        classes: Class names; empty for survival.
        unit: What a unit is.
        allow_leaky: Accept leaking cases, with slides as units.
        protocol: Protocol of the episodes; by default `few-shot` with ``k_shot``, else `cv`.
        k_shot: Cases per class in training.

    Raises:
        DataError: On missing or contradicting values, an empty side, or a leak.
    """
    targets = ["label"] if classes else ["event", "duration_days"]
    _check_rows(frame, targets, where)
    leaks = find_leaks(
        {
            fold: [(c, s) for c, s in zip(frame["case_id"], side, strict=True) if s]
            for fold, side in sides.items()
        }
    )
    if not allow_leaky:
        refuse_leaks(leaks, where)
    actual: Unit = "slide" if leaks else unit
    ids = frame["slide_id" if actual == "slide" else "case_id"]
    cases = _units(frame.assign(_unit=ids), targets, where)
    protocol = protocol or ("few-shot" if k_shot else "cv")
    episodes = tuple(
        _episode(fold, list(ids), side, protocol=protocol, k_shot=k_shot, where=where)
        for fold, side in sides.items()
    )
    flags = (["leaky-splits"] if leaks else []) + (["unit:slide"] if actual == "slide" else [])
    return PublishedSplits(
        cohort=Cohort(name, cases, classes),
        episodes=episodes,
        unit=actual,
        patient_of=dict(zip(ids, frame["case_id"], strict=True)),
        leaks=leaks,
        flags=tuple(flags),
    )


def _check_rows(frame: pd.DataFrame, targets: Sequence[str], where: str) -> None:
    for column in ("case_id", "slide_id", *targets):
        if column not in frame:
            raise DataError(f"no column {column}", where=where)
        blank = frame[column].isna()
        if blank.any():
            raise DataError(f"{int(blank.sum())} row(s) without {column}", where=where)
    twice = frame["slide_id"][frame["slide_id"].duplicated()]
    if len(twice):
        raise DataError(f"slides in more than one row: {name_some(twice.unique())}", where=where)


def _units(frame: pd.DataFrame, targets: Sequence[str], where: str) -> tuple[Case, ...]:
    units = []
    for unit, rows in frame.sort_values(["_unit", "slide_id"]).groupby("_unit"):
        for column in targets:
            values = rows[column].unique()
            if len(values) > 1:
                raise DataError(
                    f"case {unit} has more than one {column}: {name_some(values)}",
                    where=where,
                    fix="Take slides as units",
                )
        first = rows.iloc[0]
        survival = "event" in targets
        units.append(
            Case(
                case_id=str(unit),
                slide_ids=tuple(rows["slide_id"]),
                label=None if survival else str(first["label"]),
                event=_event(first["event"], str(unit), where) if survival else None,
                duration_days=_days(first["duration_days"], str(unit), where) if survival else None,
                site=str(first["site"]) if "site" in rows and first["site"] is not None else None,
            )
        )
    return tuple(units)


def _episode(
    fold: str,
    ids: Sequence[str],
    side: Sequence[str | None],
    *,
    protocol: str,
    k_shot: int | None,
    where: str,
) -> Episode:
    members = {
        name: tuple(sorted({unit for unit, s in zip(ids, side, strict=True) if s == name}))
        for name in ("train", "val", "test")
    }
    for name in ("train", "test"):
        if not members[name]:
            raise DataError(f"{fold} has no {name} slides", where=where)
    number = int(fold.removeprefix("fold_")) if fold.startswith("fold_") else None
    return Episode(
        protocol=protocol,
        train=members["train"],
        test=members["test"],
        tune=members["val"],
        k_shot=k_shot,
        draw=number if k_shot else None,
        fold=None if k_shot else number,
    )


def _event(value: object, unit: str, where: str) -> bool:
    happened = read_flag(value)
    if happened is None:
        raise DataError(
            f"event of {unit} is {value}",
            where=where,
            fix="Use 1 or 0, or say which value means that it happened with --event-value",
        )
    return happened


def _days(value: object, unit: str, where: str) -> float:
    try:
        days = float(str(value))
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise DataError(f"duration_days of {unit} is {value}", where=where)
    return days
