"""Heads on one vector per case, its mean patch: all that a new one must write is `solve`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from spade_bench import config
from spade_bench.heads._base import CPU_MEMORY, Fit, HeadOptions, parse_memory
from spade_bench.heads._contribution import (
    Contribution,
    Linear,
    linear_contribution,
    no_contributions,
)
from spade_bench.heads._fitted import FittedHead, HeadInfo, Keep
from spade_bench.registry import heads
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

    Floats = NDArray[np.float64]
    Tensors = Mapping[str, NDArray[Any]]
    Solve = Callable[[Floats, Sequence[Fit], int, Any], Iterable[Any]]  # arrays or Solved

__all__ = ["Form", "PooledHead", "Solved", "pooled_head"]


@dataclass(frozen=True)
class Solved:
    """What a solver has found for one fit.

    Attributes:
        predictions: Of the test cases, (m, n_outputs).
        tensors: Returns what was learnt, as its `Form` says; called only when it is to be kept.
    """

    predictions: Floats
    tensors: Callable[[], Tensors]


@dataclass(frozen=True)
class Form:
    """What stays of a fit of a head on pooled features.

    Attributes:
        layout: ``layout(dim, n_outputs)`` gives shape and dtype of each tensor; a size that is
            None is as long as it likes.
        predict: ``predict(tensors, x, n_outputs, settings)`` maps mean vectors (m, dim) float64
            to predictions (m, n_outputs).
        linear: ``linear(tensors, n_outputs, settings)`` gives the same as a `Linear`, for a head
            that is linear in the mean patch, so that its contributions are exact; None for others,
            which cannot say what a patch adds.
    """

    layout: Callable[[int, int], Mapping[str, tuple[tuple[int | None, ...], str]]]
    predict: Callable[[Tensors, Floats, int, Any], Floats]
    linear: Callable[[Tensors, int, Any], Linear] | None = None


def pooled_head(
    card: HeadCard, settings: type[Any], form: Form | None = None
) -> Callable[[Solve], Solve]:
    """Register the decorated function as a head on mean-pooled features.

    Args:
        card: The head's card.
        settings: Frozen dataclass of its hyperparameters.
        form: What stays of a fit. Without it the head only predicts.

    Returns:
        A decorator of ``solve(pooled, fits, n_outputs, settings)``, where ``pooled`` is
        (n_cases, D) float64 and all ``fits`` have equally many training cases and the same
        settings; for each fit it returns a `Solved`, or without a form an (m, n_outputs) array
        as `Head.fit_predict` does.
    """

    def decorate(solve: Solve) -> Solve:
        def load(options: HeadOptions) -> PooledHead:
            if form is None:
                return PooledHead(card, settings, solve, options)
            return FittingPooledHead(card, settings, solve, options, form)

        heads.add(card, load)
        return solve

    return decorate


class PooledHead:
    """A head that sees the mean of each bag. Runs on the CPU, where it is a matter of moments."""

    _form: Form | None = None

    def __init__(
        self, card: HeadCard, settings: type[Any], solve: Solve, options: HeadOptions
    ) -> None:
        self.card = card
        self._settings = settings
        self._solve = solve
        # Half of it is for bags.
        self._memory = 2 * CPU_MEMORY if options.memory is None else parse_memory(options.memory)
        self.params: Mapping[str, Any] = asdict(
            config.build(settings, options.params, f"head {card.name}")
        )

    def resolve(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the full hyperparameters of a fit. See `Head.resolve`."""
        return asdict(self._build(params))

    def fit_predict(
        self,
        bags: CaseBags,
        fits: Sequence[Fit],
        n_outputs: int,
        keep: Keep | None = None,
    ) -> list[Floats]:
        """Fit and predict. See `FittingHead.fit_predict`."""
        out: dict[int, Floats] = {}

        def take(index: int, solved: Any, settings: Any) -> None:
            out[index] = solved.predictions if isinstance(solved, Solved) else solved
            if keep is not None and self._form is not None:
                info = HeadInfo(self.card.name, asdict(settings), n_outputs, bags.dim)
                keep(index, FittedPooled(info, settings, self._form, solved.tensors()))

        self._each(bags, fits, n_outputs, take)
        return [out[index] for index in range(len(fits))]

    def _each(
        self,
        bags: CaseBags,
        fits: Sequence[Fit],
        n_outputs: int,
        take: Callable[[int, Any, Any], None],
    ) -> None:
        """Solve all fits, those of one size together; ``take`` gets each result in turn."""
        pooled = bags.pooled()  # (n_cases, D)
        alike: dict[Any, list[int]] = {}
        built: dict[str, Any] = {}  # most fits share their settings, and building takes a while
        for index, fit in enumerate(fits):
            text = repr(fit.params)
            if text not in built:
                built[text] = self._build(fit.params)
            alike.setdefault((len(fit.train), built[text]), []).append(index)
        for (n_train, settings), members in alike.items():
            at_once = max(1, self._memory // 2 // _bytes(n_train, bags.dim, n_outputs))
            for start in range(0, len(members), at_once):
                part = members[start : start + at_once]
                together = self._solve(pooled, [fits[i] for i in part], n_outputs, settings)
                for index, solved in zip(part, together, strict=True):
                    take(index, solved, settings)

    def _build(self, params: Mapping[str, Any]) -> Any:
        return config.build(self._settings, {**self.params, **params}, f"head {self.card.name}")


class FittingPooledHead(PooledHead):
    """One whose fits are handed out too."""

    _form: Form

    def __init__(
        self,
        card: HeadCard,
        settings: type[Any],
        solve: Solve,
        options: HeadOptions,
        form: Form,
    ) -> None:
        super().__init__(card, settings, solve, options)
        self._form = form

    def fit(self, bags: CaseBags, fits: Sequence[Fit], n_outputs: int) -> list[FittedHead]:
        """Solve every fit. See `FittingHead.fit`."""
        import numpy as np

        nobody = np.empty(0, dtype=np.int64)
        fitted: dict[int, FittedHead] = {}
        alone = [replace(fit, test=nobody) for fit in fits]
        self.fit_predict(bags, alone, n_outputs, fitted.__setitem__)
        return [fitted[index] for index in range(len(fits))]

    def layout(self, info: HeadInfo) -> Mapping[str, tuple[tuple[int | None, ...], str]]:
        """Shape and dtype of each tensor of a fitted head. See `FittingHead.layout`."""
        return self._form.layout(info.dim, info.n_outputs)

    def restore(self, info: HeadInfo, tensors: Tensors) -> FittedHead:
        """Return the fitted head with these tensors. See `FittingHead.restore`."""
        return FittedPooled(info, self._build(info.params), self._form, tensors)


class FittedPooled(FittedHead):
    """What a head on mean-pooled features has learnt."""

    def __init__(self, info: HeadInfo, settings: Any, form: Form, tensors: Tensors) -> None:
        super().__init__(info)
        self._settings, self._form, self._tensors = settings, form, dict(tensors)

    def predict(self, bags: CaseBags, cases: Sequence[int] | None = None) -> Floats:
        """Predict. See `FittedHead.predict`."""
        self.check_width(bags.dim)
        pooled = bags.pooled()  # (n_cases, D)
        x = pooled if cases is None else pooled[list(cases)]  # (m, D)
        return self._form.predict(self._tensors, x, self.info.n_outputs, self._settings)

    def contributions(self, bag: NDArray[np.floating]) -> Contribution:
        """What each patch adds. See `FittedHead.contributions`."""
        if self._form.linear is None:
            raise no_contributions(self.info.head, "it is not linear in the mean patch")
        self.check_bag(bag)
        linear = self._form.linear(self._tensors, self.info.n_outputs, self._settings)
        return linear_contribution(bag, linear)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What was learnt, by name."""
        return dict(self._tensors)


def _bytes(n_train: int, dim: int, n_outputs: int) -> int:
    """What one fit takes at most while it is solved: its cases, scaled and rotated, and a Hessian.

    Above `NEWTON_UNKNOWNS` of several classes fits are solved one by one and without a Hessian.
    """
    from spade_bench.heads._kernel import MOST_SHARED
    from spade_bench.heads._softmax import NEWTON_UNKNOWNS

    width = min(n_train, dim) + 1
    unknowns = width if n_outputs <= 2 else min(NEWTON_UNKNOWNS, width * n_outputs)
    return 8 * (5 * n_train * dim + 4 * unknowns**2 + (MOST_SHARED + 2) * n_train**2)
