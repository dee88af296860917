"""The leaderboard: means over draws with intervals, missing cells shown as missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spade_bench.escaping import csv_cell
from spade_bench.report.caveats import (
    caveats,
    ece_note,
    known,
    off_chance,
    share_held_out,
    speaks_of,
    way_of,
)
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

__all__ = ["COLUMNS", "ReportRow", "as_csv", "chosen", "leaderboard", "number",
           "status"]  # fmt: skip

COLUMNS = (
    *("encoder", "task", "head", "protocol", "k_shot", "metric"),
    *("mean", "ci_low", "ci_high", "n_cases", "n_draws", "flags", "covers"),
    *("note", "condition", "tested_on", "control", "control_of"),
)


@dataclass(frozen=True)
class ReportRow:
    """One number of the leaderboard.

    Attributes:
        encoder: Label of the encoder.
        task: Name of the task.
        head: Name of the head.
        protocol: Protocol.
        k_shot: Cases per class, or None.
        metric: Name of the metric.
        mean: Mean over draws or folds; None when none finished or the metric is undefined.
        ci_low: Lower end of the 95% interval: over draws and cases, or over folds with the
            correction of Nadeau and Bengio; None for a p value, which has none.
        ci_high: Upper end.
        n_cases: Distinct test cases.
        n_draws: Finished draws, or folds of all repeats.
        flags: Flags of the rows; `missing` and `failed` where draws are absent, `undefined` where
            the metric cannot be computed.
        note: A sentence on what a reader must not miss; mostly empty.
        condition: Cases, splits, seed or settings where the folder holds several, in words; only
            rows of one condition may be compared.
        tested_on: Name of the cohort tested on where it is another than that trained on.
        control: Name of the control that it is; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands, where it is known.
        held_out: Whether the folds are models that share held-out test cases.
    """

    encoder: str
    task: str
    head: str
    protocol: str
    k_shot: int | None
    metric: str
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    n_cases: int
    n_draws: int
    flags: tuple[str, ...]
    note: str = ""
    condition: tuple[str, ...] = ()
    tested_on: str = ""
    control: str = ""
    control_of: str = ""
    held_out: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the row with `flags` and `condition` as lists, ready for JSON."""
        lists = {"flags": list(self.flags), "condition": list(self.condition)}
        content = {**asdict(self), **lists, "covers": self.covers}
        del content["held_out"]  # which is what `covers` says
        return content

    @property
    def covers(self) -> str:
        """What the interval speaks of; empty where there is none."""
        if self.ci_low is None:
            return ""
        way = way_of(self.protocol, self.flags, self.held_out)
        return speaks_of("overall" if self.task == "overall" else way)


def leaderboard(
    series: Sequence[Series], resampler: Resampler, wanted: str = "all"
) -> list[ReportRow]:
    """Summarise every series, one row a metric.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions and resamples them.
        wanted: `all` metrics, the `primary` one of each task, or the name of one.

    Metrics are recomputed from the stored predictions; the numbers in `results.jsonl` are not
    trusted for it.
    """
    rows = []
    held = share_held_out(series)
    for one in series:
        warnings = caveats(one, resampler)
        for metric in chosen(one.metrics, wanted):
            interval = resampler.interval(one, metric) if one.rows else None
            of_metric = ("undefined",) if one.rows and interval is None else ()
            if interval and (lost := resampler.undefined(one, metric)):
                of_metric = (f"undefined-folds:{lost}",)
            if interval and known(interval.low) is None and "few-cases" not in warnings:
                of_metric = (*of_metric, "few-cases")  # too few for this metric
            rows.append(
                ReportRow(
                    encoder=one.encoder,
                    task=one.task,
                    head=one.head,
                    protocol=one.protocol,
                    k_shot=one.k_shot,
                    metric=metric,
                    mean=interval.mean if interval else None,
                    ci_low=known(interval.low) if interval else None,
                    ci_high=known(interval.high) if interval else None,
                    n_cases=resampler.cases(one),
                    n_draws=one.n_draws,
                    flags=(*one.flags, *warnings, *status(one), *of_metric),
                    condition=one.condition,
                    tested_on=one.tested_on,
                    note=(
                        off_chance(one, metric, interval, resampler)
                        or ece_note(one, metric, resampler)
                        if interval
                        else ""
                    ),
                    control=one.control,
                    control_of=one.control_of,
                    held_out=(one.task, one.protocol) in held,
                )
            )
    return rows


def chosen(metrics: Sequence[str], wanted: str) -> tuple[str, ...]:
    """The metrics of a task that are wanted; see :func:`leaderboard`."""
    if wanted == "all":
        return tuple(metrics)
    return tuple(metrics[:1]) if wanted == "primary" else tuple(m for m in metrics if m == wanted)


def status(series: Series) -> tuple[str, ...]:
    """Flags for draws that are not there."""
    out = []
    if series.failed:
        out.append("failed")
    if len(series.rows) + len(series.failed) < series.wanted * series.permutations:
        out.append("missing")
    return tuple(out)


def as_csv(rows: Sequence[ReportRow]) -> str:
    """Return the rows as csv; flags and conditions are joined by semicolons."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        content = row.as_dict()
        content |= {"flags": ";".join(row.flags), "condition": ";".join(row.condition)}
        writer.writerow([csv_cell(content[name]) for name in COLUMNS])
    return buffer.getvalue().rstrip("\n")


def number(value: float | None, metric: str = "") -> str:
    """Print a metric to three places, or say that it is missing."""
    if value is not None and metric.endswith("_p") and value < 0.001:
        return "<0.001"
    return "missing" if value is None else f"{value:.3f}"
