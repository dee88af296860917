"""What intervals speak of, and flags for where they can say little."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spade_bench.report.collect import Series
    from spade_bench.report.values import Resampler

__all__ = ["caveats", "known", "speaks_of"]


_SPEAKS_OF = {
    "cv": "over folds, corrected for shared training cases",
    "fold models": "over models and held-out cases, for these training cases",
    "ensemble": "over held-out cases, for these training cases",
    "external": "over fits and cases, for these training cases",
    "overall": "over tasks and cases, for these training cases",
}


def speaks_of(way: str) -> str:
    """What 95% intervals and tests speak of, for every table in every format.

    All few-shot draws come from one pool: another pool of training cases would add to the spread.

    Args:
        way: Protocol, or `ensemble` and `fold models` of cross-validation with held-out cases.
    """
    return _SPEAKS_OF.get(way, "over draws and cases, for these training cases")


def caveats(series: Series, resampler: Resampler) -> tuple[str, ...]:
    """Flags of a series whose numbers rest on little.

    `few-cases` below ten test cases or events of a class, `small-pool` for shots above a third of
    the pool, `same-draws` where all draws train on the same cases.
    """
    from spade_bench.statistics.score_intervals import FEW_CASES

    if not series.rows:
        return ()
    out = []
    if resampler.sizes(series)[0] < FEW_CASES:
        out.append("few-cases")
    if series.protocol == "few-shot":
        pool = series.rows[0].n.get("pool")
        if pool and 3 * (series.k_shot or 0) > pool:
            out.append("small-pool")
        drawn = {row.inputs.get("episode") for row in series.rows}
        if len(series.rows) > 1 and len(drawn) == 1 and None not in drawn:
            out.append("same-draws")
    return tuple(out)


def known(value: float) -> float | None:
    """Return the value, or None where it is NaN, as an interval that is not given has."""
    return value if math.isfinite(value) else None
