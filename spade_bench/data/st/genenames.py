"""The names of genes: symbols where there are any, ids where not, never row numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from spade_bench.data.spelling import is_missing
from spade_bench.data.st.findings import Finding
from spade_bench.errors import DataError

__all__ = ["gene_names"]

_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")
_VERSION = re.compile(r"^(ENS[A-Z]*G\d{6,})\.\d+$")
_ROW = re.compile(r"^(?:(?:gene|row|feature|var)s?[-_ ]?)?\d+$", re.IGNORECASE)
_SYMBOL_COLUMNS = (
    *("gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "name"),
    *("symbol", "symbols", "genesymbol"),
)
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl", "id")
_DASHES = frozenset({"-", "."})  # how some tools write that a gene has no symbol
_MOSTLY = 0.9


def gene_names(var: Any, where: str) -> tuple[np.ndarray, list[Finding]]:
    """Return the name of each gene of an AnnData.

    Symbols are taken from a column where the index holds Ensembl ids or row numbers. A gene
    without a symbol keeps its id, and the version of an Ensembl id is left out, so that sections
    of different releases share their genes.

    Args:
        var: `adata.var`.
        where: The file, for messages.

    Returns:
        (genes,) names, and what was noticed.

    Raises:
        DataError: When the names are row numbers and no column holds better ones: those of two
            sections would be joined although they are different genes.
    """
    names, findings = np.asarray(var.index, dtype=str), []
    lower = {str(name).lower(): name for name in var.columns}
    column = next((lower[c] for c in _SYMBOL_COLUMNS if c in lower), None)
    ids = next((lower[c] for c in _ID_COLUMNS if c in lower), None)
    ensembl = sum(bool(_ENSEMBL.match(name)) for name in names)
    rows = sum(bool(_ROW.match(name)) for name in names)
    enough = _MOSTLY * max(1, len(names))
    numbered = rows >= enough and len(names) > 0
    if column is not None and (ensembl >= enough or numbered):
        symbols = np.asarray(var[column].astype(object), dtype=str)
        backup = np.asarray(var[ids].astype(object), dtype=str) if ids is not None else names
        if ids is None and numbered:  # a name that no other section has
            backup = np.array([f"unnamed:{where}:{name}" for name in names], dtype=str)
        blank = np.array([is_missing(s) or s.strip() in _DASHES for s in symbols], dtype=bool)
        if blank.all():
            raise DataError(f"var['{column}'] is blank for every gene", where=where)
        what = "row numbers" if numbered else "Ensembl ids"
        text = f"{len(names)} {what} replaced by the names in var['{column}']"
        if blank.any():
            text += f"; {int(blank.sum())} genes without one keep their id"
        findings.append(Finding("gene-ids", len(names), len(names), text))
        names = np.where(blank, backup, symbols)
    elif column is None and ids is not None and numbered:
        names = np.asarray(var[ids].astype(object), dtype=str)
        text = f"{len(names)} row numbers replaced by the ids in var['{ids}']"
        findings.append(Finding("gene-ids", len(names), len(names), text))
    elif sum(name.isdigit() for name in names) >= enough and len(names):
        raise DataError(
            "gene names are row numbers",
            where=where,
            fix="Put symbols or Ensembl ids into var_names or a column var['gene_symbols']",
        )
    bare = np.array([_VERSION.sub(r"\1", name) for name in names], dtype=str)
    versions = int((bare != names).sum())
    if versions:
        text = f"{versions} Ensembl ids without their versions"
        findings.append(Finding("gene-versions", versions, len(names), text))
    return bare, findings
