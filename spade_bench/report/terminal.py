"""The leaderboard as a person reads it: a table per task and protocol, controls below encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spade_bench import console
from spade_bench.report.bylevels import LevelRow
from spade_bench.report.caveats import PERMUTATIONS, PERMUTED, speaks_of, way_of
from spade_bench.report.differences import Difference
from spade_bench.report.flags import OF_CELLS, code, empty_cell, explain, shared
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.overall import OverallRow
from spade_bench.report.risk_split import RiskSplit
from spade_bench.report.series import Series
from spade_bench.report.spotvalues import OF_SECTIONS

__all__ = ["print_differences", "print_failures", "print_leaderboard", "print_legend",
           "print_levels", "print_notes", "print_overall", "print_risk_splits"]  # fmt: skip

_OF_SHOTS = ("few-cases", "small-pool", "same-draws")  # may hold for some shots of an encoder only
_DIRECTION = {1: "", -1: " (lower is better)", 0: " (1 is best)"}


class _Line(NamedTuple):
    """A line of a leaderboard: an encoder or control with one head.

    Attributes:
        encoder: Label.
        head: Name of the head.
        flags: Flags that hold for all shots.
        control: Name of the control that it is, or empty.
        control_of: Label of the encoder beside which the control stands.
    """

    encoder: str
    head: str
    flags: tuple[str, ...]
    control: str
    control_of: str


def print_leaderboard(rows: Sequence[ReportRow]) -> None:
    """Print a table for each task, protocol, condition and metric: a row per encoder and head."""
    from spade_bench.statistics.evaluate import direction

    for place in dict.fromkeys(map(_place, rows)):
        alike = [row for row in rows if _place(row) == place]
        task, protocol, metric, _, condition = place
        way = way_of(protocol, alike[0].flags, alike[0].held_out)
        what = f"{task}: {metric}{_DIRECTION[direction(metric)]}{_apart(condition)}"
        _print_place(f"{what}, {_protocol(protocol, way, alike)}", alike)


def print_overall(rows: Sequence[OverallRow]) -> None:
    """Print mean ranks over tasks, a table a protocol and condition."""
    for protocol, condition in dict.fromkeys((row.protocol, row.condition) for row in rows):
        alike = [row for row in rows if (row.protocol, row.condition) == (protocol, condition)]
        common = shared([row.flags for row in alike])
        counted = alike[0].tasks
        title = (
            f"overall{_apart(condition)}, {protocol}: mean rank over "
            f"{_count(len(counted), 'task')} by each task's first metric, 1 is best "
            f"[95% interval {speaks_of('overall')}]{_common(common)}"
        )
        cells = [
            (
                row.encoder,
                f"{row.rank:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]",
                "-" if row.p_best is None else f"{row.p_best:.3f}",
                _codes(flag for flag in row.flags if flag not in common),
            )
            for row in alike
        ]
        _table(title, ("encoder", "mean rank", "p against the first", "flags"), cells)
        if left_out := alike[0].left_out:
            console.paragraph(
                f"left out, because some encoder has no result: {', '.join(left_out)}"
            )
        if len(counted) < 6:
            console.paragraph(
                f"p by Wilcoxon's signed-rank test over tasks; with {len(counted)} it cannot fall "
                f"below {min(1.0, 2 ** (1 - len(counted))):.2f}"
            )


def print_differences(differences: Sequence[Difference], title: str) -> None:
    """Print paired differences; of several pairs, each row says which."""
    common = shared([one.flags for one in differences])
    several = len({(one.a, one.b) for one in differences}) > 1
    apart = any(one.condition for one in differences)
    columns = ["task", "head", "protocol", "k", "difference [95% interval]", "better", "p",
               "p Holm", "p BH", "metric", "test", "flags"]  # fmt: skip
    if apart:
        columns.insert(3, "condition")
    if several:
        columns.insert(0, "a minus b")
    cells = []
    for one in differences:
        rest = [f for f in one.flags if f not in common]
        shot = "-" if one.protocol != "few-shot" else "mean" if one.k_shot is None else one.k_shot
        cells.append(
            (
                *((f"{one.a} minus {one.b}",) if several else ()),
                one.task,
                one.head,
                one.protocol,
                *((", ".join(one.condition) or "-",) if apart else ()),
                shot,
                f"{one.mean:+.3f} [{one.ci_low:+.3f}, {one.ci_high:+.3f}]",
                one.better or "?",
                *(_p(value) for value in (one.p, one.p_adjusted, one.p_bh)),
                one.metric,
                one.test,
                _codes(rest),
            )
        )
    _table(f"{title}{_common(common)}", columns, cells, keys=columns.index("k") + 1)
    ways = dict.fromkeys(one.covers for one in differences)
    console.paragraph(f"[95% interval {'; '.join(ways)}]")


def print_risk_splits(splits: Sequence[RiskSplit]) -> None:
    """Print log-rank tests of the median-risk split, of the most shots, a table per task."""
    places = dict.fromkeys((split.series.task, split.series.condition) for split in splits)
    for task, condition in places:
        place = (task, condition)
        alike = [s for s in splits if (s.series.task, s.series.condition) == place]
        most = {s.series.protocol: max(t.series.k_shot or 0 for t in alike
                                       if t.series.protocol == s.series.protocol)
                for s in alike}  # fmt: skip
        shown = [s for s in alike if (s.series.k_shot or 0) == most[s.series.protocol]]
        common = shared([split.series.flags for split in shown])
        columns = ("encoder", "head", "protocol", "k", "events high", "events low", "chi2", "p",
                   "flags")  # fmt: skip
        cells = [
            (
                _label(split.series.encoder, split.series.control, owner=True),
                split.series.head,
                split.series.protocol,
                split.series.k_shot or "-",
                f"{split.events_high} of {split.n_high}",
                f"{split.events_low} of {split.n_low}",
                "undefined" if split.statistic is None else f"{split.statistic:.2f}",
                _p(split.p),
                _codes(flag for flag in split.series.flags if flag not in common),
            )
            for split in shown
        ]
        what = "log-rank test between cases above and below the median risk"
        _table(f"{task}{_apart(condition)}: {what}{_common(common)}", columns, cells, keys=3)
        if "cv" in most:
            console.paragraph("over folds p is a guide only: their risks share training cases")


def print_levels(rows: Sequence[LevelRow]) -> None:
    """Print a metric within each level of a column, a table per task, protocol and encoder."""
    from spade_bench.report.bylevels import LEAST

    places = dict.fromkeys((r.task, r.head, r.protocol, r.k_shot, r.condition) for r in rows)
    for place in places:
        alike = [r for r in rows if (r.task, r.head, r.protocol, r.k_shot, r.condition) == place]
        task, head, protocol, shot, condition = place
        shots = f", k={shot}" if shot else ""
        common = shared([row.flags for row in alike])
        cells = [
            (
                row.encoder,
                row.level,
                row.n_cases,
                "-" if row.n_events is None else row.n_events,
                f"{row.base_rate:.3g}",
                row.note or f"{row.value:.3f}",
                "-" if row.difference is None
                else f"{row.difference:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]",
                _p(row.p),
                _p(row.p_adjusted),
                _codes(flag for flag in row.flags if flag not in common),
            )
            for row in alike
        ]  # fmt: skip
        first = alike[0]
        title = f"{task}{_apart(condition)}: {first.metric} by {first.column}, {protocol}{shots}, "
        columns = ("encoder", first.column, "n", "events", "base rate", first.metric,
                   "level minus the others [95% interval]", "p", "p Holm", "flags")  # fmt: skip
        _table(f"{title}{head}{_common(common)}", columns, cells, keys=2)
    console.paragraph(
        f"events: cases of the last class, or with an event; levels with fewer than {LEAST} cases "
        "of a class (events, cases) are not tested; p Holm over the levels of an encoder"
    )


def print_failures(series: Sequence[Series]) -> None:
    """Print what went wrong in failed cells, one line for each encoder, task and head."""
    for one in series:
        if one.failed:
            shot = f", k={one.k_shot}" if one.k_shot else ""
            shot += _apart(one.condition)
            console.paragraph(
                f"failed: {one.encoder} with {one.head} on {one.task} ({one.protocol}{shot}), "
                f"{_count(len(one.failed), 'cell')}: {one.failed[0].error}"
            )


def print_notes(rows: Sequence[ReportRow]) -> None:
    """Print what a reader of single rows must not miss."""
    for row in rows:
        if row.note:
            console.paragraph(f"note: {row.note}")


def print_legend(flags: Sequence[str], words: Mapping[str, str] | None = None) -> None:
    """Print what the flags mean.

    Args:
        flags: Flags of all rows shown.
        words: What flags mean that only their encoder knows.
    """
    lines = explain(flags, words)
    if lines:
        console.paragraph("flags:")
        for line in lines:
            console.paragraph(f"  {line}", indent=6)


def _place(row: ReportRow) -> tuple[str, str, str, str, tuple[str, ...]]:
    part = "ensemble" if "ensemble" in row.flags else ""
    return row.task, row.protocol, row.metric, part, row.condition


def _apart(condition: Sequence[str]) -> str:
    """What sets a table apart from others of its task, to follow a name."""
    return f", {', '.join(condition)}" if condition else ""


def _print_place(title: str, rows: Sequence[ReportRow]) -> None:
    shots = sorted({row.k_shot or 0 for row in rows})
    lines: dict[_Line, dict[int, ReportRow]] = {}
    for row in rows:
        flags = tuple(flag for flag in row.flags if flag not in OF_CELLS and not _is_of_shot(flag))
        line = _Line(row.encoder, row.head, flags, row.control, row.control_of)
        lines.setdefault(line, {})[row.k_shot or 0] = row
    marks = {line: (*line.flags, *_of_shots(by_shot)) for line, by_shot in lines.items()}
    common = shared([marks[line] for line, by_shot in lines.items()
                     if any(row.mean is not None for row in by_shot.values())])  # fmt: skip
    cells = []
    for line in _ordered(lines):
        numbers = [_cell(lines[line].get(shot)) for shot in shots]
        rest = [mark for mark in marks[line] if mark not in common]
        name = _label(line.encoder, line.control)
        cells.append([name, line.head, *numbers, _codes(rest)])
    columns = ["encoder", "head", *(f"k={shot}" if shot else "mean" for shot in shots), "flags"]
    _table(f"{title}{_common(common)}", columns, cells, keys=2)


def _label(encoder: str, control: str, *, owner: bool = False) -> str:
    """What a line is called: a control stands below its encoder, or names it as its owner."""
    own = encoder
    if control in PERMUTED:
        own = f"{encoder}: " * owner + control.replace("-", " ")
    return f"  {own}" if control else own


def _is_of_shot(flag: str) -> bool:
    return flag in _OF_SHOTS or flag.startswith(PERMUTATIONS)


def _of_shots(by_shot: Mapping[int, ReportRow]) -> list[str]:
    """Flags of an encoder's shots; one that holds for some of them only says for which."""
    there = {shot: row for shot, row in by_shot.items() if row.mean is not None}
    out = []
    several = sorted({f for row in there.values() for f in row.flags if f.startswith(PERMUTATIONS)})
    for flag in (*_OF_SHOTS, *several):
        flagged = sorted(shot for shot, row in there.items() if flag in row.flags)
        if flagged:
            some = f" (k={','.join(map(str, flagged))})" if len(flagged) < len(there) else ""
            out.append(f"{flag}{some}")
    return out


