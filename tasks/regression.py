"""Regression: a number a case, such as a score, a signature or an age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.registry import kinds
from spade_bench.tasks.kind import KindCard
from spade_bench.tasks.protocols import PROTOCOLS, draw_episodes
from spade_bench.types import Cohort, Episode, TaskCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Regression"]

CARD = KindCard(
    name="regression",
    description="A number a case; Pearson's correlation of prediction and truth ranks",
    protocols=PROTOCOLS,
    head_kind="regression",
    metrics=("pearson", "spearman", "r2", "mae"),
    default_head="ridge",
)


@kinds.register(CARD)
def load() -> Regression:
    """Make the kind."""
    return Regression()


class Regression:
    """Cases with a measured value. See `TaskKind`."""

    card = CARD

    def cohort(
        self, task: TaskCard, table: Path, drop_unlabelled: bool = False, partial: bool = False
    ) -> Cohort:
        """Read a table of values.

        Args:
            task: Names the cohort and the column of the value.
            table: csv with case_id, slide_id and the value, a number without a unit.
            drop_unlabelled: Leave cases without a value out instead of refusing them.
            partial: Accept a table whose values are all equal, as a cohort to test on.

        Raises:
            DataError: When the table is not a sound cohort table, or has nothing to learn.
        """
        from spade_bench.cohorts.columns import columns_of
        from spade_bench.cohorts.tables import read_cohort

        cohort = read_cohort(
            table,
            name=task.cohort or task.name,
            continuous=True,
            drop_unlabelled=drop_unlabelled,
            columns=columns_of(task),
        )
        return cohort if partial else self.check(cohort, str(table))

    def check(self, cohort: Cohort, where: str) -> Cohort:
        """Refuse values that are all equal, or none.

        Raises:
            DataError: When there is nothing to tell apart.
        """
        if any(case.value is None for case in cohort.cases):
            raise DataError(
                "published splits hold classes or events, not measured values",
                where=where,
                fix="Give a table alone, with --protocol cv or few-shot",
            )
        if len({case.value for case in cohort.cases}) < 2:
            raise DataError(
                f"all {len(cohort.cases)} cases have the value {cohort.cases[0].value}: nothing "
                "to learn from",
                where=where,
                fix="Name another column with --label-column",
            )
        return cohort

    def episodes(
        self, cohort: Cohort, protocol: str, settings: Mapping[str, Any]
    ) -> tuple[list[Episode], list[str]]:
        """Draw the episodes of a protocol. See `draw_episodes`."""
        return draw_episodes(cohort, protocol, settings)

    def targets(self, cohort: Cohort) -> Floats:
        """Value of each case, (n_cases,)."""
        import numpy as np

        return np.array([case.value for case in cohort.cases], dtype=np.float64)

    def n_outputs(self, cohort: Cohort) -> int:
        """One number a case."""
        return 1

    def permute(self, target: NDArray[Any], seed: int) -> NDArray[Any]:
        """Shuffle the training values among the training cases."""
        import numpy as np

        return np.random.default_rng([seed, 2]).permutation(target)

    def score(
        self,
        metrics: Sequence[str],
        target: NDArray[Any],
        scores: Floats,
        train: tuple[NDArray[Any], Floats] | None = None,
    ) -> dict[str, float]:
        """Metrics of one episode. See `regression_score_many`.

        Args:
            metrics: Metric names.
            target: Value of each test case, (m,).
            scores: Prediction for each, (m, 1).
            train: Not needed.
        """
        from spade_bench.statistics.regression_metrics import regression_score_many

        return {name: float(regression_score_many(name, target, scores)[0]) for name in metrics}
