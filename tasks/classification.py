"""Classification: one label a case, binary, multiclass or ordinal.

A task is ordinal when its card lists `kappa_quadratic`; its classes are then in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.registry import kinds
from spade_bench.tasks.kind import KindCard
from spade_bench.tasks.protocols import PROTOCOLS, draw_episodes
from spade_bench.types import Cohort, Episode, TaskCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Classification"]

CARD = KindCard(
    name="classification",
    description="One label a case, two classes or more; macro one-versus-rest AUROC ranks",
    protocols=PROTOCOLS,
    head_kind="classification",
    metrics=(
        *("auroc", "balanced_accuracy", "f1_macro", "auprc", "kappa_quadratic", "brier"),
        *("calibration_slope", "ece"),
        *("sensitivity_at_90_specificity", "sensitivity_at_95_specificity"),
    ),
)


@kinds.register(CARD)
def load() -> Classification:
    """Make the kind."""
    return Classification()


class Classification:
    """Cases with a class each. See `TaskKind`."""

    card = CARD

    def cohort(
        self, task: TaskCard, table: Path, drop_unlabelled: bool = False, partial: bool = False
    ) -> Cohort:
        """Read a table of labels.

        Args:
            task: Its `classes` are the labels allowed; empty takes them from the table.
            table: csv with case_id, slide_id and the label column.
            drop_unlabelled: Leave cases without a label out instead of refusing them.
            partial: Accept a table without any case of some of the classes.

        Raises:
            DataError: When the table is not a sound cohort table.
        """
        from spade_bench.cohorts.columns import columns_of
        from spade_bench.cohorts.tables import read_cohort

        cohort = read_cohort(
            table,
            name=task.cohort or task.name,
            classes=task.classes,
            columns=columns_of(task),
            drop_unlabelled=drop_unlabelled,
            partial=partial,
        )
        return self.check(cohort, str(table))

    def check(self, cohort: Cohort, where: str) -> Cohort:
        """Any cohort with classes will do."""
        return cohort

    def episodes(
        self, cohort: Cohort, protocol: str, settings: Mapping[str, Any]
    ) -> tuple[list[Episode], list[str]]:
        """Draw the episodes of a protocol. See `draw_episodes`."""
        return draw_episodes(cohort, protocol, settings)

    def targets(self, cohort: Cohort) -> NDArray[np.int64]:
        """Class index of each case, (n_cases,)."""
        import numpy as np

        index = {label: i for i, label in enumerate(cohort.classes)}
        return np.array([index[str(case.label)] for case in cohort.cases], dtype=np.int64)

    def n_outputs(self, cohort: Cohort) -> int:
        """Number of classes."""
        return len(cohort.classes)

    def permute(self, target: NDArray[Any], seed: int) -> NDArray[Any]:
        """Shuffle the training labels among the training cases; class sizes stay."""
        import numpy as np

        return np.random.default_rng([seed, 2]).permutation(target)

    def score(
        self,
        metrics: Sequence[str],
        target: NDArray[Any],
        scores: NDArray[np.float64],
        train: tuple[NDArray[Any], NDArray[np.float64]] | None = None,
    ) -> dict[str, float]:
        """Metrics of one episode.

        Args:
            metrics: Metric names.
            target: Class index of each test case, (m,).
            scores: Class probabilities, (m, C).
            train: Not needed.
        """
        from spade_bench.statistics.metrics import score

        return score(metrics, target, scores)
