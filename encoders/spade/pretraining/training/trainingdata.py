"""What training reads: features, expression, and which expert and split each spot belongs to."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade_bench.encoders.spade.pretraining.training.gene_layer import GeneOrder
from spade_bench.errors import DataError
from spade_bench.files import hash_obj

__all__ = ["ExpertRows", "TrainingData"]

_GATHER_BYTES = 4 * 1024**3  # an expert smaller than this is copied into memory of its own
_HASH_BLOCK = 1 << 24


@dataclass(frozen=True)
class TrainingData:
    """All spots of a pretraining run.

    Attributes:
        features: Base features (N, D), array or memory map.
        expression: Expression over the panel (N, G), scipy CSR or dense, array or memory map.
        expert: Expert of each spot, (N,) int.
        split: `train`, `val` or `test` of each spot, (N,); test spots are never read.
        n_experts: K.
        fingerprint: Hash of the content, if the caller has one; else it is computed.
        group: Which genes of the panel each spot measures, as a number, (N,) int; spots are told
            only from those of their own group. None: all measure all.
    """

    features: Any
    expression: Any
    expert: NDArray[np.int64]
    split: NDArray[Any]
    n_experts: int
    fingerprint: str = ""
    group: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            DataError: When they do not.
        """
        n = self.features.shape[0]
        if not n == self.expression.shape[0] == len(self.expert) == len(self.split):
            raise DataError(
                f"{n} feature rows, {self.expression.shape[0]} expression rows, "
                f"{len(self.expert)} experts and {len(self.split)} split entries"
            )
        if n and not 0 <= int(np.min(self.expert)) <= int(np.max(self.expert)) < self.n_experts:
            raise DataError(f"expert ids must lie in 0..{self.n_experts - 1}")

    def rows(self, expert: int, split: str) -> NDArray[np.int64]:
        """Return the row numbers of an expert's spots in one split."""
        order, starts, splits = self._sorted
        own = order[starts[expert] : starts[expert + 1]]  # ascending
        found: NDArray[np.int64] = own[splits[own] == split]
        return found

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.str_]]:
        """Rows by expert (N,), where each expert's begin (K + 1,), and splits as text (N,).

        Rows are asked for some hundred times, and half a million texts take a while to compare.
        """
        expert = np.asarray(self.expert)
        order = np.argsort(expert, kind="stable")
        starts = np.searchsorted(expert[order], np.arange(self.n_experts + 1))
        return order, starts, np.asarray(self.split).astype(str)

    def content_hash(self) -> str:
        """Return the fingerprint given, or a checksum of every array."""
        if self.fingerprint:
            return self.fingerprint
        csr = hasattr(self.expression, "indptr")
        matrix = self.expression
        arrays = [matrix.data, matrix.indices, matrix.indptr] if csr else [matrix]
        arrays += [] if self.group is None else [self.group]
        return hash_obj([_checksum(a) for a in (self.features, *arrays)])


class ExpertRows:
    """The training and validation spots of one expert, ready to be read batch by batch.

    Args:
        data: All spots.
        expert: The expert.
        rare: Genes in fewer than this share of spots are handed out as a sparse block.

    Attributes:
        n_train: Training spots.
        n_val: Validation spots.
        genes: Order of the genes: a dense block, then a sparse one.
    """

    def __init__(self, data: TrainingData, expert: int, rare: float = 0.0) -> None:
        train, val = data.rows(expert, "train"), data.rows(expert, "val")
        self.n_train, self.n_val = len(train), len(val)
        self.feature_dim = int(data.features.shape[1])
        self.n_genes = int(data.expression.shape[1])
        self._rows = np.concatenate([train, val])
        self._group = None if data.group is None else np.asarray(data.group)[self._rows]
        self._features, self._expression = data.features, data.expression
        self._sparse = hasattr(data.expression, "indptr")
        self._rare: Any = None
        self.genes = GeneOrder(np.arange(self.n_genes), self.n_genes)
        width = self.feature_dim + self.n_genes * (0.3 if self._sparse else 1)
        if len(self._rows) * width * 4 < _GATHER_BYTES and len(self._rows):
            # Rows side by side in memory: a batch is then 128 short copies, not 128 page faults.
            self._features = np.asarray(data.features[self._rows], dtype=np.float32)
            chosen = data.expression[self._rows]
            self._expression = (
                chosen.astype(np.float32) if self._sparse else np.asarray(chosen, dtype=np.float32)
            )
            self._rows = np.arange(len(self._rows))
            if rare > 0:
                self._split_genes(rare)

    def read(
        self,
        chosen: NDArray[np.int64],
        features: NDArray[np.float32],
        expression: NDArray[np.float32],
    ) -> Any:
        """Copy spots into the given buffers.

        Args:
            chosen: Positions among this expert's spots, training spots first, (n,).
            features: Buffer (n, D).
            expression: Buffer (n, G_dense) for the genes of the dense block.

        Returns:
            Expression of the genes of the sparse block, CSR (n, G - G_dense); None without one.
        """
        rows = self._rows[chosen]
        features[:] = self._features[rows]
        if self._sparse:
            self._expression[rows].toarray(out=expression)  # clears the buffer first
        else:
            expression[:] = self._expression[rows]
        return None if self._rare is None else self._rare[rows]

    def group(self, chosen: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return which genes spots measure, as numbers, (n,); None where all measure all."""
        return None if self._group is None else self._group[chosen]

    def _split_genes(self, share: float) -> None:
        self.genes = GeneOrder.of(self._expression[: self.n_train], share)
        order, n_dense = self.genes.order, self.genes.n_dense
        if n_dense < self.n_genes:
            whole = self._expression
            self._expression, self._rare = whole[:, order[:n_dense]], whole[:, order[n_dense:]]


def _checksum(array: Any) -> list[Any]:
    """Return dtype, shape and CRC-32 of the bytes: quick, and only meant to notice changes."""
    value = 0
    for start in range(0, array.shape[0], _step(array)):
        block = np.ascontiguousarray(array[start : start + _step(array)])
        value = zlib.crc32(block.tobytes(), value)
    return [str(array.dtype), list(array.shape), value]


def _step(array: Any) -> int:
    width = int(array.dtype.itemsize) * int(np.prod(array.shape[1:]))
    return max(1, _HASH_BLOCK // max(1, width))
