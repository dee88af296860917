"""The leaderboard of the page: a table per place, each with every metric and number of shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spade_bench.report import risk_split
from spade_bench.report.caveats import speaks_of, way_of
from spade_bench.report.flags import meaning, shared
from spade_bench.report.leaderboard import ReportRow, leaderboard
from spade_bench.report.naming import encoder_title, head_title, protocol_title
from spade_bench.report.page.resultsview import ResultsView
from spade_bench.report.spotvalues import OF_SECTIONS

__all__ = ["Line", "Standing", "flag_meanings", "report_rows", "standings"]

MOST_ROWS = 20_000
"""Rows beyond which a page would be too large: then it holds the first metric of each task only."""


class _LineKey(NamedTuple):
    encoder: str
    head: str
    control: str
    control_of: str
    version: str  # of several inputs of one name


@dataclass
class Line:
    """An encoder or control with one head, at every number of shots.

    Attributes:
        encoder: Label.
        head: Name of the head.
        control: Name of the control that it is; empty for an encoder itself.
        cells: Rows of the report by metric and number of shots (0 where there are none).
        controls: The lines of its controls.
    """

    encoder: str
    head: str
    control: str
    cells: dict[str, dict[int, ReportRow]] = field(default_factory=dict)
    controls: list[Line] = field(default_factory=list)

    def score(self, metric: str, shot: int) -> float:
        """How good its number is, for sorting: the best first, what is missing last."""
        from spade_bench.statistics.evaluate import direction

        by_shot = self.cells.get(metric, {})
        row = by_shot.get(shot, by_shot.get(0))
        sign = 1 if metric == risk_split.METRIC else -(direction(metric) or 1)
        return float("inf") if row is None or row.mean is None else sign * row.mean


@dataclass
class Standing:
    """Rows that may be compared: one task, protocol and condition.

    Attributes:
        task: Name of the task.
        protocol: Protocol.
        part: `ensemble` for the mean of the fold models of cross-validation, else empty.
        condition: Cases, splits, seed or settings where the folders hold several, in words.
        metrics: Metrics, the primary one first.
        shots: Numbers of shots, or 0 alone.
        lines: Encoders, best first, each with its controls; then controls of no encoder.
        flags: Flags that all its encoders have.
        about: How its numbers were made and what the intervals cover, in words.
    """

    task: str
    protocol: str
    part: str
    condition: tuple[str, ...]
    metrics: tuple[str, ...]
    shots: tuple[int, ...]
    lines: list[Line]
    flags: tuple[str, ...]
    about: str

    @property
    def place(self) -> str:
        """Protocol and what sets it apart, in words."""
        words = (protocol_title(self.protocol), self.part, *self.condition)
        return ", ".join(filter(None, words))

    def as_data(self, order: Mapping[str, int]) -> dict[str, Any]:
        """Return what the page's script draws from; flags are numbers in ``order``."""
        return {
            "task": self.task,
            "protocol": self.protocol,
            "metrics": list(self.metrics),
            "shots": list(self.shots),
            "common": [order[flag] for flag in self.flags],
            "lines": [_as_data(line, order) for line in self.lines],
        }


def report_rows(results: ResultsView, wanted: str = "all") -> list[ReportRow]:
    """Return the rows of every task, log-rank tests among them, as `report --json` has them."""
    splits = risk_split.risk_splits(results.series, results.resampler)
    tests = risk_split.as_report_rows(splits) if wanted == "all" else []
    return [*leaderboard(results.series, results.resampler, wanted), *tests]


def standings(rows: Sequence[ReportRow]) -> list[Standing]:
    """Arrange the rows of a report by place.

    Args:
        rows: Rows of the leaderboard.
    """
    places: dict[tuple[Any, ...], list[ReportRow]] = {}
    for row in rows:
        part = "ensemble" if "ensemble" in row.flags else ""
        places.setdefault((row.task, row.protocol, part, row.condition), []).append(row)
    return [_standing(place, alike) for place, alike in places.items()]


