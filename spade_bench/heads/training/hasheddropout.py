"""Dropout of the models of a stack on a GPU: factors for many steps are drawn there at once.

A factor is a hash of the model's seed, how many steps it has taken and the place in the vector, so
it is the same in every company, and nothing but a few counts need be sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from spade_bench.counterhash import MASK32, drawn16, mixed
from spade_bench.device import to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HashedDropout"]

_AHEAD = 64  # steps drawn at once
_MOST = 4_000_000  # factors drawn at once


class HashedDropout:
    """Factors 0 or 1 / keep.

    Args:
        seeds: Seed of each model.
        rates: Share that each drops, (S,).
        width: Length of the vector of a case.
        like: A tensor on the device, with the dtype of the factors.
    """

    def __init__(
        self, seeds: Sequence[int], rates: Sequence[float], width: int, like: torch.Tensor
    ) -> None:
        rate = torch.tensor(rates, dtype=torch.float64)[:, None, None]  # (S, 1, 1)
        self._width, self._cases = width, 0
        self._dropped = to_device((rate * 2**16).round().long(), like.device)
        self._kept = to_device((1 / (1 - rate)).to(like.dtype), like.device)
        # Whole numbers that float64 can hold; numpy scrambles a few of them faster than torch.
        self._seeds = mixed(np.array([seed & MASK32 for seed in seeds]))  # (S,)
        self._from = np.zeros(len(seeds), dtype=np.int64)  # step that each model is drawn from
        self._steps = 0
        self._drawn = like.new_empty(0)

    def wanted(self, members: list[int], taken: NDArray[np.int64], n_cases: int) -> bool:
        """Whether factors must be drawn before a step; if so, of all models from where they are.

        Args:
            members: Which models take it.
            taken: Steps that each model has taken, (S,).
            n_cases: Cases of the step.
        """
        if n_cases <= self._cases and bool(
            (taken[members] - self._from[members] < self._steps).all()
        ):
            return False
        self._cases = max(n_cases, self._cases)
        room = _MOST // (len(taken) * self._cases * self._width)
        self._steps = min(_AHEAD, max(1, room))
        self._from = taken.copy()
        return True

    def places(self, members: list[int], taken: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the factors of models stand among those that are drawn, (s,)."""
        places: NDArray[np.int64] = taken[members] - self._from[members]
        return places

    def keys(self) -> NDArray[np.int64]:
        """What `draw` needs of each model on the device, (S,)."""
        return self._seeds + self._from

    def draw(self, keys: torch.Tensor) -> None:
        """Draw the factors of the next steps of all models, given their keys (S,) int64."""
        ahead = torch.arange(self._steps, device=keys.device)  # (N,)
        each = mixed(keys.unsqueeze(1) + ahead).view(-1)  # (S N,)
        drawn = drawn16(each, self._cases * self._width)  # (S N, B H)
        drawn = drawn.view(len(keys), self._steps, -1)  # (S, N, B H)
        self._drawn = (drawn >= self._dropped) * self._kept  # (S, N, B H)

    def factors(self, members: torch.Tensor, places: torch.Tensor, n_cases: int) -> torch.Tensor:
        """The factors of models (s,) at places (s,), (s, B, H)."""
        found = self._drawn[members, places]  # (s, most B x H)
        return found[:, : n_cases * self._width].view(len(members), n_cases, self._width)
