"""Training data held on the device: batches are gathered there, nothing is read from disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spade_bench.device import array_to_device

if TYPE_CHECKING:
    from spade_bench.encoders.spade.pretraining.training.trainingdata import TrainingData

__all__ = ["ResidentData"]

_SHARE = 0.7  # of the free device memory that data may take; the rest is for training
_Rows = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # where rows start, columns, values
_UPLOAD_ROWS = 8192
_UPLOAD_VALUES = 1 << 25


class ResidentData:
    """Features and expression of some experts' spots as torch tensors.

    On CUDA expression is rounded to float16 (by 0.05% at most, far less than counting does) and
    lies there dense where that fits, else compressed. Where neither fits, it stays on the host and
    batches travel. The numbers are the same in all three cases. On a CPU nothing is rounded.

    Args:
        data: All spots.
        rows: Row numbers of each expert's spots, training spots first.
        device: Where batches are needed.
        low: Whether linear layers round their inputs to bfloat16: on CUDA expression then lies
            there rounded to that, once for all steps.

    Attributes:
        resident: Whether batches can be gathered on the device.
        kind: In which precision expression is handed out.
    """

    def __init__(
        self,
        data: TrainingData,
        rows: Mapping[int, NDArray[np.int64]],
        device: torch.device,
        low: bool = False,
    ) -> None:
        self.device = device
        chosen = np.concatenate(list(rows.values()))
        if 2 * len(chosen) >= len(data.expert):  # as they lie: no copy of most of a large matrix
            self._places = {expert: np.asarray(own) for expert, own in rows.items()}
            chosen = np.arange(len(data.expert))
        else:
            ends = np.cumsum([len(own) for own in rows.values()])
            parts = np.split(np.arange(len(chosen)), ends[:-1])
            self._places = dict(zip(rows, parts, strict=True))
        self.n_genes = int(data.expression.shape[1])
        self.dim = int(data.features.shape[1])
        half = torch.bfloat16 if low else torch.float16
        self.kind = half if device.type == "cuda" else torch.float32
        sparse = hasattr(data.expression, "indptr")
        self._form = _form(data, chosen, device, sparse)
        self.resident = self._form != "host"
        where = device if self.resident else torch.device("cpu")
        self._features = _sent_rows(data.features, chosen, where)
        self._groups: Tensor | None = None
        if data.group is not None:
            self._groups = torch.from_numpy(np.asarray(data.group[chosen], np.int64)).to(device)
        if self._form == "dense":
            self._dense = torch.empty(len(chosen), self.n_genes, dtype=self.kind, device=device)
            for start in range(0, len(chosen), _UPLOAD_ROWS):
                some = chosen[start : start + _UPLOAD_ROWS]
                block = self._uploaded(data.expression, some)
                self._dense[start : start + _UPLOAD_ROWS] = block
            return
        self._matrix = data.expression[chosen]
        if self._form == "compressed":
            m = self._matrix
            self._rows = _Compressed((m.indptr, m.indices, m.data), self.n_genes, self.kind, device)
            self._matrix = None
            return
        self._sent: list[torch.cuda.Event] = []
        self._slots: list[tuple[Tensor, Tensor]] = []
        self._turn = 0

    def place(self, expert: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where an expert's spots lie, given their positions among its own."""
        places: NDArray[np.int64] = self._places[expert][positions]
        return places

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Gather spots on the device without waiting for it.

        Args:
            index: Where they lie, (r,) on the device.

        Returns:
            Features (r, D) and dense expression (r, G), in the precision in which they are held.
        """
        x = self._features.index_select(0, index)  # (r, D)
        if self._form == "dense":
            return x, self._dense.index_select(0, index)  # (r, G)
        return x, self._rows.dense(index)  # (r, G)

    def fetch(self, index: NDArray[np.int64], x: Tensor, g: Tensor) -> None:
        """Send spots from the host, through pinned memory of which one half is filled at a time.

        Args:
            index: Where they lie, (r,).
            x: Where their features go, (r, D) float32 on the device.
            g: Where their expression goes, (r, G) on the device.
        """
        if not self._slots:
            for _ in range(2):
                pair = (torch.empty_like(t, device="cpu", pin_memory=True) for t in (x, g))
                self._slots.append((next(pair), next(pair)))
                self._sent.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        self._turn ^= 1
        (features, expression), sent = self._slots[self._turn], self._sent[self._turn]
        sent.synchronize()  # what was last sent from here has arrived
        r = len(index)
        if features.shape[0] < r:
            raise ValueError(f"{r} rows for a buffer of {features.shape[0]}")
        features[:r] = self._features[torch.from_numpy(index)]  # (r, D)
        block = self._matrix[index]
        block = block.toarray() if hasattr(block, "toarray") else np.asarray(block)
        expression[:r] = torch.from_numpy(block)  # (r, G)
        x[:r].copy_(features[:r], non_blocking=True)
        g[:r].copy_(expression[:r], non_blocking=True)
        sent.record()

    def group(self, index: Tensor) -> Tensor | None:
        """Return which genes spots measure, as numbers of the shape of ``index``; or None."""
        if self._groups is None:
            return None
        return self._groups.index_select(0, index.reshape(-1)).view(index.shape)

    def _uploaded(self, matrix: Any, rows: NDArray[np.int64]) -> Tensor:
        """Return rows of the matrix on the device, dense; sparse ones travel compressed."""
        if not hasattr(matrix, "indptr"):
            return array_to_device(_numbers(matrix[_block(rows)]), self.device)
        parts = _compressed_rows(matrix, rows)
        block = _Compressed(parts, self.n_genes, self.kind, self.device)
        return block.dense(torch.arange(len(rows), device=self.device))


def _block(rows: NDArray[np.int64]) -> Any:
    """Return rows as a slice where they follow each other: that copies bytes, a list rows."""
    whole = len(rows) == rows[-1] - rows[0] + 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows


def _compressed_rows(matrix: Any, rows: NDArray[np.int64]) -> _Rows:
    """Return where rows of a sparse matrix start, (r + 1,), their columns and values."""
    block = _block(rows)
    if not isinstance(block, slice):
        matrix = matrix[rows]
        return matrix.indptr, matrix.indices, matrix.data
    starts = np.asarray(matrix.indptr[block.start : block.stop + 1], np.int64)
    some = slice(int(starts[0]), int(starts[-1]))
    return starts - starts[0], matrix.indices[some], matrix.data[some]


def _sent_rows(array: Any, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return rows of an array on a device, sent in blocks."""
    if device.type != "cuda":
        return torch.from_numpy(_numbers(array[rows]))
    kind = torch.float16 if array.dtype == np.float16 else torch.float32
    sent = torch.empty(len(rows), array.shape[1], dtype=kind, device=device)
    for start in range(0, len(rows), _UPLOAD_ROWS):
        some = rows[start : start + _UPLOAD_ROWS]
        block = array_to_device(_numbers(array[_block(some)]), device)
        sent[start : start + _UPLOAD_ROWS] = block
    return sent


