"""Encoders x tasks: the table of a paper, with the best of each task and what ties with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spade_bench.errors import DataError
from spade_bench.report.differences import compare
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.overall import OverallRow
from spade_bench.report.series import Place, Series
from spade_bench.report.values import Resampler

__all__ = ["BEST", "TIE", "UNTESTED", "Column", "WideRow", "WideTable", "paired_p", "wide_tables"]

BEST, TIE, UNTESTED = "best", "tie", "untested"
_LEVEL = 0.05


class Column(NamedTuple):
    """A number of each encoder: a metric of a task with a head."""

    task: str
    head: str
    metric: str


@dataclass(frozen=True)
class WideRow:
    """An encoder or control.

    Attributes:
        encoder: Its label.
        control: Name of the control that it is; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands, where it is known.
        version: Flag that tells several versions of one name apart, or empty.
        cells: Its numbers; a column that is not there was not run.
        marks: `best`, `tie` where the paired test finds no difference from the best, or `untested`
            where the two share no episode or the test is undefined.
    """

    encoder: str
    control: str
    control_of: str
    version: str
    cells: Mapping[Column, ReportRow]
    marks: Mapping[Column, str]

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of any of its numbers, each once."""
        return tuple(dict.fromkeys(flag for row in self.cells.values() for flag in row.flags))


@dataclass(frozen=True)
class WideTable:
    """Rows that may stand side by side: one protocol, number of shots, part and condition.

    Attributes:
        protocol: Protocol.
        k_shot: Cases per class, or None.
        part: `ensemble` for the mean of the fold models of cross-validation, else empty.
        condition: Cases, splits, seed or settings where the folder holds several, in words.
        columns: Its columns, by task; of several heads only such as share no task.
        rows: Encoders, best mean place first, each with its controls below it.
    """

    protocol: str
    k_shot: int | None
    part: str
    condition: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[WideRow, ...]


def wide_tables(
    rows: Sequence[ReportRow],
    series: Sequence[Series],
    resampler: Resampler,
    ranks: Sequence[OverallRow] = (),
) -> list[WideTable]:
    """Arrange the rows of a leaderboard as encoders x tasks.

    Args:
        rows: The leaderboard, mean ranks and log-rank tests included where wanted.
        series: What it was made from, for the paired tests.
        resampler: Reads predictions and resamples cases.
        ranks: Mean ranks, with the tests that mark those.
    """
    places: dict[tuple[str, int | None, str, tuple[str, ...]], list[ReportRow]] = {}
    for row in rows:
        part = "ensemble" if "ensemble" in row.flags else ""
        places.setdefault((row.protocol, row.k_shot, part, row.condition), []).append(row)
    out = []
    for (protocol, k_shot, part, condition), alike in places.items():
        for heads in _head_groups(alike):
            mine = [row for row in alike if row.head in heads]
            columns = tuple(dict.fromkeys(Column(r.task, r.head, r.metric) for r in mine))
            marks: dict[tuple[Column, str], str] = {}
            for column in columns:
                marks |= _marks(column, mine, series, resampler, ranks)
            table = WideTable(protocol, k_shot, part, condition, columns, _rows(mine, marks))
            out.append(table)
    return out


def paired_p(
    series: Sequence[Series], resampler: Resampler, metric: str, best: str, others: Sequence[str]
) -> dict[str, float]:
    """Test each of some encoders against the best one; p adjusted by Holm over them.

    Args:
        series: Series of one place.
        resampler: Gives all the same resamples of cases.
        metric: Name of the metric.
        best: Label of the best encoder.
        others: Labels of the others.

    Returns:
        Label -> p; an encoder that cannot be paired or tested is left out.
    """
    found: dict[str, float | None] = {}
    for other in others:
        try:
            tested = compare(series, resampler, best, other, metrics=[metric])
        except DataError:  # no shared episode
            continue
        found[other] = tested[0].p if tested else None
    return _holm(found)


def _holm(found: Mapping[str, float | None]) -> dict[str, float]:
    """Adjust the p of each label by Holm over all of them; one without a test is left out."""
    import math

    import numpy as np

    from spade_bench.statistics.multiplicity import holm

    known = {label: p for label, p in found.items() if p is not None and math.isfinite(p)}
    adjusted = holm(np.array([*known.values()], dtype=float)) if known else ()
    return {label: float(p) for label, p in zip(known, adjusted, strict=True)}


