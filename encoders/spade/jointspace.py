"""The space of images and expression, searched for the spots that lie nearest to patches.

The score of a patch and a spot is the fair one: the spot is seen by the experts of the PATCH,
weighted as the patch is routed. With u and v of unit length it is the sum over experts of
w_e(patch) <u_e(patch), v_e(spot)>. A spot that was placed by the expert of its own image would tell
from which cluster it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spade_bench.encoders.spade.numerics import exact_float32
from spade_bench.encoders.spade.routing import NEGLIGIBLE
from spade_bench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.encoders.spade.model import SpadeModel

__all__ = ["SpadeSpace"]

_QUERIES = 512  # patches whose scores against all spots are held at once
_EMBEDDED = 4096  # spots whose expression is made dense at once


class SpadeSpace:
    """Patches and spots, placed by the experts of each patch.

    Args:
        model: A model with gene heads.
        features: Base features of the patches, (m, D).
        expression: Expression of the spots over ``genes``, (n, G), in the model's own unit.
        genes: Names of its columns.
        routing: How patches are routed.
        tau: Routing temperature.

    Raises:
        DataError: When there are no spots, or features or genes are not those of the model.
    """

    def __init__(
        self,
        model: SpadeModel,
        features: NDArray[np.floating],
        expression: Any,
        genes: Sequence[str],
        *,
        routing: str = "soft",
        tau: float | None = None,
    ) -> None:
        if not expression.shape[0]:
            raise DataError("there are no spots to retrieve from")
        self._model = model
        self._features = np.asarray(features, dtype=np.float32)
        self._n = expression.shape[0]
        weights = model.route(self._features, routing, tau)  # (m, K)
        self._weights = torch.from_numpy(np.asarray(weights, dtype=np.float32)).to(model.device)
        aligned = model.panel.align(expression, genes)  # (n, panel)
        used = torch.nonzero((self._weights > NEGLIGIBLE).any(dim=0)).squeeze(1).tolist()
        self._spots = {expert: self._embedded(aligned, expert) for expert in used}  # (n, P) each

    def nearest(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the spots nearest to each patch, nearest first.

        Args:
            k: Spots wanted; all of them where there are fewer.

        Returns:
            Scores (m, k), positions (m, k) of the spots.
        """
        m, k = len(self._features), min(k, self._n)
        score, index = np.empty((m, k), np.float32), np.empty((m, k), np.int64)
        for start in range(0, m, _QUERIES):
            block = slice(start, start + _QUERIES)
            best = self._scores(block).topk(k, dim=1)  # (q, k)
            score[block], index[block] = best.values.cpu().numpy(), best.indices.cpu().numpy()
        return score, index

    def _scores(self, block: slice) -> Tensor:
        """Scores of some patches against all spots, (q, n)."""
        weights = self._weights[block]  # (q, K)
        total: Tensor | None = None
        for expert, spots in self._spots.items():
            rows = torch.nonzero(weights[:, expert] > NEGLIGIBLE).squeeze(1)  # (r,)
            if not len(rows):
                continue
            x = self._features[block][rows.cpu().numpy()]  # (r, D)
            image = _unit(self._model.encode(x, expert=expert), self._model.device)  # (r, P)
            image *= weights[rows, expert, None]  # (r, P)
            with exact_float32(self._model.device):
                scores = image @ spots.T  # (r, n)
            if len(rows) == len(weights) and total is None:
                total = scores  # (q, n)
                continue
            if total is None:
                total = torch.zeros(len(weights), self._n, device=self._model.device)  # (q, n)
            total.index_add_(0, rows, scores)  # (q, n)
        assert total is not None  # the weights of a patch add up to one
        return total

    def _embedded(self, aligned: Any, expert: int) -> Tensor:
        """All spots as an expert's gene head places them, of unit length, (n, P)."""
        parts = [
            self._model.encode_expression(
                aligned[start : start + _EMBEDDED], self._model.genes, expert
            )
            for start in range(0, self._n, _EMBEDDED)
        ]
        return torch.cat([_unit(part, self._model.device) for part in parts])


def _unit(embedded: Any, device: torch.device) -> Tensor:
    return functional.normalize(torch.as_tensor(embedded, device=device), dim=1)
