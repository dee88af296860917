"""What a head predicted for the test cases of a cell.

Where it is stored: :mod:`spade_bench.results.predictionstore`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spade_bench.results.spotpredictions import SpotPredictions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Predictions"]

_ROUNDING = 1e-6  # how far beyond 0 and 1 a probability may lie in files of older versions


@dataclass(frozen=True)
class Predictions:
    """What a head said about the test cases of one episode.

    Attributes:
        case_ids: Test cases.
        classes: Class names, in the order of the columns of ``scores``; empty for survival
            and regression.
        target: True class index of each case, (m,) int; for regression its value, (m,) float; for
            survival (m, 2) float with the event (1 or 0) and the days.
        scores: Class probabilities, (m, C); for regression the predicted value, (m, 1); for
            survival the risk, (m, 1), higher is worse.
        train_ids: Training cases, for survival only.
        train_target: Their events and days, (t, 2), or None.
        train_scores: Their risks, (t, 1), or None.
        patients: Patient of each test case where cases are slides, else empty.
        spots: Expression of the spots of the test sections, which are then the cases; else None.
    """

    case_ids: tuple[str, ...]
    classes: tuple[str, ...]
    target: NDArray[Any]
    scores: NDArray[np.float64]
    train_ids: tuple[str, ...] = ()
    train_target: NDArray[np.float64] | None = None
    train_scores: NDArray[np.float64] | None = None
    patients: tuple[str, ...] = ()
    spots: SpotPredictions | None = None

    @classmethod
    def of_spots(cls, spots: SpotPredictions) -> Predictions:
        """Wrap predictions of genes in spots: the cases are the sections."""
        import numpy as np

        none = np.empty((len(spots.sections), 0))
        return cls(spots.sections, (), none, none, patients=spots.patients, spots=spots)

    @property
    def survival(self) -> bool:
        """Whether these are risks."""
        return self.kind == "survival"

    @property
    def kind(self) -> Literal["classification", "expression", "regression", "survival"]:
        """What is predicted, in the words by which heads say which kinds of task they serve."""
        if self.spots is not None:
            return "expression"
        if self.classes:
            return "classification"
        return "survival" if self.target.ndim == 2 else "regression"

    def fault(self) -> str:
        """Return what no run can have stored, as a clause; empty where there is nothing.

        Files may be edited, made by other programs or come from a stranger, and a number that
        cannot be would pass into every mean.
        """
        import numpy as np

        spots = self.spots
        told = [self.scores, self.train_scores] if spots is None else [spots.predicted]
        if not all(one is None or np.isfinite(one).all() for one in told):
            return "its predictions are not finite"
        if self.classes and (self.scores.min() < -_ROUNDING or self.scores.max() > 1 + _ROUNDING):
            return "its probabilities do not lie within 0 and 1"
        target = [self.target, self.train_target] if spots is None else [spots.observed]
        if not self.classes and not all(one is None or np.isfinite(one).all() for one in target):
            return "its targets are not finite"
        if self.survival and not all(one is None or _outcomes(one) for one in target):
            return "its events are not 0 or 1, or its days are negative"
        if len(set(self.case_ids)) != len(self.case_ids):
            return "a case stands there twice"
        if "" in self.case_ids or "" in self.patients:
            return "a case or its patient has no name"
        return ""


def _outcomes(target: NDArray[Any]) -> bool:
    """Whether these are events and days of survival, (n, 2)."""
    event, days = target[:, 0], target[:, 1]
    return bool(((event == 0) | (event == 1)).all() and (days >= 0).all())
