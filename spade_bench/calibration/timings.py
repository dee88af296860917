"""Small fits on a few real cases, from which the time of the whole run is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spade_bench.heads import Fit, fit_predict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

__all__ = ["FitPace", "fit_pace", "reading_pace"]

_READ = 3  # cases that are read
_CASES = 16  # of training and of testing, in the larger of the two sizes
_TOGETHER = 4  # fits side by side, as a run has them


@dataclass(frozen=True)
class FitPace:
    """How long a head takes for one of several fits that train together.

    Attributes:
        fixed: Seconds, however many cases there are.
        per_case: Seconds for each training case.
    """

    fixed: float
    per_case: float

    def seconds(self, n_train: int) -> float:
        """Seconds for a fit on so many training cases."""
        return self.fixed + self.per_case * n_train


def reading_pace(bags: CaseBags) -> float:
    """Return the seconds that it takes to read a case and, where that is to be done, encode it."""
    n = min(_READ, len(bags))
    started = time.perf_counter()
    for position in range(n):
        bags[position]
    return (time.perf_counter() - started) / max(n, 1)


def fit_pace(head: Any, name: str, bags: CaseBags, job: Fit, n_outputs: int) -> FitPace:
    """Time small fits of a head, of two sizes, on cases that a run would train it on.

    Args:
        head: The head.
        name: Its name.
        bags: Bags of the cases.
        job: A fit of the run.
        n_outputs: Columns of a prediction.
    """
    order = _mixed(job.target)
    most = min(_CASES, len(order))
    times = {}
    for n in dict.fromkeys((max(2, most // 2), most)):
        chosen = order[:n]
        small = replace(
            job, train=job.train[chosen], target=job.target[chosen], test=job.test[:_CASES],
            tune=None, tune_target=None,
        )  # fmt: skip
        fits = [replace(small, seed=job.seed + i) for i in range(_TOGETHER)]
        fit_predict(head, bags, fits[:1], n_outputs, name=name)  # bags are read, kernels warm
        started = time.perf_counter()
        fit_predict(head, bags, fits, n_outputs, name=name)
        times[n] = (time.perf_counter() - started) / _TOGETHER
    sizes = sorted(times)
    if len(sizes) == 1:
        return FitPace(0.0, times[sizes[0]] / sizes[0])
    per_case = max(0.0, (times[sizes[1]] - times[sizes[0]]) / (sizes[1] - sizes[0]))
    return FitPace(max(0.0, times[sizes[1]] - per_case * sizes[1]), per_case)


def _mixed(target: NDArray[Any]) -> Sequence[int] | NDArray[np.int64]:
    """Positions of training cases, so that the first few are of all classes, and have events."""
    import numpy as np

    groups = target[:, 0] if target.ndim == 2 else target
    if not np.issubdtype(groups.dtype, np.integer) and target.ndim == 1:
        return np.arange(len(target))
    rank = np.zeros(len(groups), dtype=np.int64)
    for value in np.unique(groups):
        of_value = np.flatnonzero(groups == value)
        rank[of_value] = np.arange(len(of_value))
    return np.argsort(rank, kind="stable")
