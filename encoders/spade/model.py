"""A trained SPADE model: encode patches by their experts, encode expression, score pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spade_bench.device import resolve_device
from spade_bench.encoders.common.sealedfolder import check_tensors
from spade_bench.encoders.spade import routing as routes
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.devicerows import in_pinned_blocks
from spade_bench.encoders.spade.experts import ExpertPair, head_parameters, project
from spade_bench.encoders.spade.genes import GenePanel
from spade_bench.encoders.spade.modelfolder import (
    ModelInfo,
    expert_shapes,
    head_sizes,
    read_folder,
    write_folder,
)
from spade_bench.encoders.spade.numerics import exact_float32, fast_matmul
from spade_bench.encoders.spade.parallelrows import in_parallel_rows
from spade_bench.errors import ConfigError, DataError, WeightsError

__all__ = ["SpadeModel"]

_BLOCK = 16_384


class SpadeModel:
    """A mixture of data experts over the features of a base encoder.

    Inputs may be numpy arrays or torch tensors; the result is of the same kind, float32.

    Attributes:
        info: Description: base encoder, seed, configuration, samples it was trained on.
        experts: Step-1 centroids and the expert of each.
        panel: The gene panel; empty for an image-only model.
        heads: Parameters of each expert present, by `image.*` and `spot.*` names.
        device: Where the model runs.
        precision: `fp32`, or `bf16` for the heads' linear layers; the gate is always float32.
    """

    def __init__(
        self,
        info: ModelInfo,
        experts: Experts,
        genes: Sequence[str],
        weights: Mapping[int, Mapping[str, Tensor] | ExpertPair],
        *,
        device: str | torch.device = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Build a model from its parts.

        Args:
            info: Description.
            experts: Centroids.
            genes: Panel, G names; empty when the model has no gene side.
            weights: Parameters of each expert, or the trained pairs.
            device: `auto`, `cpu` or `cuda[:n]`.
            precision: Precision of the heads' linear layers.

        Raises:
            WeightsError: When there is no expert, or tensors are missing, unexpected or misshapen.
        """
        if not weights:
            raise WeightsError("a SPADE model needs at least one trained expert")
        self.info = info
        self.experts = experts
        self.panel = GenePanel(genes)
        self.precision = precision
        self.device = resolve_device(device)
        self.heads = {
            int(e): {
                name: tensor.detach().to(self.device, torch.float32)
                for name, tensor in _parameters(pair).items()
            }
            for e, pair in sorted(weights.items())
        }
        self.in_dim, self.dim = head_sizes(next(iter(self.heads.values())), info.head)
        shapes = expert_shapes(self.in_dim, len(self.panel), self.dim, info.hidden)
        for expert, tensors in self.heads.items():
            check_tensors(tensors, shapes, f"expert {expert}")
        if experts.centroids.shape[1] != self.in_dim or max(self.heads) >= experts.n_experts:
            raise WeightsError(
                f"centroids of width {experts.centroids.shape[1]} for {experts.n_experts} experts "
                f"do not fit heads of width {self.in_dim} up to expert {max(self.heads)}"
            )
        self._centroids = torch.from_numpy(experts.centroids).to(self.device)
        self._centroid_expert = torch.from_numpy(experts.centroid_expert).to(self.device)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> SpadeModel:
        """Read a folder written by :meth:`save`.

        Raises:
            WeightsError: When the folder is incomplete, altered or of an unknown schema.
        """
        info, experts, genes, weights = read_folder(Path(folder))
        return cls(info, experts, genes, weights, device=device, precision=precision)

    def save(self, folder: str | Path, history: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Write the model to a folder, with ``history`` as its `training.csv`."""
        write_folder(Path(folder), self.info, self.experts, self.genes, self.heads, history=history)

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return self.experts.n_experts

    @property
    def tau(self) -> float:
        """Routing temperature used when a call gives none."""
        return self.info.tau

    @property
    def genes(self) -> tuple[str, ...]:
        """The gene panel, G names in column order."""
        return self.panel.genes

    @property
    def base_encoder(self) -> str:
        """Name of the encoder whose features the model takes."""
        return self.info.base_encoder

    @property
    def pretrained_on(self) -> tuple[str, ...] | None:
        """Data sets it was trained on; None when unknown."""
        return self.info.pretrained_on

    @torch.no_grad()
    def route(self, features: Any, routing: str = "soft", tau: float | None = None) -> Any:
        """Return the weight of each expert for each patch.

        Args:
            features: Base features (n, D).
            routing: `soft`, `hard`, `mean`, `random` or `concat`.
            tau: Temperature of soft routing; the model's own (0.1 unless configured) when None.

        Returns:
            (n, K).

        Raises:
            DataError: When the width is not D or a feature is not finite.
        """
        return self._blockwise(features, lambda x: self._weights(x, routing, tau), self.n_experts)

    @torch.no_grad()
    def nearest(self, features: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the expert of the nearest centroid of each patch, and how far that lies.

        Args:
            features: Base features (n, D).

        Returns:
            Experts (n,) int64 and Euclidean distances (n,) float32 in the space of the features.

        Raises:
            DataError: When the width is not D or a feature is not finite.
        """
        found = self._blockwise(
            features, lambda x: routes.nearest_centroid(x, self._centroids), 2
        )  # (n, 2)
        found = _tensor(found).cpu().numpy()
        return self.experts.centroid_expert[found[:, 0].astype(np.int64)], found[:, 1]

    @torch.no_grad()
    def encode(
        self,
        features: Any,
        routing: str = "soft",
        tau: float | None = None,
        expert: int | None = None,
    ) -> Any:
        """Encode patches.

        Args:
            features: Base features (n, D).
            routing: How experts are mixed; see :meth:`route`.
            tau: Temperature of soft routing; the model's own when None.
            expert: Use this expert alone, without routing.

        Returns:
            (n, P), or (n, K * P) with ``concat``.

        Raises:
            DataError: When the width is not D or a feature is not finite.
            WeightsError: When an expert that is needed was not trained.
        """
        if expert is not None:
            self._require([expert])
            return self._blockwise(features, lambda x: self._image(expert, x), self.dim)
        self._require(range(self.n_experts))
        if routing == "concat":
            return self._blockwise(features, self._concat, self.n_experts * self.dim)

        def mix(x: Tensor) -> Tensor:
            return routes.mix_experts(x, self._weights(x, routing, tau), self._image, self.dim)

        return self._blockwise(features, mix, self.dim)

    @torch.no_grad()
    def encode_expression(self, x: Any, genes: Sequence[str], expert: int) -> Any:
        """Encode expression by one expert.

        Args:
            x: Log-normalised expression (n, len(genes)): array, tensor or scipy sparse matrix.
            genes: Names of the columns, in any order; panel genes that are missing count as zero
                and are counted in a warning.
            expert: The expert.

        Returns:
            (n, P), numpy unless ``x`` is a tensor.

        Raises:
            DataError: When genes repeat, do not match ``x`` or share nothing with the panel.
            WeightsError: When the model has no gene side.
        """
        self._require([expert])
        if not len(self.panel):
            raise WeightsError("this model has no gene side: it was imported with images only")
        aligned = self.panel.align(x, genes)  # n rows
        head = head_parameters(self.heads[expert], "spot")

        def embed(z: Tensor) -> Tensor:
            return project(z, head, low_precision=self.precision == "bf16")

        return self._run(aligned, embed, self.dim, like=x)

    @torch.no_grad()
    def score(
        self,
        features: Any,
        x: Any,
        genes: Sequence[str],
        routing: str = "soft",
        tau: float | None = None,
    ) -> Any:
        """Score every image against every expression, each candidate in the query's expert space.

        s(i, j) = sum_e w_e(image i) <head_image_e(x_i), head_spot_e(g_j)>. Encoding a candidate by
        the expert of its own image instead would tell which cluster it is from.

        Args:
            features: Base features (n, D) of the images.
            x: Log-normalised expression (m, len(genes)).
            genes: Names of its columns.
            routing: How experts are mixed; see :meth:`route`.
            tau: Temperature of soft routing; the model's own when None.

        Returns:
            (n, m), numpy unless ``features`` is a tensor.
        """
        self._require(range(self.n_experts))
        weights = _tensor(self.route(features, routing, tau)).to(self.device)  # (n, K)
        total = torch.zeros(len(weights), x.shape[0], device=self.device)  # (n, m)
        for expert in range(self.n_experts):
            rows = routes.rows_that_matter(weights[:, expert], routes.NEGLIGIBLE)  # (r,)
            if not len(rows):
                continue
            chosen = features[
                rows.cpu().numpy() if isinstance(features, np.ndarray) else rows.cpu()
            ]
            image = _tensor(self.encode(chosen, expert=expert)).to(self.device)  # (r, P)
            spot = _tensor(self.encode_expression(x, genes, expert)).to(self.device)  # (m, P)
            with exact_float32(self.device):
                pairs = (image * weights[rows, expert, None]) @ spot.T  # (r, m)
            total.index_add_(0, rows, pairs)  # (n, m)
        return _like(total, features)

    def _weights(self, x: Tensor, routing: str, tau: float | None) -> Tensor:
        return routes.expert_weights(
            x,
            self._centroids,
            self._centroid_expert,
            self.n_experts,
            routing=routing,
            tau=self.tau if tau is None else tau,
        )  # (n, K)

    def _image(self, expert: int, x: Tensor) -> Tensor:
        low = self.precision == "bf16"
        return project(x, head_parameters(self.heads[expert], "image"), low_precision=low)  # (n, P)

    def _concat(self, x: Tensor) -> Tensor:
        return torch.cat([self._image(e, x) for e in range(self.n_experts)], dim=1)  # (n, K*P)

    def _require(self, wanted: Iterable[int]) -> None:
        for expert in wanted:
            if not 0 <= expert < self.n_experts:
                raise ConfigError(f"expert {expert} is not among 0..{self.n_experts - 1}")
        missing = [str(e) for e in wanted if e not in self.heads]
        if missing:
            raise WeightsError(
                f"experts {', '.join(missing)} have not been trained in this folder",
                fix="Run pretrain without --experts, or ask for a trained expert",
            )

    def _blockwise(self, features: Any, work: Callable[[Tensor], Tensor], width: int) -> Any:
        shape = tuple(np.shape(features))
        if len(shape) != 2 or shape[1] != self.in_dim:
            raise DataError(
                f"features of shape {shape}; this model takes (n, {self.in_dim}) features of "
                f"{self.base_encoder or 'its base encoder'}"
            )
        return self._run(features, work, width, like=features)

    def _run(self, rows: Any, work: Callable[[Tensor], Tensor], width: int, like: Any) -> Any:
        out = torch.empty(rows.shape[0], width)
        blocks = range(0, rows.shape[0], _BLOCK)
        if self.device.type == "cuda":
            taken = (_tensor(rows[start : start + _BLOCK]) for start in blocks)
            with fast_matmul(self.device):
                sums = in_pinned_blocks(work, taken, out, self.device)
            for start, total in zip(blocks, sums, strict=True):
                if not math.isfinite(total):
                    _require_finite(_tensor(rows[start : start + _BLOCK]), start)
            return _like(out, like)

        def fill(x: Tensor, place: Tensor) -> float:
            place.copy_(work(x))
            return float(x.sum())  # NaN and infinity survive a sum

        for start in blocks:
            block = _tensor(rows[start : start + _BLOCK])
            with fast_matmul(self.device):
                lanes = in_parallel_rows(fill, block, out[start : start + _BLOCK])
            if not all(map(math.isfinite, lanes)):
                _require_finite(block, start)
        return _like(out, like)


def _require_finite(block: Tensor, start: int) -> None:
    """Refuse a block of features that holds NaN or infinite values; a sum may merely overflow."""
    if bad := int((~torch.isfinite(block)).any(dim=1).sum()):
        raise DataError(f"{bad} rows from row {start} on hold NaN or infinite values")


def _parameters(pair: Mapping[str, Tensor] | ExpertPair) -> dict[str, Tensor]:
    return dict(pair.state_dict() if isinstance(pair, ExpertPair) else pair)


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x.float()
    dense = x.toarray() if hasattr(x, "toarray") else x
    array = np.asarray(dense, dtype=np.float32)
    # torch cannot promise to leave a read-only map alone, and warns; a block is cheap to copy.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _like(out: Tensor, like: Any) -> Any:
    return out.to(like.device) if isinstance(like, Tensor) else out.cpu().numpy()
