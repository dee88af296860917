"""Metrics of expression from stored predictions: of each fold, gene and patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spade_bench.statistics.genescores import constant_genes, gene_values, jackknife, over_genes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.results import Predictions
    from spade_bench.results.spotpredictions import SpotPredictions
    from spade_bench.statistics.intervals import Interval

    Floats = NDArray[np.float64]

__all__ = ["OF_SECTIONS", "GeneScore", "SpotScores", "gene_scores", "spot_scores", "units_of"]

OF_SECTIONS = ("official", "leave-one-patient-out", "leave-one-section-out")
"""Protocols of expression, whose folds test sections."""


@dataclass(frozen=True)
class SpotScores:
    """A metric of the folds of one series.

    Attributes:
        folds: (D,) the metric of each fold, mean over genes; NaN where it is undefined.
        boot: (D, B) the same on draws of patients; a fold without any of those drawn has its own
            value.
        without: (U,) mean over folds without each unit in turn.
        units: Names of the units: patients, or sections where there is one patient.
    """

    folds: Floats
    boot: Floats
    without: Floats
    units: tuple[str, ...]


@dataclass(frozen=True)
class GeneScore:
    """A gene over the folds that predicted it.

    Attributes:
        gene: Its name.
        interval: Mean over folds of the metric with its 95% interval; None where no fold defines
            it, as where the gene is constant in all of them.
        folds: The metric in each fold that predicted it; NaN where it is undefined.
        units: Patients, or sections of one, over which the interval is.
        constant: Folds in whose test spots it has one value, which are left out of the mean.
    """

    gene: str
    interval: Interval | None
    folds: tuple[float, ...]
    units: int
    constant: int


def units_of(of_rows: Sequence[Predictions]) -> tuple[tuple[str, ...], str]:
    """Return what an interval counts: the patients tested on; of one patient its sections.

    Returns:
        Their names, and `patients` or `sections`.
    """
    tested = [one.spots for one in of_rows if one.spots is not None]
    patients = sorted({name for spots in tested for name in spots.patients})
    if len(patients) > 1:
        return tuple(patients), "patients"
    return tuple(sorted({name for spots in tested for name in spots.sections})), "sections"


def spot_scores(of_rows: Sequence[Predictions], metric: str, n_boot: int, seed: int) -> SpotScores:
    """Score the folds of a series, and again without each patient.

    Args:
        of_rows: Predictions of each fold.
        metric: One of `spade_bench.statistics.genescores.GENE_METRICS`.
        n_boot: Number of draws of patients, B.
        seed: Seed of the draws.
    """
    import numpy as np

    tested = [one.spots for one in of_rows if one.spots is not None]
    units, what = units_of(of_rows)
    folds = np.array([over_genes(_values(metric, spots)) for spots in tested])  # (D,)
    held = [_units_in(spots, what) for spots in tested]
    without = np.full((len(units), len(tested)), np.nan)  # (U, D)
    for u, unit in enumerate(units):
        for d, spots in enumerate(tested):
            if unit not in held[d]:
                without[u, d] = folds[d]
            elif held[d] - {unit}:
                without[u, d] = over_genes(_values(metric, spots, _kept(spots, what, unit)))
    # Ranks over tasks ask for resamples: patients are drawn, and each fold is that of its patients.
    rng = np.random.default_rng([seed, 0])
    even = np.full(len(units), 1 / len(units))
    drawn = rng.multinomial(len(units), even, size=n_boot)  # (B, U)
    at = {unit: u for u, unit in enumerate(units)}
    weight = np.stack([drawn[:, [at[u] for u in sorted(mine)]].mean(axis=1) for mine in held])
    total = weight.sum(axis=0)  # (B,)
    shares = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)  # (D, B)
    # (D, B): each row's part of the weighted mean, so that the mean over rows is that mean.
    boot = np.where(total > 0, shares * folds[:, None] * len(tested), folds[:, None])
    means = np.array([_mean(row) for row in without])  # (U,)
    return SpotScores(folds, boot, means, units)


def gene_scores(of_rows: Sequence[Predictions], metric: str) -> list[GeneScore]:
    """Score every gene over the folds that predicted it, with an interval over patients.

    Args:
        of_rows: Predictions of each fold.
        metric: Name of the metric.

    Returns:
        The genes, best first; those that no fold defines last.
    """
    import numpy as np

    from spade_bench.statistics.evaluate import bounds

    tested = [one.spots for one in of_rows if one.spots is not None]
    what = units_of(of_rows)[1]
    whole = [dict(zip(s.genes, _values(metric, s).tolist(), strict=True)) for s in tested]
    flat = [set(np.asarray(s.genes)[constant_genes(s.observed)].tolist()) for s in tested]
    held = [_units_in(spots, what) for spots in tested]
    less: dict[tuple[int, str], dict[str, float]] = {}
    for d, spots in enumerate(tested):
        for unit in held[d]:
            part = np.full(len(spots.genes), np.nan)
            if held[d] - {unit}:
                part = _values(metric, spots, _kept(spots, what, unit))
            less[d, unit] = dict(zip(spots.genes, part.tolist(), strict=True))
    out = []
    for gene in sorted({gene for values in whole for gene in values}):
        mine = [d for d, values in enumerate(whole) if gene in values]
        mean = _mean(np.array([whole[d][gene] for d in mine]))
        tests = sorted({unit for d in mine for unit in held[d]})
        left = [
            _mean(np.array([less.get((d, unit), whole[d])[gene] for d in mine])) for unit in tests
        ]
        known = None
        if np.isfinite(mean):
            found = jackknife(mean, left)  # its ends may be NaN, which clipping leaves
            low, high = np.clip([found.low, found.high], *bounds(metric)).tolist()
            known = replace(found, low=low, high=high)
        of_folds = tuple(whole[d][gene] for d in mine)
        flats = sum(gene in flat[d] for d in mine)
        out.append(GeneScore(gene, known, of_folds, len(tests), flats))
    return sorted(out, key=lambda one: -one.interval.mean if one.interval else float("inf"))


def _values(metric: str, spots: SpotPredictions, rows: NDArray[np.int64] | None = None) -> Floats:
    if rows is None:
        return gene_values(metric, spots.observed, spots.predicted, spots.section)
    return gene_values(metric, spots.observed[rows], spots.predicted[rows], spots.section[rows])


def _units_in(spots: SpotPredictions, what: str) -> set[str]:
    return set(spots.patients if what == "patients" else spots.sections)


def _kept(spots: SpotPredictions, what: str, unit: str) -> NDArray[np.int64]:
    """Spots of a fold without those of one unit."""
    owners = spots.patients if what == "patients" else spots.sections
    names = {s for s, owner in zip(spots.sections, owners, strict=True) if owner != unit}
    return spots.of_sections(names)


def _mean(values: Floats) -> float:
    """Mean of what is defined; NaN where nothing is."""
    import numpy as np

    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