def flag_meanings(rows: Sequence[ReportRow], words: Mapping[str, str]) -> dict[str, str]:
    """Return every flag of the rows with what it means; empty where nobody says.

    Args:
        rows: Rows of the report.
        words: What flags mean that only their encoder knows.
    """
    flags = sorted({flag for row in rows for flag in row.flags})
    return {flag: meaning(flag, words) for flag in flags}


def _standing(place: tuple[Any, ...], rows: Sequence[ReportRow]) -> Standing:
    task, protocol, part, condition = place
    lines: dict[_LineKey, Line] = {}
    for row in rows:
        version = next((flag for flag in row.flags if flag.startswith("inputs:")), "")
        key = _LineKey(row.encoder, row.head, row.control, row.control_of, version)
        line = lines.setdefault(key, Line(row.encoder, row.head, row.control))
        line.cells.setdefault(row.metric, {})[row.k_shot or 0] = row
    metrics = tuple(dict.fromkeys(row.metric for row in rows))
    known = {row.k_shot for row in rows if row.k_shot}
    shots = tuple(sorted(known)) or (0,)  # cells that failed early know of no shots
    common = shared([row.flags for row in rows if not row.control and row.mean is not None])
    way = way_of(protocol, rows[0].flags, rows[0].held_out)
    return Standing(
        task=task,
        protocol=protocol,
        part=part,
        condition=condition,
        metrics=metrics,
        shots=shots,
        lines=_arranged(lines, metrics[0], shots[-1]),
        flags=tuple(flag for flag in common if not flag.startswith("inputs:")),
        about=_about(rows, way),
    )


def _arranged(lines: Mapping[_LineKey, Line], metric: str, shot: int) -> list[Line]:
    """Encoders by their number, best first, with their controls; then controls of no encoder."""

    def best_first(several: list[Line]) -> list[Line]:
        return sorted(several, key=lambda one: (one.score(metric, shot), one.encoder, one.head))

    mains: dict[tuple[str, str], Line] = {}
    for key, line in lines.items():
        if not key.control:
            mains.setdefault((key.encoder, key.head), line)
    alone: list[Line] = []
    for key, line in lines.items():
        if key.control:
            owner = mains.get((key.control_of or key.encoder, key.head))
            (alone if owner is None else owner.controls).append(line)
    encoders = best_first([line for key, line in lines.items() if not key.control])
    for line in encoders:
        line.controls = best_first(line.controls)
    return [*encoders, *best_first(alone)]


def _about(rows: Sequence[ReportRow], way: str) -> str:
    cases, n = max(row.n_cases for row in rows), max(row.n_draws for row in rows)
    one = {"cv": "fold", "fold models": "fold model", "ensemble": "ensemble", "external": "fit",
           "leave-site-out": "site"}  # fmt: skip
    of_spots = rows[0].protocol in OF_SECTIONS
    what = "fold" if of_spots else one.get(way, "draw")
    made = f"1 {what}" if n == 1 else f"mean of {n} {what}s"
    elsewhere = "/".join(sorted({row.tested_on for row in rows} - {""}))
    of_what = "sections" if of_spots else "cases"
    tested = f"{cases} test {of_what}{f' of {elsewhere}' if elsewhere else ''}"
    return f"{tested}, {made}; 95% intervals {speaks_of(way)}"


def _as_data(line: Line, order: Mapping[str, int]) -> dict[str, Any]:
    data: dict[str, Any] = {"encoder": line.encoder, "head": line.head}
    # In print everything has its name; search and links go by labels too.
    data["name"] = encoder_title(line.encoder, line.control)
    data["head_name"] = head_title(line.head)
    data["cells"] = {
        metric: {shot: _cell(row, order) for shot, row in by_shot.items()}
        for metric, by_shot in line.cells.items()
    }
    if line.control:
        data["control"] = line.control
    if line.controls:
        data["controls"] = [_as_data(one, order) for one in line.controls]
    return data


def _cell(row: ReportRow, order: Mapping[str, int]) -> list[Any]:
    """A number as the script reads it: mean, ends, cases, draws, flags, note."""
    ends = [_short(value) for value in (row.mean, row.ci_low, row.ci_high)]
    return [*ends, row.n_cases, row.n_draws, [order[flag] for flag in row.flags], row.note]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.7g}")
