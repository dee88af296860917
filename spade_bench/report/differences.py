"""Paired differences of encoders on the same episodes and cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.registry import suggest
from spade_bench.report.caveats import PERMUTED, caveats, share_held_out, speaks_of, way_of
from spade_bench.report.leaderboard import chosen
from spade_bench.report.series import Place, Series, latest
from spade_bench.report.values import Resampler, Values, single

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.statistics.intervals import Interval

    Floats = NDArray[np.float64]

__all__ = ["Difference", "against_base", "compare", "summaries"]


@dataclass(frozen=True)
class Difference:
    """Encoder ``a`` minus encoder ``b``.

    Attributes:
        a: First encoder.
        b: Second encoder.
        task: Name of the task.
        head: Name of the head.
        protocol: Protocol.
        k_shot: Cases per class; None for the mean over all shots, or where there are none.
        metric: Name of the metric.
        mean: Mean difference over draws or folds.
        ci_low: Lower end of the paired 95% interval.
        ci_high: Upper end.
        p: Two-sided p value; None where no test can be made.
        p_adjusted: The same, adjusted by Holm over tasks and heads; the primary metrics of all
            tasks are one family.
        p_bh: The same, adjusted by Benjamini and Hochberg.
        test: How p and the interval were made: `delong`, `bootstrap`, `nadeau-bengio`, of
            expression `jackknife` over patients or, where a difference shows no variance,
            `square-and-add` of both intervals.
        better: The encoder that the interval favours, or an empty string.
        n_cases: Test cases.
        n_draws: Draws or folds that both have.
        flags: Flags of either side.
        condition: Cases, splits, seed or settings where the folder holds several, in words.
        held_out: Whether the folds are models that share held-out test cases.
    """

    a: str
    b: str
    task: str
    head: str
    protocol: str
    k_shot: int | None
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    p: float | None
    p_adjusted: float | None
    p_bh: float | None
    test: str
    better: str
    n_cases: int
    n_draws: int
    flags: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def covers(self) -> str:
        """What the interval and the test speak of."""
        return speaks_of(way_of(self.protocol, self.flags, self.held_out))

    def as_dict(self) -> dict[str, Any]:
        """Return the difference ready for JSON."""
        lists = {"flags": list(self.flags), "condition": list(self.condition)}
        content = {**asdict(self), **lists, "covers": self.covers}
        del content["held_out"]  # which is what `covers` says
        return content


def compare(
    series: Sequence[Series],
    resampler: Resampler,
    a: str,
    b: str,
    *,
    metrics: Sequence[str] | None = None,
    wanted: str = "all",
) -> list[Difference]:
    """Compare two encoders wherever both have finished the same episodes.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Gives both the same resamples of cases.
        a: Label of the first encoder.
        b: Label of the second one.
        metrics: Which metrics, all of one family; those that are wanted when None.
        wanted: `all` metrics, the `primary` one of each task, or the name of one.

    Returns:
        Differences by task, head and shot, with several shots followed by the mean over them.

    Raises:
        DataError: When a label is unknown or nothing can be paired.
    """
    by_label = {label: _of(series, label) for label in (a, b)}
    by_curve: dict[Place, list[tuple[Series, Series]]] = {}
    for place, one in by_label[a].items():
        both = _common(one, by_label[b][place]) if place in by_label[b] else None
        if both is not None:
            by_curve.setdefault(place._replace(shot=0), []).append(both)
    if not by_curve:
        raise _nothing_shared(a, b, by_label)
    out = []
    for curve in by_curve.values():
        every = curve[0][0].metrics
        # The first metric tells which is the primary one, whose tests are a family of their own.
        asked = dict.fromkeys((*every[:1], *chosen(every, wanted)))
        for metric in asked if metrics is None else metrics:
            out += _differences(curve, resampler, metric)
    held = share_held_out(series)
    found = _adjusted([replace(one, held_out=(one.task, one.protocol) in held) for one in out])
    if metrics is not None:
        return found
    of_task = {curve[0][0].task: curve[0][0].metrics for curve in by_curve.values()}
    return [one for one in found if one.metric in chosen(of_task[one.task], wanted)]


def _nothing_shared(a: str, b: str, by_label: dict[str, dict[Place, Series]]) -> DataError:
    """Say what keeps two encoders apart, where it can be said."""
    conditions = []
    for label in (a, b):
        words = dict.fromkeys(", ".join(place.condition) for place in by_label[label])
        conditions.append(f"{label}: {'; '.join(words)}" if any(words) else "")
    apart = f" ({' | '.join(conditions)})" if all(conditions) and len(set(conditions)) > 1 else ""
    return DataError(
        f"'{a}' and '{b}' share no episode{apart}",
        fix="Run both on the same cases, splits, seed and settings",
    )


def against_base(
    series: Sequence[Series], resampler: Resampler, wanted: str = "all"
) -> list[Difference]:
    """Compare every encoder that sits on a base with that base, where both are there.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Gives both the same resamples of cases.
        wanted: `all` metrics, the `primary` one of each task, or the name of one.
    """
    pairs = {
        (one.encoder, str(row.inputs["base"]))
        for one in series
        for row in one.rows[:1]
        if "base" in row.inputs and not one.control
    }
    labels = {one.encoder for one in series if one.rows}
    out: list[Difference] = []
    for a, b in sorted(pairs):
        if b in labels:
            out += compare(series, resampler, a, b, wanted=wanted)
    return out


def summaries(differences: Sequence[Difference]) -> list[Difference]:
    """One difference a task, head, protocol and condition, of its primary metric: over shots.

    Where there is no mean, that of the most shots stands for it; where cross-validation has
    ensembles, they stand for it.
    """
    best: dict[tuple[str, ...], Difference] = {}
    primary: dict[str, str] = {}
    for one in differences:
        if one.metric != primary.setdefault(one.task, one.metric):
            continue
        key = (one.a, one.b, one.task, one.head, one.protocol, *one.condition)
        if key not in best or _rank(one) > _rank(best[key]):
            best[key] = one
    return list(best.values())


def _rank(one: Difference) -> tuple[bool, bool, int]:
    return "ensemble" in one.flags, one.k_shot is None, one.k_shot or 0


def _of(series: Sequence[Series], label: str) -> dict[Place, Series]:
    """The latest series of an encoder by place; permuted labels and spots are not it."""
    of_label = (one for one in series if one.encoder == label and one.control not in PERMUTED)
    out = {place: one for (place, _), one in latest(of_label).items()}
    if not out:
        labels = {one.encoder for one in series if one.rows}
        near = suggest(label, labels)
        raise DataError(
            f"no results of encoder '{label}'",
            fix=f"Did you mean {near}?" if near else f"There are: {', '.join(sorted(labels))}",
        )
    return out


def _common(a: Series, b: Series) -> tuple[Series, Series] | None:
    """Both series cut to the episodes that both finished."""
    # With one case a class two draws may be the same episode; they stay two draws.
    left = {(row.draw, row.fold, row.inputs.get("episode", "")): row for row in a.rows}
    right = {(row.draw, row.fold, row.inputs.get("episode", "")): row for row in b.rows}
    both = [key for key in left if key in right]
    if not both:
        return None
    return (
        replace(a, rows=tuple(left[key] for key in both)),
        replace(b, rows=tuple(right[key] for key in both)),
    )


def _differences(
    curve: Sequence[tuple[Series, Series]], resampler: Resampler, metric: str
) -> list[Difference]:
    values = [(resampler.values(a, metric), resampler.values(b, metric)) for a, b in curve]
    out = []
    for pair, both in zip(curve, values, strict=True):
        tested = _interval(*both, metric, resampler.seed)
        if tested is not None:
            out.append(_difference(pair, pair[0].k_shot, metric, tested, resampler))
    mean = _over_shots(values) if len(values) > 1 else None
    if mean is not None and (tested := _interval(*mean, metric, resampler.seed)) is not None:
        whole = _difference(curve[0], None, metric, tested, resampler)
        out.append(replace(whole, n_draws=len(mean[0].names)))
    return out


def _over_shots(values: Sequence[tuple[Values, Values]]) -> tuple[Values, Values] | None:
    """Mean over shots of each draw that all shots have; None where there is none."""
    import numpy as np

    shared = [name for name in values[0][0].names
              if all(name in first.names for first, _ in values)]  # fmt: skip
    if not shared or not all(first.fixed for first, _ in values):
        return None
    sides = []
    for side in (0, 1):
        cut = [both[side].rows([both[side].names.index(n) for n in shared]) for both in values]
        known = [one.influence for one in cut if one.influence is not None]
        mean = np.mean(known, axis=0) if len(known) == len(cut) else None
        sides.append(
            replace(
                cut[0],
                plain=np.mean([one.plain for one in cut], axis=0),
                resample=partial(_mean_boot, cut),
                influence=mean,
            )
        )
    return sides[0], sides[1]


def _mean_boot(of_shots: Sequence[Values]) -> Floats:
    """Mean over shots of each draw on each resample, (D, B)."""
    import numpy as np

    return np.asarray(np.mean([one.boot for one in of_shots], axis=0))


def _interval(a: Values, b: Values, metric: str, seed: int) -> tuple[Interval, str] | None:
    """Interval of ``a - b`` within what a difference can be; None where the metric is undefined."""
    import numpy as np

    from spade_bench.statistics.evaluate import bounds
    from spade_bench.statistics.score_intervals import square_and_add

    tested = _tested(a, b, seed)
    if tested is None:
        return None
    if a.without is None and tested[0].high - tested[0].low < 1e-12 and not _informative(a, b):
        one, two = single(a, metric, seed), single(b, metric, seed)
        if one is not None and two is not None and np.isfinite([one.low, two.low]).all():
            tested = square_and_add(one, two), "square-and-add"
    low, high = bounds(metric, a.n_classes)
    span = high - low
    interval = tested[0]
    return replace(interval, low=max(-span, interval.low), high=min(span, interval.high)), tested[1]


def _informative(a: Values, b: Values) -> bool:
    """Whether a difference without variance is that of equal predictions, not of perfect ones."""
    import numpy as np

    if a.plain.shape != b.plain.shape or not np.allclose(a.plain, b.plain):
        return False
    return bool(np.nanmax(a.boot.std(axis=1)) > 1e-12) if a.fixed else a.plain.std() > 1e-12


def _tested(a: Values, b: Values, seed: int) -> tuple[Interval, str] | None:
    """Interval of ``a - b`` with its test; None where the metric is undefined."""
    import numpy as np

    from spade_bench.statistics.delong_draws import delong_over_draws
    from spade_bench.statistics.genescores import jackknife
    from spade_bench.statistics.intervals import paired_interval
    from spade_bench.statistics.paired import corrected_t_test

    differences = a.plain - b.plain
    if not np.isfinite(differences).all():
        return None
    if a.without is not None and b.without is not None:
        paired = jackknife(float(differences.mean()), (a.without - b.without).tolist())
        return paired, "jackknife"
    if not a.fixed:
        return corrected_t_test(differences, a.train_size, a.test_size), "nadeau-bengio"
    if a.influence is not None and b.influence is not None and a.target is not None:
        interval = delong_over_draws(a.target, differences, a.influence - b.influence)
        if interval is not None:
            return interval, "delong"
    first, second = a.boot, b.boot  # (D, B)
    if not np.isfinite(first - second).any():
        return None
    return paired_interval((a.plain, first), (b.plain, second), seed, a.size), "bootstrap"


def _difference(
    pair: tuple[Series, Series],
    k_shot: int | None,
    metric: str,
    tested: tuple[Interval, str],
    resampler: Resampler,
) -> Difference:
    from spade_bench.statistics.evaluate import direction

    (a, b), (interval, test) = pair, tested
    flags = [
        f
        for f in dict.fromkeys((*a.flags, *b.flags, *caveats(a, resampler)))
        if not f.startswith("control:")
    ]
    sign = direction(metric)
    low, high = sorted((sign * interval.low, sign * interval.high))
    return Difference(
        a=a.encoder,
        b=b.encoder,
        task=a.task,
        head=a.head,
        protocol=a.protocol,
        k_shot=k_shot,
        metric=metric,
        mean=interval.mean,
        ci_low=interval.low,
        ci_high=interval.high,
        p=interval.p,
        p_adjusted=None,
        p_bh=None,
        test=test,
        better=a.encoder if low > 0 else b.encoder if high < 0 else "",
        n_cases=resampler.cases(a),
        n_draws=len(a.rows),
        flags=tuple(flags),
        condition=a.condition,
    )


def _adjusted(differences: list[Difference]) -> list[Difference]:
    """Adjust over tasks and heads: primary metrics together, each other metric by itself.

    Means over shots and single shots are families of their own, and so are conditions.
    """
    import numpy as np

    from spade_bench.statistics.multiplicity import benjamini_hochberg, holm

    families: dict[tuple[object, ...], list[int]] = {}
    primary: dict[str, str] = {}
    for index, one in enumerate(differences):
        first = primary.setdefault(one.task, one.metric)
        name = "primary" if one.metric == first else one.metric
        families.setdefault((name, one.k_shot is None, one.condition), []).append(index)
    out = list(differences)
    for members in families.values():
        p = np.array([np.nan if (q := out[i].p) is None else q for i in members])
        for i, first, second in zip(members, holm(p), benjamini_hochberg(p), strict=True):
            if out[i].p is not None:
                out[i] = replace(out[i], p_adjusted=float(first), p_bh=float(second))
    return out
