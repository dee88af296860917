"""Any scikit-learn classifier as a head: mean vectors in, `predict_proba` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, make_dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, UserError
from spade_bench.heads._base import Fit, HeadOptions
from spade_bench.heads._contribution import Contribution, no_contributions
from spade_bench.heads._fitted import FittedHead, HeadInfo, Keep
from spade_bench.heads._pooled import PooledHead
from spade_bench.registry import heads
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

    Floats = NDArray[np.float64]

__all__ = ["FittedEstimator", "SklearnHead", "sklearn_head"]


def sklearn_head(card: HeadCard, make_estimator: Callable[..., Any]) -> None:
    """Register a scikit-learn classifier as a head on mean-pooled features.

    Args:
        card: The head's card, for classification on pooled input; its `defaults` are the
            hyperparameters.
        make_estimator: ``make_estimator(**params)`` returns an unfitted classifier or pipeline
            with `predict_proba`. Every `random_state` that it leaves at None becomes the seed of
            the fit.
    """
    heads.add(card, lambda options: SklearnHead(card, make_estimator, options))


class SklearnHead(PooledHead):
    """Fits one estimator after another on mean vectors."""

    def __init__(
        self, card: HeadCard, make_estimator: Callable[..., Any], options: HeadOptions
    ) -> None:
        if card.kinds != ("classification",) or card.input != "pooled":
            raise UserError(
                "A scikit-learn estimator serves classification on pooled input",
                where=f"head {card.name}",
                fix="Say kinds=('classification',) and input='pooled' on its card",
            )
        settings = make_dataclass(
            "Settings",
            [
                (name, Any if usual is None else type(usual), field(default=usual))
                for name, usual in card.defaults.items()
            ],
            frozen=True,
        )
        super().__init__(card, settings, self._estimators, options)
        self._make_estimator = make_estimator

    def fit(self, bags: CaseBags, fits: Sequence[Fit], n_outputs: int) -> list[FittedHead]:
        """Fit every estimator. See `FittingHead.fit`."""
        fitted: dict[int, FittedHead] = {}

        def take(index: int, estimator: Any, settings: Any) -> None:
            info = HeadInfo(self.card.name, asdict(settings), n_outputs, bags.dim)
            fitted[index] = FittedEstimator(info, estimator)

        self._each(bags, fits, n_outputs, take)
        return [fitted[index] for index in range(len(fits))]

    def fit_predict(
        self,
        bags: CaseBags,
        fits: Sequence[Fit],
        n_outputs: int,
        keep: Keep | None = None,
    ) -> list[Floats]:
        """Fit and predict. See `FittingHead.fit_predict`."""
        out = []
        for index, fitted in enumerate(self.fit(bags, fits, n_outputs)):
            out.append(fitted.predict(bags, fits[index].test.tolist()))
            if keep is not None:
                keep(index, fitted)
        return out

    def layout(self, info: HeadInfo) -> Mapping[str, tuple[tuple[int | None, ...], str]]:
        """Refuse: estimators are not saved. See `FittingHead.layout`."""
        raise _unsaved(info.head)

    def restore(self, info: HeadInfo, tensors: Mapping[str, NDArray[Any]]) -> FittedHead:
        """Refuse: estimators are not saved. See `FittingHead.restore`."""
        raise _unsaved(info.head)

    def _estimators(
        self, pooled: Floats, fits: Sequence[Fit], n_outputs: int, settings: Any
    ) -> list[Any]:
        out = []
        for fit in fits:
            estimator = self._make_estimator(**asdict(settings))
            if not hasattr(estimator, "predict_proba"):
                raise DataError(
                    f"a {type(estimator).__name__} has no predict_proba",
                    where=f"head {self.card.name}",
                )
            seeds = {
                name: fit.seed % 2**32
                for name, value in estimator.get_params().items()
                if name.endswith("random_state") and value is None
            }
            estimator.set_params(**seeds)
            out.append(estimator.fit(pooled[fit.train], fit.target))
        return out


class FittedEstimator(FittedHead):
    """A fitted estimator.

    Args:
        info: What the head is.
        estimator: The estimator; its `classes_` are class indices.
    """

    def __init__(self, info: HeadInfo, estimator: Any) -> None:
        super().__init__(info)
        self.estimator = estimator

    def predict(self, bags: CaseBags, cases: Sequence[int] | None = None) -> Floats:
        """Predict; a class without training cases gets probability 0. See `FittedHead.predict`."""
        import numpy as np

        self.check_width(bags.dim)
        pooled = bags.pooled()  # (n_cases, D)
        x = pooled if cases is None else pooled[list(cases)]  # (m, D)
        out = np.zeros((len(x), self.info.n_outputs))  # (m, C)
        if len(x):
            out[:, self.estimator.classes_] = self.estimator.predict_proba(x)
        return out

    def contributions(self, bag: NDArray[np.floating]) -> Contribution:
        """Refuse: what an estimator does with the mean patch is not known here.

        Raises:
            UserError: Always.
        """
        raise no_contributions(self.info.head, "it is a scikit-learn estimator")

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Refuse: only pickle could hold an arbitrary estimator, and nothing here is unpickled.

        Raises:
            UserError: Always.
        """
        raise _unsaved(self.info.head)


def _unsaved(name: str) -> UserError:
    return UserError(
        f"The head '{name}' is a scikit-learn estimator, which cannot be saved without pickle",
        fix="Use it in `run`, or save a built-in head such as logistic",
    )
