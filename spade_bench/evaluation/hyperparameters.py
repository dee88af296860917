"""Choose hyperparameters on training cases only: the test cases' labels are not at hand here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.episodes import strata_of
from spade_bench.cohorts.folds import assign_folds
from spade_bench.errors import DataError
from spade_bench.heads import Fit, Head, checked_scores, fit_predict, grid_points

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags
    from spade_bench.tasks.kind import TaskKind
    from spade_bench.types import Case, TaskCard

__all__ = ["INNER_FOLDS", "Job", "choose", "grid_of", "ranking_metric"]

INNER_FOLDS = 3


@dataclass(frozen=True)
class Job:
    """What one cell has for choosing.

    Attributes:
        train: (n,) positions of its training cases.
        target: Their targets.
        tune: (t,) positions of its tuning cases; empty for inner folds of the training cases.
        tune_target: Their targets.
        seed: Seed of its fits.
        shared: Jobs with equal values make one choice together: the folds of a repeat.
    """

    train: NDArray[np.int64]
    target: NDArray[Any]
    tune: NDArray[np.int64]
    tune_target: NDArray[Any]
    seed: int
    shared: Hashable


def grid_of(head: Head, fixed: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The head's grid without what the user has set."""
    return {name: tuple(v) for name, v in head.card.grid.items() if name not in fixed}


def ranking_metric(kind: TaskKind, card: TaskCard) -> str:
    """The card's first metric that is better the higher and needs no training cases.

    Where it has none, the first of the kind.
    """
    unfit = {"c_index_uno", "ibs", "auroc_over_time", "brier", "calibration_slope", "ece", "mae"}
    fitting = [m for m in card.metrics if m in kind.card.metrics and m not in unfit]
    return (fitting or list(kind.card.metrics))[0]


def choose(
    head: Head,
    kind: TaskKind,
    metric: str,
    *,
    grid: Mapping[str, Sequence[Any]],
    bags: CaseBags,
    jobs: Sequence[Job],
    cases: Sequence[Case],
    n_outputs: int,
    group_by_site: bool = False,
    patient_of: Mapping[str, str] | None = None,
) -> dict[Hashable, dict[str, Any]]:
    """Pick the point of the grid with the best mean metric on cases that did not train it.

    Args:
        head: The head.
        kind: Scores predictions.
        metric: Metric, the higher the better.
        grid: Values by hyperparameter.
        bags: Bags of all cases.
        jobs: What there is to choose on.
        cases: The cohort's cases, by position; their classes stratify inner folds.
        n_outputs: Columns of a prediction.
        group_by_site: Keep sites together in inner folds.
        patient_of: Slide -> patient where slides are the units; inner folds then keep the slides
            of a patient together, whatever the outer splits do.

    Returns:
        The choice by `Job.shared`. The first of equally good points wins; nothing is chosen, and
        the head's defaults stand, where training cases are too few for inner folds.
    """
    import numpy as np

    points = list(grid_points(grid))
    if patient_of and not group_by_site:  # a site has its patients whole
        cases = [replace(case, site=patient_of[case.case_id]) for case in cases]
        group_by_site = True
    fits, truth = _inner_fits(jobs, points, cases, group_by_site)
    values: dict[Hashable, list[list[float]]] = {}  # of each point of the grid
    name = head.card.name
    predictions = fit_predict(head, bags, fits, n_outputs, name=name) if fits else []
    for (shared, index, answer), fit, result in zip(truth, fits, predictions, strict=True):
        try:
            scores = checked_scores(
                result,
                len(fit.test),
                n_outputs,
                name=name,
                probabilities=kind.card.head_kind == "classification",
            )
        except DataError:  # such as a rate at which training diverges: never the best
            values.setdefault(shared, [[] for _ in points])[index].append(-np.inf)
            continue
        value = kind.score([metric], answer, scores)[metric]
        values.setdefault(shared, [[] for _ in points])[index].append(value)
    return {shared: _best(points, by_point) for shared, by_point in values.items()}


def _best(points: Sequence[dict[str, Any]], values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The point of the grid with the best mean over folds; empty where none has a finite one."""
    import numpy as np

    means = [
        -np.inf
        if -np.inf in of_folds
        else float(np.mean([v for v in of_folds if np.isfinite(v)] or [-np.inf]))
        for of_folds in values
    ]
    best = int(np.argmax(means))
    return points[best] if np.isfinite(means[best]) else {}


def _inner_fits(
    jobs: Sequence[Job],
    points: Sequence[dict[str, Any]],
    cases: Sequence[Case],
    group_by_site: bool,
) -> tuple[list[Fit], list[tuple[Hashable, int, NDArray[Any]]]]:
    """A fit per job, inner split and point; and whose it is, which point, and the true targets."""
    fits: list[Fit] = []
    truth: list[tuple[Hashable, int, NDArray[Any]]] = []
    for job in jobs:
        for train, target, valid, answer in _splits(job, cases, group_by_site):
            for index, point in enumerate(points):
                fit = Fit(train, target, valid, job.seed, point)
                if len(job.tune):  # as in the final fit, which stops early on them too
                    fit = replace(fit, tune=valid, tune_target=answer)
                fits.append(fit)
                truth.append((job.shared, index, answer))
    return fits, truth


def _splits(
    job: Job, cases: Sequence[Case], group_by_site: bool
) -> list[tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64], NDArray[Any]]]:
    """Positions and targets of each inner training and validation set."""
    import numpy as np

    if len(job.tune):
        return [(job.train, job.target, job.tune, job.tune_target)]
    training = [cases[i] for i in job.train]
    stratum = strata_of(training)
    dealt: dict[str, set[str]] = {}  # what goes to one fold: cases, or sites
    for case in training:
        dealt.setdefault(stratum[case.case_id], set()).add(
            str(case.site) if group_by_site else case.case_id
        )
    n = min(INNER_FOLDS, *map(len, dealt.values()))
    if n < 2:
        return []
    folds = assign_folds(
        training, n, [job.seed, 7], group_by_site=group_by_site, where="inner folds"
    )
    out = []
    for fold in folds:
        inside = np.isin([case.case_id for case in training], fold)  # (n,)
        out.append((job.train[~inside], job.target[~inside], job.train[inside], job.target[inside]))
    return out
