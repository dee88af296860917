"""One odd section never decides for all others, wherever it stands in the list."""

from __future__ import annotations

import pytest

from spade_bench.encoders.spade.pretraining.prepare.panel import intersect_genes

SYMBOLS = [f"GENE{i}" for i in range(1000)]
ODD = {
    "Ensembl ids": [f"ENSG{i:011d}" for i in range(1000)],
    "mouse": [symbol.capitalize() for symbol in SYMBOLS],
    "prefix": [f"GRCh38_{symbol}" for symbol in SYMBOLS],
    "few genes": SYMBOLS[:499],
}


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("kind", ODD)
def test_the_odd_one_is_left_out(kind: str, place: int) -> None:
    names = [f"S{i}" for i in range(6)]
    genes = dict.fromkeys(names, SYMBOLS) | {names[place]: ODD[kind]}
    shared, dropped = intersect_genes(names, genes.__getitem__, 500)
    assert list(dropped) == [names[place]]
    assert shared == SYMBOLS


def test_all_agree_or_nothing_is_shared() -> None:
    assert intersect_genes(["a", "b"], lambda name: SYMBOLS, 500) == (SYMBOLS, {})
    shared, dropped = intersect_genes(["a"], lambda name: SYMBOLS[:3], 500)
    assert (shared, list(dropped)) == ([], ["a"])


def test_many_genes_without_a_majority_cost_no_more_than_their_number() -> None:
    genes = {name: [f"{name}{i}" for i in range(30_000)] for name in "ab"}  # seconds if squared
    shared, dropped = intersect_genes(list(genes), genes.__getitem__, 500)
    assert (shared, list(dropped)) == (genes["a"], ["b"])
