"""Counts: their distribution, the planted programmes in them, and what coupling does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from spade_bench.simulate.counts import Genome, draw_genome, permute_drivers, sample_counts
from spade_bench.simulate.spotgrid import place_spots
from spade_bench.simulate.studysettings import NICHES, ORGANS, PROGRAMMES, GeneSettings
from spade_bench.simulate.tissuemap import draw_case, grow_tissue

SETTINGS = GeneSettings(n_genes=6000, n_missing=10, n_organ=100)
DRIVERS = [*NICHES, *(programme.name for programme in PROGRAMMES)]


@pytest.fixture(scope="module")
def genome() -> Genome:
    return draw_genome(SETTINGS, 2, np.random.default_rng(0))


@pytest.fixture(scope="module")
def drivers() -> list[NDArray[np.float64]]:
    """Drivers of twelve samples of two organs, about forty spots each."""
    rng = np.random.default_rng(1)
    out = []
    for i in range(12):
        organ = ORGANS[i % 2]
        tissue = grow_tissue(organ, draw_case(organ, rng), 900.0, rng)
        out.append(place_spots(tissue, rng).drivers)
    return out


ORGAN_OF = ["Bowel", "Breast"] * 6


def test_counts_are_negative_binomial(genome: Genome) -> None:
    settings = replace(SETTINGS, sample_depth_sd=0.0, spot_depth_sd=0.0, n_missing=0, batch_sd=0.0)
    plain = replace(genome, settings=settings)
    one = np.full((1, len(DRIVERS)), 0.2)
    counts, present = sample_counts(plain, np.repeat(one, 4000, 0), 0, np.random.default_rng(2))
    assert np.array_equal(present, np.arange(SETTINGS.n_genes))
    rate = np.exp(genome.base + genome.organ[0] + one[0] @ genome.loadings)
    mean = settings.depth * rate / rate.sum()
    variance = mean + genome.dispersion * mean**2
    standard_error = np.sqrt(variance / 4000)
    assert np.abs((counts.mean(0) - mean) / standard_error).max() < 5.0
    seen = mean > 1
    ratio = counts.var(0, ddof=1)[seen] / variance[seen]
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    size = 1 / genome.dispersion
    dropout = (size / (size + mean)) ** size
    assert np.abs((counts == 0).mean(0) - dropout).max() < 5 * np.sqrt(0.25 / 4000)


def test_markers_are_disjoint_and_missing_genes_are_missing(genome: Genome) -> None:
    members = [gene for genes in genome.markers.values() for gene in genes]
    assert len(members) == len(set(members))
    assert set(genome.markers) == set(DRIVERS)
    counts, present = sample_counts(
        genome, np.full((5, len(DRIVERS)), 0.2), 1, np.random.default_rng(0)
    )
    assert counts.shape == (5, len(present)) == (5, 5990)


def test_planted_programmes_are_recoverable(
    genome: Genome, drivers: list[NDArray[np.float64]]
) -> None:
    for name in DRIVERS:
        # Necrosis is rare in these organs, so there is little of it to correlate with.
        least = 0.25 if name == "necrosis" else 0.6
        assert _score_correlation(genome, drivers, drivers, name) > least, name


def test_permuting_keeps_the_set_of_drivers_of_each_organ(
    drivers: list[NDArray[np.float64]],
) -> None:
    mixed = permute_drivers(drivers, ORGAN_OF, 0.0, np.random.default_rng(5))
    assert [block.shape for block in mixed] == [block.shape for block in drivers]
    for organ in ("Bowel", "Breast"):
        mine = [i for i, name in enumerate(ORGAN_OF) if name == organ]
        before = np.concatenate([drivers[i] for i in mine])
        after = np.concatenate([mixed[i] for i in mine])
        assert np.array_equal(before[np.lexsort(before.T)], after[np.lexsort(after.T)])
        assert not np.array_equal(before, after)


@pytest.mark.parametrize("coupling", [0.0, 0.5, 1.0])
def test_coupling_is_the_share_of_spots_left_in_place(
    drivers: list[NDArray[np.float64]], coupling: float
) -> None:
    mixed = permute_drivers(drivers, ORGAN_OF, coupling, np.random.default_rng(5))
    stay = np.concatenate([(a == b).all(1) for a, b in zip(drivers, mixed, strict=True)])
    assert stay.mean() == pytest.approx(coupling, abs=0.06)


def test_coupling_zero_keeps_marginals_and_destroys_the_correlation(
    genome: Genome, drivers: list[NDArray[np.float64]]
) -> None:
    mixed = permute_drivers(drivers, ORGAN_OF, 0.0, np.random.default_rng(5))
    on, off = (_stack(genome, d, range(100, 104)) for d in (drivers, mixed))
    seen = on.mean(0) > 2
    assert seen.sum() > 200
    # Four draws of the counts of some 500 spots: a few per cent of sampling noise a gene.
    for measure in (np.mean, np.var):
        ratio = np.log(measure(off[:, seen], axis=0) / measure(on[:, seen], axis=0))
        assert abs(float(np.median(ratio))) < 0.03
        assert float(np.percentile(np.abs(ratio), 90)) < 0.45
    assert np.abs((on == 0).mean(0) - (off == 0).mean(0)).max() < 0.08
    n = sum(len(block) for block in drivers)
    for name in DRIVERS:
        # Against what lies at the place: nothing but chance and differences between organs.
        assert abs(_score_correlation(genome, mixed, drivers, name)) < 4 / np.sqrt(n) + 0.1, name


def _stack(genome: Genome, drivers: list[NDArray[np.float64]], seeds: range) -> NDArray[np.float64]:
    plain = replace(genome, settings=replace(SETTINGS, n_missing=0))
    return np.concatenate(
        [
            sample_counts(plain, block, i % 2, np.random.default_rng([seed, i]))[0]
            for seed in seeds
            for i, block in enumerate(drivers)
        ]
    ).astype(float)


def _score_correlation(
    genome: Genome,
    counted: list[NDArray[np.float64]],
    place: list[NDArray[np.float64]],
    driver: str,
) -> float:
    """Correlate a mean of log-normalised markers with a driver within organ-centred spots."""
    counts = _stack(genome, counted, range(1))
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    score = logged[:, genome.markers[driver]].mean(1)
    level = np.concatenate(place)[:, DRIVERS.index(driver)]
    organ = np.concatenate(
        [np.full(len(b), name == "Bowel") for b, name in zip(place, ORGAN_OF, strict=True)]
    )
    for value in (True, False):
        score[organ == value] -= score[organ == value].mean()
        level[organ == value] -= level[organ == value].mean()
    return float(np.corrcoef(score, level)[0, 1])
