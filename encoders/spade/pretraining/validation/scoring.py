"""Find the partner of a patch among the spots of its own sample, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from spade_bench.encoders.spade.numerics import exact_float32
from spade_bench.encoders.spade.pretraining.validation.partnerranks import (
    chance_values,
    partner_ranks,
)
from spade_bench.encoders.spade.routing import rows_that_matter

__all__ = ["Retrieval", "Scorable", "dense_rows", "fair_scores", "retrieval"]

_MIN_WEIGHT = 1e-7  # experts below this weight cannot move a float32 score
_RELATIVE_TOLERANCE = 2e-6  # float32 noise of a score, relative to the norms in it


class Scorable(Protocol):
    """The part of a SPADE model that retrieval needs; tensors in, tensors out."""

    device: torch.device

    @property
    def n_experts(self) -> int:
        """Number of experts K."""

    def route(self, features: Any, routing: str = "soft", tau: float | None = None) -> Any:
        """Return (n, K) expert weights of image features."""

    def encode(
        self,
        features: Any,
        routing: str = "soft",
        tau: float | None = None,
        expert: int | None = None,
    ) -> Any:
        """Return (n, P) image features, of one expert's head when `expert` is given."""

    def encode_expression(self, x: Any, genes: Sequence[str], expert: int) -> Any:
        """Return (n, P) expression features of one expert's head."""


@dataclass(frozen=True)
class Retrieval:
    """Retrieval results of one model on several held-out samples.

    Attributes:
        sample: (N,) sample id of every query spot.
        values: (2, 4, N) per direction and metric (see `ranks`), one value a spot.
        chance: (4, N) what a random order gives on the same candidates.
    """

    sample: np.ndarray
    values: np.ndarray
    chance: np.ndarray

    def mean(self) -> np.ndarray:
        """Return the (2, 4) means over all spots."""
        means: np.ndarray = self.values.mean(axis=2)
        return means


class fair_scores:  # noqa: N801 - used like a function
    """Score image i against expression j in the expert space of image i.

    s(i, j) = sum_e w_e(x_i) <head_image_e(x_i), head_spot_e(g_j)>

    Every candidate is seen by the experts of the QUERY image. Encoding a candidate by the expert
    of its own image would tell which cluster it is from and inflate every figure.

    Calling the object with (start, stop) gives those rows of the (n, n) matrix, of which
    `pair_scores` is the diagonal.

    Args:
        model: The model; only its image and expression heads and its routing are used.
        features: (n, D) image features of the spots of one sample.
        expression: (n, G) log-normalised expression, dense or CSR.
        genes: Names of the G columns.
        routing: How images are routed, as in `SpadeModel.encode`.
        tau: Routing temperature; the model's own when None.
        chunk: Spots encoded at once.
    """

    def __init__(
        self,
        model: Scorable,
        features: np.ndarray,
        expression: Any,
        genes: Sequence[str],
        *,
        routing: str = "soft",
        tau: float | None = None,
        chunk: int = 2048,
    ) -> None:
        n = features.shape[0]
        blocks = [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]
        dense = [torch.from_numpy(dense_rows(features, block)) for block in blocks]
        weights = torch.cat([model.route(x, routing, tau) for x in dense])  # (n, K)
        self.weights = weights.to(model.device)
        self.image: dict[int, torch.Tensor] = {}  # expert -> (n, P); unused experts are absent
        self.spot: dict[int, torch.Tensor] = {}  # expert -> (n, P)
        self.pair_scores = torch.zeros(n, device=model.device)  # (n,)
        scale = 0.0
        for e in torch.nonzero((weights > _MIN_WEIGHT).any(dim=0)).squeeze(1).tolist():
            image = torch.cat([model.encode(x, expert=e) for x in dense]).to(model.device)
            parts = [
                model.encode_expression(torch.from_numpy(dense_rows(expression, b)), genes, e)
                for b in blocks
            ]
            spot = torch.cat(parts).to(model.device)  # (n, P)
            self.image[e], self.spot[e] = image, spot
            self.pair_scores += self.weights[:, e] * (image * spot).sum(dim=1)  # (n,)
            scale = max(scale, float(image.norm(dim=1).max() * spot.norm(dim=1).max()))
        self.tolerance = _RELATIVE_TOLERANCE * scale

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        """Return rows start..stop of the score matrix, (stop - start, n)."""
        scores = torch.zeros(stop - start, len(self.pair_scores), device=self.pair_scores.device)
        for e, image in self.image.items():
            weight = self.weights[start:stop, e]  # (c,)
            rows = rows_that_matter(weight, _MIN_WEIGHT)  # (r,)
            if len(rows):
                query = weight[rows, None] * image[start:stop][rows]  # (r, P)
                with exact_float32(self.pair_scores.device):
                    scores.index_add_(0, rows, query @ self.spot[e].T)  # (r, n)
        return scores


def retrieval(
    model: Scorable,
    samples: Sequence[tuple[str, np.ndarray, Any]],
    genes: Sequence[str],
    *,
    routing: str = "soft",
    tau: float | None = None,
    chunk: int = 1024,
) -> Retrieval:
    """Run fair retrieval within each sample.

    Args:
        model: A model with expression heads.
        samples: (sample id, features (n, D), expression (n, G)) of each held-out sample; the
            candidates of a spot are all spots of its own sample. Samples with a single spot have
            nothing to retrieve and must be left out by the caller.
        genes: Names of the G expression columns.
        routing: How images are routed.
        tau: Routing temperature; the model's own when None.
        chunk: Rows of the score matrix held at once.
    """
    ids: list[np.ndarray] = []
    values: list[np.ndarray] = []
    chance: list[np.ndarray] = []
    for sample_id, features, expression in samples:
        scores = fair_scores(model, features, expression, genes, routing=routing, tau=tau)
        ranks = partner_ranks(scores, scores.pair_scores, tolerance=scores.tolerance, chunk=chunk)
        n = features.shape[0]
        ids.append(np.full(n, sample_id, dtype=object))
        values.append(ranks.values())
        chance.append(np.repeat(chance_values(n)[:, None], n, axis=1))
    return Retrieval(
        np.concatenate(ids), np.concatenate(values, axis=2), np.concatenate(chance, axis=1)
    )


def dense_rows(matrix: Any, rows: np.ndarray | slice) -> np.ndarray:
    """Return rows of a dense, sparse or lazily read (N, m) matrix as dense float32."""
    block = matrix[rows]
    block = block.toarray() if hasattr(block, "toarray") else block
    return np.asarray(block, dtype=np.float32)
