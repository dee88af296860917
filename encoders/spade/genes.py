"""The gene panel: expression is matched to it by name, never by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spade_bench import console
from spade_bench.errors import DataError

if TYPE_CHECKING:
    import scipy.sparse as sp

    from spade_bench.spatial.expression import Expression

__all__ = ["GenePanel", "panel_matrix"]


class GenePanel:
    """An ordered gene panel that aligns matrices by name.

    Args:
        genes: Names in column order.

    Raises:
        DataError: When a name occurs twice.
    """

    def __init__(self, genes: Sequence[str]) -> None:
        self.genes = tuple(map(str, genes))
        _refuse_duplicates(self.genes, "the gene panel")
        self._plans: dict[tuple[str, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Return G."""
        return len(self.genes)

    def align(self, x: Any, genes: Sequence[str]) -> Any:
        """Return the columns of ``x`` in panel order; missing genes are zero.

        Args:
            x: (n, len(genes)) array, tensor or scipy sparse matrix.
            genes: Names of the columns of ``x``.

        Returns:
            (n, G), of the kind of ``x``.

        Raises:
            DataError: When names repeat, do not match ``x`` or share nothing with the panel.
        """
        names = tuple(map(str, genes))
        if len(x.shape) != 2 or x.shape[1] != len(names):
            raise DataError(f"expression of shape {tuple(x.shape)} with {len(names)} gene names")
        if names == self.genes:
            return x
        if names not in self._plans:
            self._plans[names] = self._plan(names)
        target, source = self._plans[names]
        if hasattr(x, "tocsc"):
            return self._sparse(x, target, source)
        if isinstance(x, np.ndarray):
            aligned = np.zeros((x.shape[0], len(self)), dtype=x.dtype)
            aligned[:, target] = x[:, source]
            return aligned
        aligned = x.new_zeros(x.shape[0], len(self))
        aligned[:, target] = x[:, source]
        return aligned

    def _plan(self, names: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return panel columns and the columns of the matrix that fill them."""
        _refuse_duplicates(names, "the expression matrix")
        place = {gene: i for i, gene in enumerate(names)}
        target = np.array([i for i, gene in enumerate(self.genes) if gene in place], dtype=np.int64)
        if not len(target):
            raise DataError(
                f"none of the {len(self)} panel genes is among the {len(names)} given "
                f"(panel: {self.genes[0]}, ...; given: {names[0] if names else 'none'}, ...)",
                fix="Use the same kind of gene names as the training data",
            )
        if len(target) < len(self):
            console.warn(
                f"{len(self) - len(target)} of {len(self)} panel genes are missing from the "
                "expression matrix and count as zero"
            )
        source = np.array([place[self.genes[i]] for i in target], dtype=np.int64)
        return target, source

    def _sparse(self, x: Any, target: NDArray[np.int64], source: NDArray[np.int64]) -> Any:
        from scipy import sparse

        ones = np.ones(len(target), dtype=np.float32)
        chooser = sparse.csr_matrix((ones, (source, target)), shape=(x.shape[1], len(self)))
        return sparse.csr_matrix(x) @ chooser


def panel_matrix(
    data: Expression, panel: Sequence[str], expression: str, *, partial: bool = False
) -> sp.csr_matrix:
    """Return a section's expression over the panel as a model is trained on it.

    Args:
        data: The section as read.
        panel: G gene names.
        expression: `lognorm` or `raw`.
        partial: Whether genes that the section does not measure are zero; it must measure some.

    Returns:
        (spots, G) CSR float32.

    Raises:
        DataError: When the section lacks a gene of the panel, or its values are scaled.
    """
    import scipy.sparse as sp

    from spade_bench.spatial.scales import lognorm

    place = {gene: i for i, gene in enumerate(data.genes.tolist())}
    missing = [gene for gene in panel if gene not in place]
    if len(missing) == len(panel) or (missing and not partial):
        raise DataError(f"{len(missing)} panel genes are missing, such as {missing[0]}")
    if expression == "lognorm":
        values = lognorm(data.values, data.kind)  # over ALL measured genes, then the panel
    else:
        values = data.values.copy()
        if data.kind == "log-counts":
            values.data = np.rint(np.expm1(values.data))
    matrix = values[:, [place[gene] for gene in panel if gene in place]]  # (spots, measured)
    if missing:
        columns = np.flatnonzero([gene in place for gene in panel])
        triple = (matrix.data, columns[matrix.indices], matrix.indptr)
        matrix = sp.csr_matrix(triple, shape=(matrix.shape[0], len(panel)))  # (spots, G)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return sp.csr_matrix(matrix, dtype=np.float32)


def _refuse_duplicates(genes: tuple[str, ...], where: str) -> None:
    if len(set(genes)) < len(genes):
        seen: set[str] = set()
        repeated = sorted({gene for gene in genes if gene in seen or seen.add(gene)})  # type: ignore[func-returns-value]
        raise DataError(
            f"{len(repeated)} gene names occur more than once ({', '.join(repeated[:5])})",
            where=where,
            fix="Merge or rename them",
        )
