"""Genes that somebody names, held against the panel that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spade_bench.errors import UserError
from spade_bench.registry import suggest

__all__ = ["check_in_panel"]


def check_in_panel(genes: Iterable[str], panel: Sequence[str]) -> None:
    """Refuse a gene that a model does not know.

    Args:
        genes: Genes that are asked for.
        panel: Genes of the model.

    Raises:
        UserError: Naming the gene, and those nearly called so.
    """
    known = set(panel)
    for gene in genes:
        if gene not in known:
            near = suggest(gene, panel)
            raise UserError(
                f"gene '{gene}' is not in the panel of {len(panel):,} genes that the model was "
                "trained on",
                where="--genes",
                fix=f"Did you mean {near}?" if near else "genes.csv of the model lists them",
            )
