"""Negative-binomial counts of a spot from the latent drivers at its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench.simulate.studysettings import NICHES, PROGRAMMES, GeneSettings

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

__all__ = ["Genome", "draw_genome", "permute_drivers", "sample_counts"]


@dataclass(frozen=True)
class Genome:
    """Genes of the cohort and how they answer to the drivers.

    Attributes:
        names: (n_genes,) names; made up, so that no result looks like biology.
        base: (n_genes,) log share at zero drivers.
        loadings: (n_drivers, n_genes) log fold change per unit of a driver: niches, programmes.
        organ: (n_organs, n_genes) log fold change of an organ.
        dispersion: (n_genes,) inverse size of the negative binomial.
        markers: Driver name -> indices of its marker genes.
        settings: The constants used.
    """

    names: list[str]
    base: NDArray[np.float64]
    loadings: NDArray[np.float64]
    organ: NDArray[np.float64]
    dispersion: NDArray[np.float64]
    markers: dict[str, list[int]]
    settings: GeneSettings

    def describe(self) -> dict[str, Any]:
        """Return the planted marker genes and loadings for ``truth.json``."""
        drivers = [*NICHES, *(programme.name for programme in PROGRAMMES)]
        return {
            driver: {
                self.names[gene]: round(float(self.loadings[i, gene]), 4)
                for gene in self.markers[driver]
            }
            for i, driver in enumerate(drivers)
        }


def draw_genome(settings: GeneSettings, n_organs: int, rng: Generator) -> Genome:
    """Draw the genes: a skewed abundance, disjoint marker sets, a dispersion each."""
    n = settings.n_genes
    drivers = [*NICHES, *(programme.name for programme in PROGRAMMES)]
    base = 1.6 * rng.standard_normal(n)
    loadings = np.zeros((len(drivers), n))
    order = rng.permutation(n)
    markers = {}
    sizes = [settings.n_markers] * len(NICHES) + [programme.markers for programme in PROGRAMMES]
    ends = np.cumsum(sizes)
    for i, (driver, end) in enumerate(zip(drivers, ends, strict=True)):
        members = order[end - sizes[i] : end]
        mean = settings.effect if driver in NICHES else settings.programme_effect
        loadings[i, members] = mean * np.exp(0.3 * rng.standard_normal(len(members)))
        # Markers are worth seeing: they lie in the upper half of the abundances.
        base[members] = 0.8 + np.abs(rng.standard_normal(len(members)))
        markers[driver] = sorted(int(gene) for gene in members)
    organ = np.zeros((n_organs, n))
    rest = order[ends[-1] :]
    for row in organ:
        row[rng.choice(rest, settings.n_organ, replace=False)] = rng.normal(
            0, 1.5, settings.n_organ
        )
    low, high = np.log(settings.dispersion)
    return Genome(
        names=[f"SIMG{i:05d}" for i in range(n)],
        base=base,
        loadings=loadings,
        organ=organ,
        dispersion=np.exp(rng.uniform(low, high, n)),
        markers=markers,
        settings=settings,
    )


def permute_drivers(
    drivers: list[NDArray[np.float64]], organs: list[str], coupling: float, rng: Generator
) -> list[NDArray[np.float64]]:
    """Detach a share ``1 - coupling`` of the spots from what is drawn at their place.

    The chosen spots exchange their drivers among themselves, within their organ and across its
    samples. The set of drivers of an organ, and with it every marginal of the counts, stays.

    Args:
        drivers: Per sample, (n_spots, n_drivers).
        organs: Per sample, its organ.
        coupling: 1 keeps every spot, 0 permutes them all.
        rng: Source of randomness.
    """
    out = [block.copy() for block in drivers]
    for organ in sorted(set(organs)):
        mine = [i for i, name in enumerate(organs) if name == organ]
        stacked = np.concatenate([out[i] for i in mine])
        loose = np.flatnonzero(rng.random(len(stacked)) >= coupling)
        stacked[loose] = stacked[rng.permutation(loose)]
        ends = np.cumsum([len(out[i]) for i in mine])[:-1]
        for i, block in zip(mine, np.split(stacked, ends), strict=True):
            out[i] = block
    return out


def sample_counts(
    genome: Genome, drivers: NDArray[np.float64], organ: int, rng: Generator
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Draw the counts of one sample.

    Args:
        genome: Genes and loadings.
        drivers: (n_spots, n_drivers).
        organ: Row of ``genome.organ``.
        rng: Source of all randomness of the counts.

    Returns:
        Counts (n_spots, n_present) and the indices of the genes present in this sample's table.
    """
    settings = genome.settings
    n = len(drivers)
    # Before anything that depends on the drivers, so that no coupling changes which genes lack.
    missing = rng.choice(len(genome.base), settings.n_missing, replace=False)
    batch = settings.batch_sd * rng.standard_normal(len(genome.base))
    log_rate = genome.base + genome.organ[organ] + batch + drivers @ genome.loadings  # (n, genes)
    share = np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    log_depth = np.log(settings.depth) + settings.sample_depth_sd * rng.standard_normal()
    depth = np.exp(log_depth + settings.spot_depth_sd * rng.standard_normal(n))
    size = 1 / genome.dispersion
    rate = rng.gamma(np.broadcast_to(size, share.shape), share * depth[:, None] / size)
    counts = rng.poisson(rate).astype(np.int32)
    present = np.setdiff1d(np.arange(len(genome.base)), missing)
    return counts[:, present], present
