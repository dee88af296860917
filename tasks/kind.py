"""What a kind of task is: how it reads a table, draws episodes and scores predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spade_bench.types import Cohort, Episode, TaskCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["KindCard", "TaskKind"]


@dataclass(frozen=True)
class KindCard:
    """What a person needs to know about a kind of task.

    Attributes:
        name: Name that task cards use.
        description: One sentence.
        protocols: Protocols it can run.
        head_kind: Which heads serve it, as their cards say.
        metrics: Metrics it can compute; the first one ranks.
        default_head: Head that runs when none is asked for.
        scores_training: Whether metrics need the training cases' targets and predictions too, as
            corrections for censoring do.
        units: What is predicted: `cases`, by the bags of their slides, or the `spots` of sections.
    """

    name: str
    description: str
    protocols: tuple[str, ...]
    head_kind: str
    metrics: tuple[str, ...]
    default_head: str = "logistic"
    scores_training: bool = False
    units: Literal["cases", "spots"] = "cases"


class TaskKind(Protocol):
    """A kind of task whose units are cases. It never sees an encoder."""

    card: KindCard

    def cohort(
        self, task: TaskCard, table: Path, drop_unlabelled: bool = False, partial: bool = False
    ) -> Cohort:
        """Read a cohort table for a task of this kind; one to test on may lack a class."""

    def check(self, cohort: Cohort, where: str) -> Cohort:
        """Return the cases that this kind can use, or refuse a cohort that it cannot."""

    def episodes(
        self, cohort: Cohort, protocol: str, settings: Mapping[str, Any]
    ) -> tuple[list[Episode], list[str]]:
        """Draw episodes; also returns what a person should be told about them."""

    def targets(self, cohort: Cohort) -> NDArray[Any]:
        """Return what heads learn, in the order of the cohort's cases."""

    def n_outputs(self, cohort: Cohort) -> int:
        """Return the number of columns of a prediction."""

    def permute(self, target: NDArray[Any], seed: int) -> NDArray[Any]:
        """Return training targets with their link to the cases broken."""

    def score(
        self,
        metrics: Sequence[str],
        target: NDArray[Any],
        scores: NDArray[np.float64],
        train: tuple[NDArray[Any], NDArray[np.float64]] | None = None,
    ) -> dict[str, float]:
        """Compute metrics of one episode from its test cases.

        Args:
            metrics: Metric names.
            target: Targets of the test cases.
            scores: Predictions for them.
            train: Targets of the training cases and predictions for them, where
                `card.scores_training` asks for them.
        """
