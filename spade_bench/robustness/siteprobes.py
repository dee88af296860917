"""Linear probes of the class and of the centre, cross-validated by case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spade_bench.cohorts.folds import assign_folds
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, fit_predict
from spade_bench.registry import heads
from spade_bench.types import Case

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.robustness.sitepoints import PointSet

    Floats = NDArray[np.float64]

__all__ = ["FOLDS", "LEAST_CASES", "Probe", "probe"]

FOLDS = 5
LEAST_CASES = 10
"""Centres or classes of fewer cases are left out of a probe."""


@dataclass(frozen=True)
class Probe:
    """How well a linear probe tells values apart.

    Attributes:
        auroc: Macro one-versus-rest AUROC of the predictions of all folds; None where fewer than
            two values have enough cases.
        ci_low: Lower end of its 95% interval over cases.
        ci_high: Upper end.
        values: Names of the values that are told apart.
        left_out: Names of those with too few cases.
    """

    auroc: float | None
    ci_low: float | None
    ci_high: float | None
    values: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def probe(
    x: Floats, points: PointSet, of: Literal["class", "centre"], weights: Floats, seed: int
) -> Probe:
    """Predict the class or the centre of points from their features, each from other cases.

    Args:
        x: Features, (n, D).
        points: The points.
        of: What is predicted.
        weights: How often each point is in each resample of cases, (B, n).
        seed: Seed of the folds.
    """
    import numpy as np

    from spade_bench.statistics.metrics import auroc

    target, names = (
        (points.label, points.labels) if of == "class" else (points.centre, points.centres)
    )
    first = {int(g): int(t) for g, t in zip(points.group[::-1], target[::-1], strict=True)}
    counts = np.bincount(list(first.values()), minlength=len(names))  # cases of each value
    kept = np.flatnonzero(counts >= LEAST_CASES)
    left_out = tuple(names[i] for i in range(len(names)) if counts[i] < LEAST_CASES)
    if len(kept) < 2:
        return Probe(None, None, None, (), left_out)
    inside = np.flatnonzero(np.isin(target, kept))  # (m,)
    label = np.searchsorted(kept, target[inside])  # (m,)
    group = points.group[inside]
    cases = [
        Case(f"{g:08d}", (), label=str(names[first[int(g)]])) for g in np.unique(group).tolist()
    ]
    folds = assign_folds(cases, FOLDS, [seed, 12], where="probe")
    held = [np.isin(group, [int(name) for name in fold]) for fold in folds]
    bags = CaseBags(lambda i: x[inside[i]][None].astype(np.float32), len(inside), x.shape[1])
    jobs = [Fit(np.flatnonzero(~out), label[~out], np.flatnonzero(out), seed) for out in held]
    head = heads.get("logistic").load(HeadOptions())
    scores = np.zeros((len(inside), len(kept)))  # (m, C)
    predicted = fit_predict(head, bags, jobs, len(kept), name="logistic")
    for out, said in zip(held, predicted, strict=True):
        scores[out] = said
    plain = float(auroc(label, scores)[0])
    boot = auroc(label, scores, weights[:, inside])  # (B,)
    boot = boot[np.isfinite(boot)]
    ends = np.quantile(boot, [0.025, 0.975]) if len(boot) else (None, None)
    low, high = (None if end is None else float(end) for end in ends)
    return Probe(plain, low, high, tuple(names[i] for i in kept), left_out)
