"""Heads on one vector a case, the mean of its patches: all that a new one must write is `solve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spade_bench import config
from spade_bench.heads._base import CPU_MEMORY, Fit, HeadOptions, parse_memory
from spade_bench.registry import heads
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

    Floats = NDArray[np.float64]
    Solve = Callable[[Floats, Sequence[Fit], int, Any], list[Floats]]

__all__ = ["PooledHead", "pooled_head"]


def pooled_head(card: HeadCard, settings: type[Any]) -> Callable[[Solve], Solve]:
    """Register the decorated function as a head on mean-pooled features.

    Args:
        card: The head's card.
        settings: Frozen dataclass of its hyperparameters.

    Returns:
        A decorator of ``solve(pooled, fits, n_outputs, settings)``, where ``pooled`` is
        (n_cases, D) float64 and all ``fits`` have equally many training cases and the same
        settings; it returns one (m, n_outputs) array a fit, as `Head.fit_predict` does.
    """

    def decorate(solve: Solve) -> Solve:
        def load(options: HeadOptions) -> PooledHead:
            return PooledHead(card, settings, solve, options)

        heads.add(card, load)
        return solve

    return decorate


class PooledHead:
    """A head that sees the mean of each bag. Runs on the CPU, where it is a matter of moments."""

    def __init__(
        self, card: HeadCard, settings: type[Any], solve: Solve, options: HeadOptions
    ) -> None:
        self.card = card
        self._settings = settings
        self._solve = solve
        self._memory = CPU_MEMORY if options.memory is None else parse_memory(options.memory)
        self.params: Mapping[str, Any] = asdict(
            config.build(settings, options.params, f"head {card.name}")
        )

    def resolve(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the full hyperparameters of a fit. See `Head.resolve`."""
        return asdict(self._build(params))

    def fit_predict(self, bags: CaseBags, fits: Sequence[Fit], n_outputs: int) -> list[Floats]:
        """Fit and predict. See `Head.fit_predict`."""
        pooled = bags.pooled()  # (n_cases, D)
        alike: dict[Any, list[int]] = {}
        built: dict[str, Any] = {}  # most fits share their settings, and building takes a while
        for index, fit in enumerate(fits):
            text = repr(fit.params)
            if text not in built:
                built[text] = self._build(fit.params)
            alike.setdefault((len(fit.train), built[text]), []).append(index)
        out: dict[int, Floats] = {}
        for (n_train, settings), members in alike.items():
            at_once = max(1, self._memory // _bytes(n_train, bags.dim, n_outputs))
            for start in range(0, len(members), at_once):
                part = members[start : start + at_once]
                together = self._solve(pooled, [fits[i] for i in part], n_outputs, settings)
                out.update(zip(part, together, strict=True))
        return [out[index] for index in range(len(fits))]

    def _build(self, params: Mapping[str, Any]) -> Any:
        return config.build(self._settings, {**self.params, **params}, f"head {self.card.name}")


def _bytes(n_train: int, dim: int, n_outputs: int) -> int:
    """What one fit takes at most while it is solved: its cases, scaled and rotated, and a Hessian.

    Above `NEWTON_UNKNOWNS` of several classes fits are solved one by one and without a Hessian.
    """
    from spade_bench.heads._kernel import MOST_SHARED
    from spade_bench.heads._softmax import NEWTON_UNKNOWNS

    width = min(n_train, dim) + 1
    unknowns = width if n_outputs <= 2 else min(NEWTON_UNKNOWNS, width * n_outputs)
    return 8 * (5 * n_train * dim + 4 * unknowns**2 + (MOST_SHARED + 2) * n_train**2)
