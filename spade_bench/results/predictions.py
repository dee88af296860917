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
