"""From the table of a task to the cases that were split: how many, and who was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spade_bench.report.page.resultsview import ResultsView
from spade_bench.results import Row
from spade_bench.results.cohortfiles import LeftOut, StoredCohort, read_cohorts

__all__ = ["Flow", "cohort_flows", "stored_cohorts"]

MOST_NAMED = 200


@dataclass(frozen=True)
class Flow:
    """One cohort of a task.

    Attributes:
        task: Name of the task.
        words: What the cohort is called in tables.
        source: Names of the files that it came from; empty where nobody stored them.
        n_table: Cases of these files; None where nobody stored them.
        reasons: Cases left out for each reason.
        n_cases: Cases that were split; None where nobody stored them.
        n_slides: Their slides.
        slides_gone: Slides left out of cases that stayed.
        sites: Sites with the number of their cases.
        splits: How the cases were split, a sentence for each protocol.
        named: Cases and slides left out, by name; at most `MOST_NAMED`.
        incomplete: Whether slides were left out of which an older version did not say whose.
    """

    task: str
    words: str
    source: tuple[str, ...]
    n_table: int | None
    reasons: tuple[tuple[str, int], ...]
    n_cases: int | None
    n_slides: int
    slides_gone: int
    sites: tuple[tuple[str, int], ...]
    splits: tuple[str, ...]
    named: tuple[LeftOut, ...]
    incomplete: bool = False

    @property
    def n_left_out(self) -> int:
        """Cases left out."""
        return sum(count for _, count in self.reasons)


def stored_cohorts(folders: Sequence[Path], problems: list[str]) -> list[StoredCohort]:
    """Read the cohorts of several folders, equal ones once."""
    found = [one for folder in folders for one in read_cohorts(folder, problems)]
    return list(dict.fromkeys(found))


def cohort_flows(results: ResultsView, cohorts: Sequence[StoredCohort]) -> list[Flow]:
    """Follow each cohort that finished or failed cells speak of.

    Args:
        results: The results.
        cohorts: What was stored of cohorts.
    """
    by_cohort: dict[tuple[str, str], list[Row]] = {}
    for one in results.series:
        for row in (*one.rows, *one.failed):
            if row.inputs.get("cohort"):
                by_cohort.setdefault((row.task, str(row.inputs["cohort"])), []).append(row)
    flows = []
    for (task, digest), rows in by_cohort.items():
        stored = [one for one in cohorts if (one.task, one.cohort) == (task, digest)]
        # A cohort may have come about in several ways, such as from a table with more blanks.
        flows += [_flow(one, rows) for one in stored] or [_unstored(task, rows)]
    return flows


def _flow(cohort: StoredCohort, rows: Sequence[Row]) -> Flow:
    gone = [one for one in cohort.left_out if not one.slide_id]
    sites = Counter(cohort.sites.values())
    return Flow(
        task=cohort.task,
        words=_words(rows),
        source=cohort.source,
        n_table=len(cohort.cases) + len(gone),
        reasons=tuple(Counter(one.why for one in gone).most_common()),
        n_cases=len(cohort.cases),
        n_slides=sum(len(case.slide_ids) for case in cohort.cases),
        slides_gone=len(cohort.left_out) - len(gone),
        sites=tuple(sorted(sites.items())),
        splits=_splits(rows),
        named=cohort.left_out[:MOST_NAMED],
    )


def _unstored(task: str, rows: Sequence[Row]) -> Flow:
    incomplete = any("missing-slides" in row.flags for row in rows)
    return Flow(
        task, _words(rows), (), None, (), None, 0, 0, (), _splits(rows), (), incomplete=incomplete
    )


def _words(rows: Sequence[Row]) -> str:
    return next((row.env["cohort"] for row in rows if row.env.get("cohort")), "")


def _splits(rows: Sequence[Row]) -> tuple[str, ...]:
    """How cases were split, a sentence for each protocol."""
    out = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        alike = [row for row in rows if row.protocol == protocol and row.status == "ok"]
        if not alike:
            continue
        tests, trains = (_range(row.n.get(part) for row in alike) for part in ("test", "train"))
        events = _range(row.n.get("events") for row in alike)
        with_events = f" ({events} with an event)" if events else ""
        out.append(f"{protocol}: {trains} cases train, {tests} test{with_events}")
    return tuple(out)


def _range(values: object) -> str:
    known = sorted({int(value) for value in values if value is not None})  # type: ignore[attr-defined]
    if not known:
        return ""
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
