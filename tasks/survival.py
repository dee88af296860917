"""Survival: time to an event, with cases that were last seen without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import warn
from spade_bench.errors import DataError
from spade_bench.registry import kinds
from spade_bench.tasks.kind import KindCard
from spade_bench.tasks.protocols import PROTOCOLS, draw_episodes
from spade_bench.types import Cohort, Episode, TaskCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Survival"]

CARD = KindCard(
    name="survival",
    description="Time to an event, censored or not; a higher risk is worse; Harrell's C ranks",
    protocols=PROTOCOLS,
    head_kind="survival",
    metrics=("c_index", "c_index_uno", "ibs", "auroc_over_time"),
    default_head="cox",
    scores_training=True,
)


@kinds.register(CARD)
def load() -> Survival:
    """Make the kind."""
    return Survival()


class Survival:
    """Cases with an event or a last contact. See `TaskKind`."""

    card = CARD

    def cohort(
        self, task: TaskCard, table: Path, drop_unlabelled: bool = False, partial: bool = False
    ) -> Cohort:
        """Read a table of events and durations.

        Args:
            task: Names the cohort.
            table: csv with case_id, slide_id, event (1 = it happened) and duration_days.
            drop_unlabelled: Leave cases without event or duration out instead of refusing them.
            partial: Has no meaning here.

        Raises:
            DataError: When the table is not a sound cohort table, or has nothing to learn.
        """
        from spade_bench.cohorts.columns import columns_of
        from spade_bench.cohorts.tables import read_cohort

        cohort = read_cohort(
            table,
            name=task.cohort or task.name,
            survival=True,
            drop_unlabelled=drop_unlabelled,
            columns=columns_of(task),
            event_value=task.event_value,
        )
        return self.check(cohort, str(table))

    def check(self, cohort: Cohort, where: str) -> Cohort:
        """Leave out cases with a duration of zero, as is usual for TCGA, and name them.

        Raises:
            DataError: When no case is left with an event.
        """
        kept = tuple(case for case in cohort.cases if (case.duration_days or 0.0) > 0)
        gone = [case.case_id for case in cohort.cases if not (case.duration_days or 0.0) > 0]
        if gone:
            rest = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
            warn(
                f"{where}: {len(gone)} case(s) with a duration of zero days are left out: "
                f"{', '.join(gone[:5])}{rest}"
            )
        events = sum(bool(case.event) for case in kept)
        if not events:
            raise DataError(
                f"none of {len(kept)} cases has an event: nothing to learn from",
                where=where,
                fix="Write event 1 where it happened and 0 where the case was last seen without it",
            )
        return replace(cohort, cases=kept)

    def episodes(
        self, cohort: Cohort, protocol: str, settings: Mapping[str, Any]
    ) -> tuple[list[Episode], list[str]]:
        """Draw the episodes of a protocol. See `draw_episodes`."""
        return draw_episodes(cohort, protocol, settings)

    def targets(self, cohort: Cohort) -> Floats:
        """Event (1 or 0) and days of each case, (n_cases, 2)."""
        import numpy as np

        rows = [[float(bool(case.event)), case.duration_days or 0.0] for case in cohort.cases]
        return np.array(rows, dtype=np.float64)

    def n_outputs(self, cohort: Cohort) -> int:
        """One risk a case."""
        return 1

    def permute(self, target: NDArray[Any], seed: int) -> NDArray[Any]:
        """Shuffle outcomes among the training cases; event and days of a case stay together."""
        import numpy as np

        return np.random.default_rng([seed, 2]).permutation(target)

    def score(
        self,
        metrics: Sequence[str],
        target: NDArray[Any],
        scores: Floats,
        train: tuple[NDArray[Any], Floats] | None = None,
    ) -> dict[str, float]:
        """Metrics of one episode. See `survival_score_many`.

        Args:
            metrics: Metric names.
            target: Event and days of each test case, (m, 2).
            scores: Risk of each test case, (m, 1).
            train: Event and days, (t, 2), and risk, (t, 1), of the training cases; without them
                only `c_index` is defined.
        """
        from spade_bench.statistics.survival_metrics import survival_score_many

        return {
            name: float(survival_score_many(name, target, scores, train=train)[0])
            for name in metrics
        }
