"""The first layer of the expression head on CPU: common genes dense, rare genes sparse.

Two thirds of a training step are the products with the (P, G) gene weights. In spot-level counts a
few genes are everywhere and most are rare: below about one spot in fifteen, touching only what was
counted is cheaper than a dense product. Genes are therefore sorted once per expert into a dense and
a sparse block, and the weights are held as (G, P), where the genes of a block are contiguous rows.
The arithmetic is that of a linear layer, summed in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["RARE", "GeneBatch", "GeneOrder", "gene_layer"]

# Share of spots below which a gene is cheaper sparse, by precision of the dense products; measured
# with AVX-512.
RARE = {"fp32": 0.07, "bf16": 0.035}
_MIN_GENES = 512  # fewer rare genes are not worth a second product


@dataclass(frozen=True)
class GeneOrder:
    """How the genes are sorted for one expert.

    Attributes:
        order: Panel column of each position, (G,) int64; common genes first.
        n_dense: How many of them are common.
    """

    order: NDArray[np.int64]
    n_dense: int

    @classmethod
    def of(cls, expression: Any, share: float) -> GeneOrder:
        """Sort the genes of a CSR matrix (n, G) by whether fewer than ``share`` of spots have them.

        The order of a dense matrix stays as it is.
        """
        n_genes = int(expression.shape[1])
        everything = cls(np.arange(n_genes), n_genes)
        if not hasattr(expression, "indptr") or not expression.shape[0]:
            return everything
        counts = np.bincount(expression.indices, minlength=n_genes)
        rare = counts < share * expression.shape[0]
        if int(rare.sum()) < _MIN_GENES:
            return everything
        order = np.concatenate([np.flatnonzero(~rare), np.flatnonzero(rare)])
        return cls(order, n_genes - int(rare.sum()))

    def split(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (P, G) as rows: (G_dense, P) of common, (G - G_dense, P) of rare genes."""
        rows = weight.detach().T[torch.from_numpy(self.order).to(weight.device)]  # (G, P)
        return rows[: self.n_dense].clone(), rows[self.n_dense :].clone()

    def join(self, common: Tensor, rare: Tensor) -> Tensor:
        """Return the weights (P, G) of the panel, given what :meth:`split` returned."""
        order = torch.from_numpy(self.order).to(common.device)  # (G,)
        weight = common.new_empty(common.shape[1], len(order))  # (P, G)
        weight.index_copy_(1, order[: self.n_dense], common.T)
        return weight.index_copy_(1, order[self.n_dense :], rare.T)


@dataclass(frozen=True)
class GeneBatch:
    """The expression of a batch.

    Attributes:
        common: Common genes (n, G_dense).
        rare: Rare genes, CSR (n, G - G_dense); None when there are none.
    """

    common: Tensor
    rare: Any


def gene_layer(
    batch: GeneBatch, common: Tensor, rare: Tensor, bias: Tensor, low_precision: bool = False
) -> Tensor:
    """Apply the linear layer.

    Args:
        batch: Expression of n spots.
        common: Weights of the common genes (G_dense, P).
        rare: Weights of the rare genes (G - G_dense, P).
        bias: (P,).
        low_precision: Whether the dense products run in bfloat16.

    Returns:
        (n, P).
    """
    out: Tensor = _GeneLayer.apply(common, rare, bias, batch, low_precision)
    return out


class _GeneLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, common: Tensor, rare: Tensor, bias: Tensor, *inputs: Any) -> Tensor:
        batch, low_precision = inputs
        dense = batch.common
        if low_precision:
            dense = dense.to(torch.bfloat16)  # (n, G_dense)
            out = (dense @ common.to(torch.bfloat16)).float() + bias  # (n, P)
        else:
            out = torch.addmm(bias, dense, common)  # (n, P)
        if batch.rare is not None:
            out += torch.from_numpy(batch.rare @ rare.numpy())  # (n, P)
        ctx.save_for_backward(dense, rare)
        ctx.sparse = batch.rare
        return cast(Tensor, out)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        dense, rare = ctx.saved_tensors
        above = above.contiguous()  # (n, P)
        d_common = (dense.T @ above.to(dense.dtype)).to(above.dtype)  # (G_dense, P)
        if ctx.sparse is None:
            return d_common, torch.zeros_like(rare), above.sum(dim=0), None, None
        # Sorted by gene, so that each row of the result is written once.
        by_gene = ctx.sparse.T.tocsr()  # (G_rare, n)
        d_rare = torch.from_numpy(by_gene @ above.numpy())  # (G_rare, P)
        return d_common, d_rare, above.sum(dim=0), None, None
