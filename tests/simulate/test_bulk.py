"""Bulk expression of the slide cohort: it follows the drawn case, unless it is decoupled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spade_bench.encoders.tangle.pretraining.pairs import read_expression
from spade_bench.simulate import bulk
from spade_bench.simulate.counts import draw_genome
from spade_bench.simulate.sections import cohort_genome
from spade_bench.simulate.studysettings import NICHES, PROGRAMMES, GeneSettings, Size


def test_the_table_has_a_row_a_case_and_the_spots_genes(study: tuple[Path, dict[str, Any]]) -> None:
    folder, truth = study
    table, simulated = read_expression(folder / "tables" / "bulk_expression.csv")
    assert simulated
    assert sorted(table.index) == sorted(truth["slides"]["cases"])
    markers = {gene for genes in truth["expression"]["markers"].values() for gene in genes}
    assert markers < set(table.columns)
    assert len(table.columns) == len(markers) + bulk.N_BACKGROUND
    owners = truth["slides"]["bulk"]["expression_of"]
    assert all(case == owner for case, owner in owners.items())


def test_the_genome_is_the_sections_own(mini: Size) -> None:
    seed = np.random.SeedSequence(5).spawn(1)[0]
    genome = cohort_genome(seed, mini)
    again = draw_genome(GeneSettings(), mini.organs, np.random.default_rng(seed.spawn(5)[1]))
    assert genome.markers == again.markers
    assert np.array_equal(genome.loadings, again.loadings)


def test_markers_follow_their_programme_and_decoupled_ones_another_case(
    tmp_path: Path, mini: Size
) -> None:
    seed = np.random.SeedSequence(3)
    genome = cohort_genome(seed.spawn(1)[0], mini)
    rng = np.random.default_rng(0)
    cases = [f"c{i:02d}" for i in range(50)]
    drivers = rng.uniform(0, 0.6, (50, len(NICHES) + len(PROGRAMMES)))
    found = {}
    for coupling in (1.0, 0.0):
        own = np.random.SeedSequence(7)
        truth = bulk.write_bulk(tmp_path, own, genome, cases, drivers, coupling=coupling)
        table = pd.read_csv(tmp_path / "tables" / "bulk_expression.csv", index_col="case_id")
        mapk = [genome.names[g] for g in genome.markers["mapk"]]
        values = np.log1p(table[mapk]).mean(axis=1).to_numpy()
        level = drivers[:, len(NICHES)]
        source = [cases.index(truth["expression_of"][case]) for case in cases]
        found[coupling] = (
            np.corrcoef(values, level)[0, 1],
            np.corrcoef(values, level[source])[0, 1],
        )
    assert found[1.0][0] > 0.8
    assert abs(found[0.0][0]) < 0.4 < 0.8 < found[0.0][1]
