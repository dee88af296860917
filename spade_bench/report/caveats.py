"""What intervals speak of, and flags for where they can say little."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spade_bench.report.spotvalues import OF_SECTIONS

if TYPE_CHECKING:
    from spade_bench.report.series import Series
    from spade_bench.report.values import Resampler
    from spade_bench.statistics.intervals import Interval

__all__ = ["PERMUTATIONS", "PERMUTED", "caveats", "ece_note", "known", "off_chance",
           "share_held_out", "speaks_of", "way_of"]  # fmt: skip

PERMUTATIONS = "permutations:"
"""Flag of the control with permuted labels: how often those of each training set were shuffled."""

PERMUTED = ("permuted-labels", "permuted-spots")
"""Controls that bear the label of their encoder, trained on what was dealt anew."""

_FEW_UNITS = 10
_SPEAKS_OF = {
    "cv": "over folds, corrected for shared training cases",
    "fold models": "over models and held-out cases, for these training cases",
    "ensemble": "over held-out cases, for these training cases",
    "leave-site-out": "over sites, corrected for shared training cases",
    "external": "over fits and cases, for these training cases",
    **dict.fromkeys(
        ("official", "leave-one-patient-out"), "over patients, for these training sections"
    ),
    "leave-one-section-out": "over patients, or sections of one, for these training sections",
    "overall": "over tasks and cases, for these training cases",
}


def speaks_of(way: str) -> str:
    """What 95% intervals and tests speak of, for every table in every format.

    All few-shot draws come from one pool: another pool of training cases would add to the spread.

    Args:
        way: Protocol, or `ensemble` and `fold models` of cross-validation with held-out cases.
    """
    return _SPEAKS_OF.get(way, "over draws and cases, for these training cases")


def way_of(protocol: str, flags: Sequence[str], held_out: bool) -> str:
    """Return the way in which numbers were made, as `speaks_of` takes it.

    Args:
        protocol: Protocol.
        flags: Flags of the numbers.
        held_out: Whether the folds are models that share held-out test cases.
    """
    if "ensemble" in flags:
        return "ensemble"
    return "fold models" if held_out else protocol


def share_held_out(series: Iterable[Series]) -> set[tuple[str, str]]:
    """Return task and protocol where all folds test on the same held-out cases."""
    return {(one.task, one.protocol) for one in series if "ensemble" in one.flags}


def caveats(series: Series, resampler: Resampler) -> tuple[str, ...]:
    """Flags of a series whose numbers rest on little.

    `few-cases` below ten test cases or events of a class, `small-pool` for shots above a third of
    the pool, `same-draws` where all draws train on the same cases, `permutations:N` where labels
    are permuted. Of expression `patients:N` below ten, `sections:N` where there is one patient,
    and `constant-genes:N`, counted over folds.
    """
    from spade_bench.statistics.score_intervals import FEW_CASES

    if not series.rows:
        return ()
    out = []
    if series.protocol in OF_SECTIONS:
        units, what = resampler.units(series)
        out = [f"{what}:{len(units)}"] if len(units) < _FEW_UNITS or what == "sections" else []
        constant = sum(row.n.get("constant_genes") or 0 for row in series.rows)
        return (*out, *((f"constant-genes:{constant}",) if constant else ()))
    if resampler.sizes(series)[0] < FEW_CASES:
        out.append("few-cases")
    if series.protocol == "few-shot":
        pool = series.rows[0].n.get("pool")
        if pool and 3 * (series.k_shot or 0) > pool:
            out.append("small-pool")
        drawn = {row.inputs.get("episode") for row in series.rows}
        if series.n_draws > 1 and len(drawn) == 1 and None not in drawn:
            out.append("same-draws")
    if series.control == "permuted-labels":
        out.append(f"{PERMUTATIONS}{series.permutations}")
    return tuple(out)


def off_chance(series: Series, metric: str, interval: Interval, resampler: Resampler) -> str:
    """Say that permuted labels do not lie at chance; nothing where they do, and of other rows.

    Args:
        series: Any series with finished rows.
        metric: One of its metrics.
        interval: The interval of the metric; without ends it excludes nothing.
        resampler: Reads predictions.
    """
    from spade_bench.statistics.evaluate import chance

    if series.control != "permuted-labels":  # `permuted-spots` are dealt anew once a fold
        return ""
    level = chance(metric, _classes(series, resampler))
    if level is None or not (interval.low > level or interval.high < level):
        return ""
    shot = f", k={series.k_shot}" if series.k_shot else ""
    part = ", ensemble" if "ensemble" in series.flags else ""
    n, sets = series.permutations, series.n_draws
    return (
        f"{series.encoder} with {series.head} on {series.task} ({series.protocol}{shot}{part}): "
        f"the labels were permuted {'once' if n == 1 else f'{n} times'} in "
        f"{'1 training set' if sets == 1 else f'each of {sets} training sets'}, and the 95% "
        f"interval of {metric}, [{interval.low:.3f}, {interval.high:.3f}], excludes chance "
        f"({level:.3g}): something other than the labels may leak, "
        f"{'1 permutation' if n == 1 else f'{n} permutations'} may be too few (--permutations N), "
        "or this is the one such interval in 20 that misses by accident."
    )


def ece_note(series: Series, metric: str, resampler: Resampler) -> str:
    """Say what a calibration error would be of calibrated probabilities; nothing of other metrics.

    Args:
        series: Any series with finished rows.
        metric: One of its metrics.
        resampler: Reads predictions.
    """
    import numpy as np

    from spade_bench.statistics.calibration import ECE_BINS, ece_of_calibrated

    if metric != "ece" or series.control:
        return ""
    of_rows = [resampler.predictions(row) for row in series.rows]
    floor = float(np.mean([ece_of_calibrated(one.target, one.scores) for one in of_rows]))
    shot = f", k={series.k_shot}" if series.k_shot else ""
    return (
        f"{series.encoder} with {series.head} on {series.task} ({series.protocol}{shot}): "
        f"calibrated probabilities would show an ece of {floor:.3f} by chance, in {ECE_BINS} bins "
        f"of equally many of {len(of_rows[0].target)} cases."
    )


def _classes(series: Series, resampler: Resampler) -> int:
    """Number of classes; 0 for survival, and where some test set lacks one of them."""
    import numpy as np

    of_rows = [resampler.predictions(row) for row in series.rows]
    n = len(of_rows[0].classes)
    return n if all(len(np.unique(one.target)) == n for one in of_rows) else 0


def known(value: float) -> float | None:
    """Return the value, or None where it is NaN, as an interval that is not given has."""
    return value if math.isfinite(value) else None
