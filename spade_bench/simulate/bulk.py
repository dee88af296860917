"""Bulk expression of the slide cohort's cases: ``tables/bulk_expression.csv``.

What a tissue block sent for RNA would give: the mean of the drivers over the case's tissue, through
the same genes and programmes as the spots', counted once per case at the depth of bulk sequencing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench.simulate.writers import write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import SeedSequence
    from numpy.typing import NDArray

    from spade_bench.simulate.counts import Genome
    from spade_bench.simulate.tissuemap import Tissue

__all__ = ["N_BACKGROUND", "mean_drivers", "write_bulk"]

N_BACKGROUND = 540
"""Genes without a programme that the table keeps beside all markers, so that it stays small."""

_DEPTH = 3e6
_DEPTH_SD = 0.3


def mean_drivers(tissue: Tissue) -> NDArray[np.float64]:
    """Average the drivers of expression over a section's tissue, (n_drivers,)."""
    drivers = tissue.expression_drivers()  # (n_drivers, h, w)
    return np.asarray((drivers * tissue.cover).sum(axis=(1, 2)) / tissue.cover.sum())


def write_bulk(
    folder: Path,
    seed: SeedSequence,
    genome: Genome,
    cases: Sequence[str],
    drivers: NDArray[np.float64],
    *,
    coupling: float,
) -> dict[str, Any]:
    """Draw and write the table; return its part of the truth.

    Args:
        folder: Holds ``tables``.
        seed: Source of all randomness of the table.
        genome: The spots' genes and loadings.
        cases: Case ids, n.
        drivers: Mean drivers of each case, (n, n_drivers).
        coupling: Share of cases whose expression is their own; the others' is exchanged among
            them, so that every marginal stays.
    """
    mix, noise = (np.random.default_rng(child) for child in seed.spawn(2))
    loose = np.flatnonzero(mix.random(len(cases)) >= coupling)
    source = np.arange(len(cases))
    source[loose] = mix.permutation(loose)
    markers = {gene for genes in genome.markers.values() for gene in genes}
    rest = np.array([gene for gene in range(len(genome.names)) if gene not in markers])
    kept = np.sort([*markers, *mix.choice(rest, N_BACKGROUND, replace=False)])
    batch = genome.settings.batch_sd * noise.standard_normal((len(cases), len(genome.base)))
    log_rate = genome.base + genome.organ[0] + batch + drivers[source] @ genome.loadings
    share = np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)  # (n, genes)
    depth = _DEPTH * np.exp(_DEPTH_SD * noise.standard_normal((len(cases), 1)))
    size = 1 / genome.dispersion[kept]
    counts = noise.poisson(noise.gamma(np.broadcast_to(size, (len(cases), len(kept))),
                                       share[:, kept] * depth / size))  # fmt: skip
    names = [genome.names[gene] for gene in kept]
    rows = [
        {"case_id": case, **dict(zip(names, map(int, row), strict=True)), "simulated": 1}
        for case, row in zip(cases, counts, strict=True)
    ]
    write_rows(folder / "tables" / "bulk_expression.csv", ("case_id", *names, "simulated"), rows)
    return {
        "depth": _DEPTH,
        "background_genes": N_BACKGROUND,
        "expression_of": dict(zip(cases, (cases[i] for i in source.tolist()), strict=True)),
    }
