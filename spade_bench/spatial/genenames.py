"""The names of genes: symbols where there are any, ids where not, never row numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from spade_bench.cohorts.spelling import is_missing
from spade_bench.errors import DataError
from spade_bench.spatial.findings import Finding

__all__ = ["UNNAMED", "gene_names"]

UNNAMED = "unnamed:"
"""How the name of a gene begins that has neither symbol nor id, and that no section shares."""

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}.*")
_VERSION = re.compile(r"^(ENS[A-Z]*G\d{6,})\.\d+$")
_NUMBER = re.compile(r"\d+(?:\.0+)?")  # 17, and 17.0 where a column of numbers held blanks
_PREFIXED = re.compile(r"(.*[A-Za-z].*?)[-_:. ]+(\d+)(?:\.0+)?")  # gene_17, Unnamed: 17
_GENERIC = re.compile(r"(?:gene|row|feature|var|probe|index|column|unnamed)s?", re.IGNORECASE)
_JOINED = re.compile(r"(?:gene|row|feature|var)s?\d+", re.IGNORECASE)  # only a doubt: GENE17
_SYMBOL_COLUMNS = (
    *("gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "name"),
    *("symbol", "symbols", "genesymbol"),
)
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl", "id")
_DASHES = frozenset({"-", "."})  # how some tools write that a gene has no symbol
_MOSTLY = 0.9
_DENSE = 0.5  # share of the numbers between the first and the last that a numbering uses


def gene_names(var: Any, where: str, section: str = "") -> tuple[np.ndarray, list[Finding]]:
    """Return the name of each gene of an AnnData.

    Symbols are taken from a column where the index holds Ensembl ids or row numbers. A gene
    without a symbol keeps its id, and one without either gets a name that no other section has.
    The version of an Ensembl id is left out, so that sections of different releases share their
    genes. A column that holds row numbers or nothing is no column of symbols.

    Args:
        var: `adata.var`.
        where: The file, for messages.
        section: Name of the section, unique in its cohort; `where` by default.

    Returns:
        (genes,) names, and what was noticed.

    Raises:
        DataError: When no gene has a name, or the names are row numbers and no column holds
            better ones: those of two sections would be joined although they are different genes.
    """
    names = _text(var.index)
    if not len(names):
        return names, []
    findings: list[Finding] = []
    numbered = is_numbering(names)
    ensembl = not numbered and _share(_ENSEMBL, names) >= _MOSTLY
    poor = numbered or ensembl or _share(_JOINED, names) >= _MOSTLY
    column, symbols = _column(var, _SYMBOL_COLUMNS) if poor else ("", None)
    rich = names if symbols is None else symbols
    of_ids, ids = "", None
    if numbered or _blank(rich).any():
        of_ids, ids = _column(var, _ID_COLUMNS)
    backup = names if ids is None else np.where(_blank(ids), names, ids)
    notes = []
    if symbols is not None:
        what = "Ensembl ids" if ensembl else "row numbers"
        notes.append(f"{len(names)} {what} replaced by the names in var['{column}']")
    elif ids is not None and numbered:
        rich = ids
        notes.append(f"{len(names)} row numbers replaced by the ids in var['{of_ids}']")
    elif numbered:
        raise DataError(
            f"gene names are row numbers ({names[0]}, {names[-1]})",
            where=where,
            fix="Put symbols or Ensembl ids into var_names or a column var['gene_symbols']",
        )
    names, kept, lost = _fill(rich, backup, section or where, numbered=numbered)
    if lost == len(names):
        raise DataError("no gene has a name", where=where, fix="Put symbols into var_names")
    notes += [f"{kept} genes without a symbol keep their id"] if kept else []
    notes += [f"{lost} genes without symbol and id are shared with no section"] if lost else []
    if notes:
        findings.append(Finding("gene-ids", len(names), len(names), "; ".join(notes)))
    bare, found = _without_versions(names)
    return bare, findings + found


def is_numbering(names: np.ndarray) -> bool:
    """Whether names only number the rows: 17, 17.0, gene_17, or one prefix and running numbers.

    A prefix other than `gene`, `row` and the like makes a numbering only where its numbers differ,
    leave few gaps and have no leading zeros: locus tags look alike otherwise.
    """
    present = names[~_blank(names)]
    if not len(present):
        return False
    if sum(name[-1].isdigit() for name in present) < _MOSTLY * len(present):
        return False
    if _share(_NUMBER, present) >= _MOSTLY:
        return True
    parts = [found.groups() for name in present if (found := _PREFIXED.fullmatch(name))]
    if len(parts) < _MOSTLY * len(present):
        return False
    prefixes, first = {prefix for prefix, _ in parts}, parts[0][0]
    if all(_GENERIC.fullmatch(prefix) for prefix in prefixes):
        return True
    numbers = {int(number) for _, number in parts}
    plain = all(number == "0" or number[0] != "0" for _, number in parts)
    dense = len(numbers) >= _DENSE * (max(numbers) - min(numbers) + 1)
    several = len(parts) > 2
    return prefixes == {first} and several and plain and dense and len(numbers) == len(parts)


def _column(var: Any, wanted: tuple[str, ...]) -> tuple[str, np.ndarray | None]:
    """The first of the wanted columns that holds names, and these; none where none does."""
    lower = {str(name).lower(): name for name in var.columns}
    for one in wanted:
        if one in lower:
            values = _text(var[lower[one]])
            if not _blank(values).all() and not is_numbering(values):
                return str(lower[one]), values
    return "", None


def _fill(
    names: np.ndarray, backup: np.ndarray, section: str, *, numbered: bool
) -> tuple[np.ndarray, int, int]:
    """Give genes without a name their id, or else a name that no other section has.

    Returns:
        The names, how many are ids, and how many had neither name nor id.
    """
    blank = _blank(names)
    if not blank.any():
        return names, 0, 0
    # A row number is no id: the same number is another gene elsewhere.
    lost = blank & (_blank(backup) | (numbered & np.array([_is_row(name) for name in backup])))
    placeholders = np.array([f"{UNNAMED}{section}:{i}" for i in range(len(names))], dtype=str)
    filled = np.where(lost, placeholders, np.where(blank, backup, names))
    return filled, int((blank & ~lost).sum()), int(lost.sum())


def _is_row(name: str) -> bool:
    return bool(_NUMBER.fullmatch(name) or _PREFIXED.fullmatch(name) or _JOINED.fullmatch(name))


def _text(values: Any) -> np.ndarray:
    return np.asarray([str(value).strip() for value in values.astype(object)], dtype=str)


def _blank(names: np.ndarray) -> np.ndarray:
    return np.array([is_missing(name) or name in _DASHES for name in names], dtype=bool)


def _share(pattern: re.Pattern[str], names: np.ndarray) -> float:
    return sum(pattern.fullmatch(name) is not None for name in names) / len(names)


def _without_versions(names: np.ndarray) -> tuple[np.ndarray, list[Finding]]:
    bare = np.array([_VERSION.sub(r"\1", name) for name in names], dtype=str)
    versions = int((bare != names).sum())
    if not versions:
        return names, []
    text = f"{versions} Ensembl ids without their versions"
    return bare, [Finding("gene-versions", versions, len(names), text)]
