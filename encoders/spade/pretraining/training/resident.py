"""Training data held on the device: batches are gathered there, nothing is read from disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from spade_bench.encoders.spade.pretraining.training.trainingdata import TrainingData

__all__ = ["ResidentData"]

_SHARE = 0.7  # of the free device memory that data may take; the rest is for training


class ResidentData:
    """Features and expression of some experts' spots as torch tensors.

    They lie on ``device`` when they fit into its free memory, else on the host, and batches travel.

    Args:
        data: All spots.
        rows: Row numbers of each expert's spots, training spots first.
        device: Where batches are needed.
    """

    def __init__(
        self, data: TrainingData, rows: Mapping[int, NDArray[np.int64]], device: torch.device
    ) -> None:
        self.device = device
        chosen = np.concatenate(list(rows.values()))
        sizes = np.cumsum([0, *(len(r) for r in rows.values())])
        self._start: dict[int, int] = dict(zip(rows, sizes.tolist(), strict=False))
        self._n_genes = int(data.expression.shape[1])
        expression = data.expression[chosen]
        self._sparse = hasattr(expression, "indptr")
        tensors = {"features": torch.from_numpy(np.asarray(data.features[chosen], np.float32))}
        if self._sparse:
            tensors |= {
                "indptr": torch.from_numpy(expression.indptr.astype(np.int64)),
                "indices": torch.from_numpy(expression.indices.astype(np.int32)),
                "values": torch.from_numpy(expression.data.astype(np.float32)),
            }
        else:
            tensors["expression"] = torch.from_numpy(np.asarray(expression, np.float32))
        if data.group is not None:
            tensors["group"] = torch.from_numpy(np.asarray(data.group[chosen], np.int64))
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        self.storage = device if _fits(size, device) else torch.device("cpu")
        self._tensors = {name: tensor.to(self.storage) for name, tensor in tensors.items()}

    def place(self, expert: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where an expert's spots lie, given their positions among its own."""
        places: NDArray[np.int64] = positions + self._start[expert]
        return places

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Gather spots.

        Args:
            index: Where they lie, any shape (...).

        Returns:
            Features (..., D) and dense expression (..., G), float32 on the device.
        """
        flat = index.reshape(-1).to(self.storage)  # (r,)
        x = self._tensors["features"][flat]  # (r, D)
        g = self._dense(flat) if self._sparse else self._tensors["expression"][flat]  # (r, G)
        shape = tuple(index.shape)
        return x.view(*shape, -1).to(self.device), g.view(*shape, -1).to(self.device)

    def group(self, index: Tensor) -> Tensor | None:
        """Return which genes spots measure, as numbers of the shape of ``index``; or None."""
        if "group" not in self._tensors:
            return None
        flat = index.reshape(-1).to(self.storage)  # (r,)
        return self._tensors["group"][flat].view(index.shape).to(self.device)

    def _dense(self, rows: Tensor) -> Tensor:
        """Return rows of the compressed matrix as (r, G)."""
        indptr = self._tensors["indptr"]
        start = indptr[rows]  # (r,)
        counts = indptr[rows + 1] - start  # (r,)
        ends = counts.cumsum(0)  # (r,)
        total = int(ends[-1])
        row = torch.repeat_interleave(
            torch.arange(len(rows), device=rows.device), counts, output_size=total
        )  # (nnz,)
        offset = torch.arange(total, device=rows.device) - (ends - counts)[row]  # (nnz,)
        source = start[row] + offset  # (nnz,)
        target = row * self._n_genes + self._tensors["indices"][source].long()  # (nnz,)
        dense = torch.zeros(len(rows) * self._n_genes, device=rows.device)
        # Summing, as scipy does, should a gene be stored twice in a row.
        dense.index_add_(0, target, self._tensors["values"][source])
        return dense.view(len(rows), self._n_genes)


def _fits(size: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size < free * _SHARE