class _Compressed:
    """A sparse matrix in rows on the device, of which dense rows are made without a wait."""

    def __init__(self, rows: _Rows, n_genes: int, kind: torch.dtype, device: torch.device) -> None:
        indptr, indices, values = rows
        self._n_genes = n_genes
        indptr = np.asarray(indptr, np.int64)
        self._longest = int(np.diff(indptr).max(initial=0))
        self._indptr = array_to_device(indptr, device)
        self._indices = array_to_device(np.asarray(indices, np.int32), device)
        self._values = torch.empty(len(values), dtype=kind, device=device)
        for start in range(0, len(values), _UPLOAD_VALUES):
            some = np.asarray(values[start : start + _UPLOAD_VALUES], np.float32)
            self._values[start : start + _UPLOAD_VALUES] = array_to_device(some, device)

    def dense(self, rows: Tensor) -> Tensor:
        """Return rows (r,) of the matrix as (r, G) float32.

        All rows are read as far as the longest one reaches, so that the host need not be told how
        long they are; what lies beyond a row's end is added as zero.
        """
        dense = torch.zeros(len(rows), self._n_genes, device=rows.device)  # (r, G)
        if not self._longest:
            return dense
        start = self._indptr.index_select(0, rows)  # (r,)
        count = self._indptr.index_select(0, rows + 1) - start  # (r,)
        along = torch.arange(self._longest, device=rows.device)  # (m,)
        inside = along < count[:, None]  # (r, m)
        source = (start[:, None] + along).clamp_(max=len(self._values) - 1)  # (r, m)
        values = self._values[source].float() * inside  # (r, m)
        # Summing, as scipy does, should a gene be stored twice in a row.
        return dense.scatter_add_(1, self._indices[source].long(), values)


def _numbers(block: Any) -> NDArray[Any]:
    """Return an array whose precision torch keeps: float16 as it is, all else as float32."""
    array = np.asarray(block)
    return array if array.dtype == np.float16 else array.astype(np.float32, copy=False)


def _form(data: TrainingData, chosen: NDArray[np.int64], device: torch.device, sparse: bool) -> str:
    """How expression is held: `dense` or `compressed` on the device, or on the `host`."""
    if device.type != "cuda":
        return "compressed" if sparse else "dense"
    free, _ = torch.cuda.mem_get_info(device)
    room = free * _SHARE - len(chosen) * int(data.features.shape[1]) * 4
    if len(chosen) * int(data.expression.shape[1]) * 2 < room:
        return "dense"
    if sparse:
        counts = np.diff(data.expression.indptr)[chosen]
        if int(counts.sum(dtype=np.int64)) * 6 < room:
            return "compressed"
    return "host"
