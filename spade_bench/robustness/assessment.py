"""Robustness of encoders at the points of a cohort, side by side on the same resamples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from spade_bench.console import say, track
from spade_bench.errors import UserError
from spade_bench.robustness.performancedrop import PerformanceDrop, performance_drop
from spade_bench.robustness.siteprobes import Probe, probe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.robustness.sitepoints import Points, PointSet
    from spade_bench.statistics.neighbourhoods import Neighbourhoods

    Floats = NDArray[np.float64]

__all__ = ["N_BOOT", "Assessed", "Gap", "K", "Margins", "assess"]

K = 11
N_BOOT = 1000
FEW_ANCHORS = 30
_PROBED: tuple[Literal["class", "centre"], ...] = ("class", "centre")


@dataclass(frozen=True)
class Margins:
    """Margins of usable anchors: similarity to the nearest point of their class at another centre
    less that to the nearest of another class at their centre, in standard deviations of similarity.

    Attributes:
        mean: Their mean.
        q05: Their 5% quantile: the lower tail.
        q25: Their 25% quantile.
        median: Their median.
        below_zero: Share of anchors to which the centre is nearer than the class.
    """

    mean: float
    q05: float
    q25: float
    median: float
    below_zero: float


@dataclass(frozen=True)
class Assessed:
    """One encoder or control.

    Attributes:
        encoder: Label.
        control: Name of the control that it is; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands.
        robustness_index: The index; None where it is undefined.
        ci_low: Lower end of its 95% bootstrap interval over cases.
        ci_high: Upper end.
        anchors: Points for which both kinds of neighbours exist.
        k: Number of neighbours.
        points: All points.
        chance: The index of neighbours drawn at random.
        margins: Margins of the anchors; None where there are none.
        ari_class: Adjusted Rand index of clusters with the class.
        ari_centre: That with the centre.
        clustering_score: The first minus the second.
        class_probe: How well a linear probe predicts the class.
        centre_probe: How well one predicts the centre.
        performance_drop: What a probe loses as class and centre go together in training; None
            where too few cases are crossed.
        flags: What a reader must know.
    """

    encoder: str
    control: str
    control_of: str
    robustness_index: float | None
    ci_low: float | None
    ci_high: float | None
    anchors: int
    k: int
    points: int
    chance: float | None
    margins: Margins | None
    ari_class: float
    ari_centre: float
    clustering_score: float
    class_probe: Probe
    centre_probe: Probe
    performance_drop: PerformanceDrop | None = None
    flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Gap:
    """Difference of two robustness indices on the same resamples of cases.

    Attributes:
        a: First encoder.
        b: Second encoder.
        mean: Index of ``a`` minus that of ``b``.
        ci_low: Lower end of the paired 95% interval.
        ci_high: Upper end.
        p: Two-sided bootstrap p value.
        p_adjusted: The same, adjusted by Holm over all pairs.
    """

    a: str
    b: str
    mean: float
    ci_low: float
    ci_high: float
    p: float
    p_adjusted: float

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def assess(
    points: PointSet, encoders: Sequence[Points], *, k: int | None = None, seed: int = 0
) -> tuple[list[Assessed], list[Gap], dict[str, Floats]]:
    """Measure every encoder at the same points.

    Args:
        points: The points.
        encoders: Features of encoders and controls there.
        k: Number of neighbours; None for `K`, or a third of the points of other cases where these
            are few.
        seed: Seed of resamples, folds and clusters.

    Returns:
        One result per encoder and control, the differences of each pair of encoders and of each
        encoder and its own controls, and the margins of usable anchors by encoder.

    Raises:
        UserError: When no point is a usable anchor.
    """
    import numpy as np

    from spade_bench.statistics.intervals import case_weights
    from spade_bench.statistics.neighbourhoods import (
        clustering_score,
        neighbourhoods,
        resampled_index,
    )

    n = len(points.group)
    others = n - int(np.bincount(points.group).max())
    chosen = min(K, max(1, others // 3)) if k is None else k
    if k is None and chosen < K:
        say(f"k is {chosen}, not {K}: there are {n} points")
    cases = np.unique(points.group)
    strata = np.zeros(len(cases), dtype=np.int64)  # cases are one stratum, as in PathoROB
    weights = case_weights(strata, N_BOOT, seed)[:, np.searchsorted(cases, points.group)]  # (B, n)
    out: list[Assessed] = []
    boots: dict[str, Floats] = {}
    margins: dict[str, Floats] = {}
    for one in track(encoders, "Measuring robustness", len(encoders), "encoders"):
        found = neighbourhoods(one.x, points.label, points.centre, points.group, chosen)
        if not found.usable.any():
            raise UserError(
                f"no point has its class at another {points.by} and another class at its own: "
                f"class and {points.by} are not crossed",
                fix="Use a cohort in which several classes come from several centres",
            )
        boot = resampled_index(found, weights)  # (B,)
        boots[one.encoder] = boot
        margins[one.encoder] = found.margin[found.usable]
        ends = _ends(boot)
        score = clustering_score(one.x, points.label, points.centre, seed)
        probes = [probe(one.x, points, of, weights, seed) for of in _PROBED]
        drop = performance_drop(one.x, points, seed)
        out.append(_assessed(one, found, ends, score, probes, drop=drop))
    if out and out[0].anchors < FEW_ANCHORS:
        say(f"only {out[0].anchors} of {n} points are usable anchors: intervals say little")
    return out, _gaps(out, boots), margins


def _assessed(
    one: Points,
    found: Neighbourhoods,
    ends: tuple[float | None, float | None],
    score: tuple[float, float, float],
    probes: Sequence[Probe],
    *,
    drop: PerformanceDrop | None,
) -> Assessed:
    return Assessed(
        encoder=one.encoder,
        control=one.control,
        control_of=one.control_of,
        robustness_index=_known(found.index),
        ci_low=ends[0],
        ci_high=ends[1],
        anchors=int(found.usable.sum()),
        k=found.k,
        points=len(found.usable),
        chance=_known(found.chance),
        margins=_margins(found.margin[found.usable]),
        ari_class=score[0],
        ari_centre=score[1],
        clustering_score=score[2],
        class_probe=probes[0],
        centre_probe=probes[1],
        performance_drop=drop,
        flags=one.flags,
    )


def _ends(boot: Floats) -> tuple[float | None, float | None]:
    """Ends of the 95% percentile interval; None where no resample has a value."""
    import numpy as np

    known = boot[np.isfinite(boot)]
    if not len(known):
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _margins(margin: Floats) -> Margins | None:
    import numpy as np

    if not len(margin):
        return None
    q05, q25, median = np.quantile(margin, [0.05, 0.25, 0.5])
    below = float((margin < 0).mean())
    return Margins(float(margin.mean()), float(q05), float(q25), float(median), below)


def _gaps(rows: Sequence[Assessed], boots: dict[str, Floats]) -> list[Gap]:
    """Differences of pairs of encoders, and of encoders and their own controls."""
    import numpy as np

    from spade_bench.statistics.multiplicity import holm

    mains = [row for row in rows if not row.control]
    pairs = [(a, b) for at, a in enumerate(mains) for b in mains[at + 1 :]]
    pairs += [(a, b) for a in mains for b in rows if b.control and b.control_of == a.encoder]
    found: list[Gap] = []
    for a, b in pairs:
        if a.robustness_index is None or b.robustness_index is None:
            continue
        apart = boots[a.encoder] - boots[b.encoder]  # (B,)
        apart = apart[np.isfinite(apart)]
        if not len(apart):
            continue
        low, high = np.quantile(apart, [0.025, 0.975])
        # The add-one rule keeps a finite bootstrap from reporting p = 0.
        tail = min((apart <= 0).sum() + 1, (apart >= 0).sum() + 1) / (len(apart) + 1)
        p = float(min(1.0, 2 * tail))
        mean = a.robustness_index - b.robustness_index
        found.append(Gap(a.encoder, b.encoder, mean, float(low), float(high), p, p))
    if not found:
        return []
    adjusted = holm(np.array([gap.p for gap in found]))
    return [
        Gap(gap.a, gap.b, gap.mean, gap.ci_low, gap.ci_high, gap.p, float(q))
        for gap, q in zip(found, adjusted, strict=True)
    ]


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
