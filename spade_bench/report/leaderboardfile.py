"""Results as one static JSON file for leaderboards: numbers, what they rest on, and no cases.

Whoever aggregates such files needs no folder of results: each row says what was measured, with its
interval and what that covers, on which cohort, task and episodes (as hashes, so that rows of
several files are set beside each other only where these agree), with which seeds, flags and
versions.
Case ids, patients, predictions and paths stay out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError, UserError
from spade_bench.files import check_target, hash_obj, write_json
from spade_bench.report.leaderboard import ReportRow, chosen, leaderboard
from spade_bench.report.literature import citations
from spade_bench.report.loadedresults import Results
from spade_bench.report.series import Series
from spade_bench.results.pathscrub import scrubbed
from spade_bench.results.rows import now
from spade_bench.results.runsettings import stored_settings
from spade_bench.results.store import stored_in
from spade_bench.version import __version__

__all__ = ["SCHEMA", "LeaderboardFile", "write_leaderboard"]

SCHEMA = "spade-bench/leaderboard/1"
_VERSIONS = ("spade_bench", "python", "torch", "numpy")
_ALIKE = ("cohort", "task", "head")  # what a number speaks of, beside its episodes
_USED = ("kind", "name", "title", "licence", "gated", "reference")


@dataclass(frozen=True)
class LeaderboardFile:
    """What was written.

    Attributes:
        file: The file.
        rows: How many numbers it holds.
        encoders: How many encoders, without controls.
    """

    file: Path
    rows: int
    encoders: int


def write_leaderboard(folder: Path, out: Path) -> LeaderboardFile:
    """Write the results of a folder as one JSON file for leaderboards.

    Args:
        folder: Folder that `run` or `merge` wrote.
        out: The file.

    Raises:
        DataError: When the results are damaged.
        UserError: When there is no finished result, or the file cannot be written.
    """
    check_target(out, "--leaderboard", "leaderboard.json", inputs=stored_in([folder]))
    results = Results([folder])
    if results.problems:
        raise DataError(f"{results.problems[0]} Nothing is exported", where=str(folder))
    series = [one for one in results.series if one.rows]
    if not series:
        raise UserError("no finished result to export", where=str(folder),
                        fix="Finish the run first")  # fmt: skip
    listed = leaderboard(results.series, results.resampler, "all")
    rows = [_row(one, row) for one, row in _paired(results.series, listed)]
    used = citations.used(series, stored_settings(results.folders, results.problems))
    content = {
        "schema": SCHEMA,
        "spade_bench": __version__,
        "created_utc": now(),
        "rows": scrubbed(rows),
        "used": scrubbed([{name: getattr(one, name) for name in _USED} for one in used]),
    }
    write_json(out, content)
    return LeaderboardFile(out, len(rows), len({one.encoder for one in series if not one.control}))


def _paired(
    series: Sequence[Series], rows: Sequence[ReportRow]
) -> Iterator[tuple[Series, ReportRow]]:
    """Each number with the cells that it was made of; those without a cell are left out."""
    left = iter(rows)
    for one in series:
        for _ in chosen(one.metrics, "all"):
            row = next(left)
            if one.rows:
                yield one, row


def _row(one: Series, row: ReportRow) -> dict[str, Any]:
    env = [cell.env for cell in one.rows]
    alike = {name: sorted({str(cell.inputs[name]) for cell in one.rows if name in cell.inputs})
             for name in _ALIKE}  # fmt: skip
    episodes = sorted({str(cell.inputs.get("episode", "")) for cell in one.rows})
    versions = {name: sorted({str(said[name]) for said in env if name in said})
                for name in _VERSIONS}  # fmt: skip
    return {
        **row.as_dict(),
        "seeds": sorted({cell.seed for cell in one.rows}),
        "identity": sorted({cell.identity for cell in one.rows if cell.identity}),
        "base": sorted({str(cell.inputs["base"]) for cell in one.rows if "base" in cell.inputs}),
        "hashes": {**alike, "episodes": hash_obj(episodes)},
        "versions": {name: found for name, found in versions.items() if found},
    }