def _head_groups(rows: Sequence[ReportRow]) -> list[set[str]]:
    """Heads that share no task go into one table: those of survival beside those of classes."""
    tasks: dict[str, set[str]] = {}
    for row in rows:
        tasks.setdefault(row.head, set()).add(row.task)
    groups: list[tuple[set[str], set[str]]] = []
    for head, of_head in tasks.items():
        free = next((group for group in groups if not group[1] & of_head), None)
        if free is None:
            groups.append(({head}, set(of_head)))
        else:
            free[0].add(head)
            free[1].update(of_head)
    return [heads for heads, _ in groups]


def _marks(
    column: Column,
    rows: Sequence[ReportRow],
    series: Sequence[Series],
    resampler: Resampler,
    ranks: Sequence[OverallRow],
) -> dict[tuple[Column, str], str]:
    """Mark the best encoder of a column, and those not shown to differ from it."""
    from spade_bench.statistics.evaluate import ALL_METRICS, direction

    alike = [
        row
        for row in rows
        if Column(row.task, row.head, row.metric) == column
        and row.control in {"", "base"}
        and row.mean is not None
    ]
    labels = [row.encoder for row in alike]
    if column.metric == "mean_rank":
        here = (rows[0].protocol, rows[0].condition)
        found = {r.encoder: r.p_best for r in ranks if (r.protocol, r.condition) == here}
        firsts = [label for label in labels if label in found and found[label] is None]
        others = [label for label in labels if label in found and found[label] is not None]
        tested = _holm({label: found[label] for label in others})
        return _marked(column, firsts, others, tested)
    if len(alike) < 2 or column.metric not in ALL_METRICS or not direction(column.metric):
        return {}
    sign = direction(column.metric)
    best = max(alike, key=lambda row: sign * (row.mean or 0.0))
    part = "ensemble" if "ensemble" in best.flags else ""
    place = Place(best.task, best.head, best.protocol, best.k_shot or 0, part, best.condition)
    alike_series = [one for one in series if one.place == place]
    others = [label for label in labels if label != best.encoder]
    tested = paired_p(alike_series, resampler, column.metric, best.encoder, others)
    return _marked(column, [best.encoder], others, tested)


def _marked(
    column: Column, best: Sequence[str], others: Sequence[str], tested: Mapping[str, float]
) -> dict[tuple[Column, str], str]:
    """Mark the best, those of which the test says no difference, and those it cannot speak of."""
    marks = {(column, label): BEST for label in best}
    for label in others:
        if label not in tested:
            marks[column, label] = UNTESTED
        elif tested[label] >= _LEVEL:
            marks[column, label] = TIE
    return marks


def _rows(
    rows: Sequence[ReportRow], marks: Mapping[tuple[Column, str], str]
) -> tuple[WideRow, ...]:
    from spade_bench.statistics.evaluate import direction

    cells: dict[tuple[str, str, str, str], dict[Column, ReportRow]] = {}
    for row in rows:
        version = next((flag for flag in row.flags if flag.startswith("inputs:")), "")
        key = (row.encoder, row.control, row.control_of, version)
        cells.setdefault(key, {})[Column(row.task, row.head, row.metric)] = row
    # A control that was never run here says nothing; an encoder that was not is missed.
    cells = {
        key: of_key
        for key, of_key in cells.items()
        if key[1] in {"", "base"} or any(row.mean is not None for row in of_key.values())
    }
    places: dict[str, list[float]] = {}
    first: dict[str, Column] = {}
    for row in rows:
        first.setdefault(row.task, Column(row.task, row.head, row.metric))
    for column in first.values():
        sign = -1 if column.metric == "mean_rank" else direction(column.metric) or 1
        there = sorted(
            (-sign * (of_key[column].mean or 0.0), key[0])
            for key, of_key in cells.items()
            if key[1] in {"", "base"} and column in of_key and of_key[column].mean is not None
        )
        for place, (_, label) in enumerate(there):
            places.setdefault(label, []).append(place / max(1, len(there) - 1))
    mean = {label: sum(values) / len(values) for label, values in places.items()}

    def order(key: tuple[str, str, str, str]) -> tuple[object, ...]:
        label, control, control_of, version = key
        alone = control in {"", "base"}
        owner = label if alone else control_of or label
        return owner not in mean, mean.get(owner, 0.0), owner, not alone, control, label, version

    return tuple(
        WideRow(
            *key,
            cells[key],
            {column: marks[column, key[0]] for column in cells[key]
             if key[1] in {"", "base"} and (column, key[0]) in marks
             and cells[key][column].mean is not None},
        )
        for key in sorted(cells, key=order)
    )  # fmt: skip