def _protocol(protocol: str, way: str, rows: Sequence[ReportRow]) -> str:
    """How the numbers of a table were made."""
    cases, n = max(row.n_cases for row in rows), max(row.n_draws for row in rows)
    one, many = {
        "cv": ("fold", "folds"),
        "fold models": ("fold model", "fold models"),
        "ensemble": ("ensemble", "ensembles"),
        "external": ("fit", "fits"),
        "leave-site-out": ("held-out part", "held-out parts"),
        **dict.fromkeys(OF_SECTIONS, ("fold", "folds")),
    }.get(way, ("draw", "draws"))
    what = f"1 {one}" if n == 1 else f"mean of {n} {many}"
    cohort = "/".join(sorted({row.tested_on for row in rows} - {""}))
    of_what = "sections" if protocol in OF_SECTIONS else "cases"
    tested = f"{cases} test {of_what}{f' of {cohort}' if cohort else ''}"
    return f"{protocol}, {tested}, {what} [95% interval {speaks_of(way)}]"


def _ordered(lines: Mapping[_Line, Mapping[int, ReportRow]]) -> list[_Line]:
    """Head by head, best encoder first, its controls below it; at the end those of no encoder."""
    from spade_bench.statistics.evaluate import direction

    first = next(iter(next(iter(lines.values())).values()))
    sign = direction(first.metric) or 1
    score = {}
    for line, by_shot in lines.items():
        means = [row.mean for row in by_shot.values() if row.mean is not None]
        score[line] = sign * sum(means) / len(means) if means else -float("inf")
    mains: dict[tuple[str, str], _Line] = {}
    for line in lines:
        if not line.control:
            mains.setdefault((line.encoder, line.head), line)
    best = {head: max(score[line] for line in lines if line.head == head)
            for head in {line.head for line in lines}}  # fmt: skip

    def place(line: _Line) -> tuple[object, ...]:
        owner = mains.get((line.control_of or line.encoder, line.head)) if line.control else line
        return (
            -best[line.head],
            line.head,
            owner is None,
            0.0 if owner is None else -score[owner],
            owner or line,
            bool(line.control),
            line,
        )

    return sorted(lines, key=place)


def _common(flags: Sequence[str]) -> str:
    """Flags of all rows, with simulated data in capitals."""
    marks = "; ".join("SIMULATED DATA" if flag == "simulated" else flag for flag in flags)
    return f"; all rows: {marks}" if marks else ""


def _cell(row: ReportRow | None) -> str:
    if row is None:
        return "missing"
    if row.mean is None:
        return empty_cell(row.flags)
    ends = "no interval" if row.ci_low is None else f"{row.ci_low:.3f}, {row.ci_high or 0:.3f}"
    text = f"{row.mean:.3f} [{ends}]"
    absent = [flag for flag in ("missing", "failed") if flag in row.flags]
    return f"{text} ({row.n_draws} only, some {' and '.join(absent)})" if absent else text


def _codes(flags: Iterable[str]) -> str:
    """Short forms of flags; of one that holds for some shots only, which follow it."""
    cut = [flag.partition(" ") for flag in flags]
    return ", ".join(f"{code(flag)}{space}{shots}" for flag, space, shots in cut)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], keys: int = 1
) -> None:
    """A table below a title of one line, which a narrow table would fold."""
    console.paragraph(title)
    console.table("", columns, rows, keys)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
