"""What the results amount to, in plain words, and what a reader must know before believing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spade_bench.errors import DataError
from spade_bench.report.caveats import PERMUTED
from spade_bench.report.differences import Difference, against_base, compare, summaries
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.naming import encoder_title, task_title
from spade_bench.report.overall import OverallRow
from spade_bench.report.page.resultsview import ResultsView
from spade_bench.report.verdict import Verdict, verdicts
from spade_bench.results import absent_cells

__all__ = ["Caution", "Pair", "against_controls", "cautions", "compared_pairs"]

_MOST_PAIRS = 8


@dataclass(frozen=True)
class Pair:
    """Two encoders that are compared.

    Attributes:
        a: First encoder.
        b: Second encoder.
        differences: Of every metric.
        verdicts: What they amount to, one for each condition.
        control: Name of this control, such as `k1`; empty for an encoder.
    """

    a: str
    b: str
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    control: str = ""

    @property
    def is_control(self) -> bool:
        """Whether the second stands as a control beside the first."""
        return bool(self.control)

    @property
    def main(self) -> tuple[Difference, ...]:
        """One difference a task, head, protocol and condition, as the verdict counts them."""
        return tuple(summaries(self.differences))

    def way(self, one: Verdict) -> str:
        """Protocols and condition that a verdict speaks of, in words."""
        alike = [d for d in self.main if d.condition == one.condition]
        return ", ".join((*dict.fromkeys(d.protocol for d in alike), *one.condition))

    @property
    def leads(self) -> tuple[str, ...]:
        """The distinct answers over all conditions."""
        return tuple(dict.fromkeys(one.lead for one in self.verdicts))


@dataclass(frozen=True)
class Caution:
    """Something that a reader must not miss.

    Attributes:
        lead: In a few words.
        detail: What it means, and what to do.
    """

    lead: str
    detail: str


def compared_pairs(results: ResultsView, ranks: Sequence[OverallRow]) -> list[Pair]:
    """Compare each encoder with its base, or without one the first with the others.

    The controls of these encoders follow, so that it is seen what a gain is owed to.

    Args:
        results: The results.
        ranks: Mean ranks, which say who is first.
    """
    by_pair: dict[tuple[str, str], list[Difference]] = {}
    for one in against_base(results.series, results.resampler):
        by_pair.setdefault((one.a, one.b), []).append(one)
    if not by_pair:
        by_pair = _first_against_others(results, ranks)
    pairs = [_pair(a, b, found) for (a, b), found in by_pair.items()]
    for a in dict.fromkeys(pair.a for pair in pairs):
        known = {pair.b for pair in pairs if pair.a == a}
        controls = {
            one.encoder: one.control
            for one in results.series
            if one.rows and one.control_of == a and one.control not in {"", *PERMUTED}
        }
        for b in sorted(controls.keys() - known - {a}):
            found = _differences(results, a, b)
            if found:
                pairs.append(_pair(a, b, found, controls[b]))
    return pairs


def _first_against_others(
    results: ResultsView, ranks: Sequence[OverallRow]
) -> dict[tuple[str, str], list[Difference]]:
    """The encoder of the best mean rank against each other one."""
    there = {one.encoder for one in results.series if one.rows and not one.control}
    ranked = [row.encoder for row in ranks if row.encoder in there]
    names = [*dict.fromkeys(ranked), *sorted(there.difference(ranked))]
    found = {(names[0], b): _differences(results, names[0], b) for b in names[1:][:_MOST_PAIRS]}
    return {pair: differences for pair, differences in found.items() if differences}


def _differences(results: ResultsView, a: str, b: str) -> list[Difference]:
    try:
        return compare(results.series, results.resampler, a, b)
    except DataError:  # they share no episode: there is nothing to say of them
        return []


def _pair(a: str, b: str, differences: Sequence[Difference], control: str = "") -> Pair:
    return Pair(a, b, tuple(differences), tuple(verdicts(differences)), control)


def against_controls(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Say of each encoder from which of its controls it differs, in words.

    Args:
        pairs: What :func:`compared_pairs` found.

    Returns:
        The encoder, and a sentence on its controls.
    """
    out = []
    for a in dict.fromkeys(pair.a for pair in pairs if pair.is_control):
        groups: dict[str, list[str]] = {}
        for pair in pairs:
            if pair.is_control and pair.a == a:
                won = sum(one.won for one in pair.verdicts)
                lost = sum(one.lost for one in pair.verdicts)
                words = _AGAINST[won > 0, lost > 0]
                groups.setdefault(words, []).append(encoder_title(pair.b, pair.control, a))
        parts = [f"{words} {', '.join(names)}" for words, names in groups.items()]
        out.append((a, f"{encoder_title(a)} is {'; it is '.join(parts)}."))
    return out


_AGAINST = {
    (True, False): "in part or everywhere better than",
    (False, True): "in part or everywhere worse than",
    (True, True): "here better and there worse than",
    (False, False): "not clearly different from",
}


def cautions(results: ResultsView, rows: Sequence[ReportRow]) -> list[Caution]:
    """Return what a reader must know before believing a number.

    Args:
        results: The results.
        rows: All rows of the report.
    """
    flags = {flag for row in rows for flag in row.flags}
    out = []
    if "simulated" in flags:
        shown = [row for row in rows if row.mean is not None and row.task != "overall"]
        real = {row.task for row in shown if "simulated" not in row.flags}
        made_up = sorted({row.task for row in shown} - real)
        names = ", ".join(task_title(name) for name in made_up)
        where = f"on {names}" if real and made_up else "here"
        out.append(Caution("Simulated data", f"No number {where} says anything about patients."))
    seen = sorted(
        flag.partition(":")[2]
        for flag in flags
        if flag.startswith("contamination:") and flag != "contamination:unknown"
    )
    if seen:
        what = ", ".join(seen)
        detail = f"Some encoders saw {what} in pretraining: their numbers there are too good."
        out.append(Caution("Contamination", f"{detail} The section Contamination says whose."))
    elif "contamination:unknown" in flags:
        detail = "Of some encoders nobody says whether they saw the data of these tasks."
        out.append(Caution("Contamination unknown", detail))
    if any("leaky" in flag for flag in flags):
        detail = "Cases stand on both sides of the given splits: the numbers are too good."
        out.append(Caution("Leaky splits", detail))
    out += [Caution("Control off chance", row.note) for row in rows if row.note and row.control]
    failed = sum(len(one.failed) for one in results.series)
    if failed:
        detail = "The section What is missing lists them with their errors."
        out.append(Caution(f"{failed} cell{'s' if failed > 1 else ''} failed", detail))
    there = {row.run_id for one in results.series for row in (*one.rows, *one.failed)}
    for folder in results.folders:
        for text in absent_cells(folder, there, []):
            out.append(Caution("Not finished", f"{text.partition(': another shard')[0]}."))
    if results.problems:
        n = len(results.problems)
        what = "stored result is" if n == 1 else "stored results are"
        detail = "They were left out; the section What is missing names them."
        out.append(Caution(f"{n} {what} damaged", detail))
    return out
