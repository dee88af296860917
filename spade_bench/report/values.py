"""Metrics of stored predictions, as they are and on resamples, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.report.series import Series
from spade_bench.report.spotvalues import OF_SECTIONS, spot_scores, units_of
from spade_bench.results import Predictions, Row, StoredPredictions
from spade_bench.results.store import whole_predictions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.statistics.intervals import Interval

    Floats = NDArray[np.float64]
    _Draws = tuple[NDArray[Any], list[Floats], list[tuple[Floats, Floats] | None]]

__all__ = ["N_BOOT", "Resampler", "Values", "at_hand", "class_sizes", "single"]

N_BOOT = 1000
_KEPT = 64_000_000  # bytes of weights of resamples that are kept for whoever asks next
_KEPT_VALUES = 192_000_000  # and of metrics on them, which tables ask for again in another order


@dataclass(frozen=True)
class Values:
    """One metric of one series.

    Attributes:
        names: Draw and fold of each row, D of them; rows whose labels were shuffled in several
            ways have one name.
        plain: (D,) metric of each row.
        resample: Returns the metric of each row on each case resample, (D, B). It is large, and
            made when it is needed.
        fixed: Whether all rows have the same test cases: then rows are draws that are crossed with
            cases, else they are folds.
        train_size: Mean number of training cases.
        test_size: Mean number of test cases.
        target: Targets of the test cases when they are the same for all rows, else None.
        influence: (D, n) contribution of each case to the AUROC of each row; for AUROC on fixed
            test cases only, None where a class has fewer than two cases or cases are slides.
        size: Test cases (patients, where cases are slides) of the smallest class, over all rows;
            for survival those with an event, of measured values all of them.
        units: Distinct test cases, or patients, over all rows.
        without: (U,) the mean over rows of the metric without each patient in turn, for expression
            in spots; None for cases, which are resampled.
    """

    names: tuple[tuple[int, int], ...]
    plain: Floats
    resample: Callable[[], Floats]
    fixed: bool
    train_size: float
    test_size: float
    target: NDArray[Any] | None = None
    influence: Floats | None = None
    size: int = 0
    units: int = 0
    without: Floats | None = None

    @property
    def boot(self) -> Floats:
        """(D, B) metric of each row on each case resample."""
        return self.resample()

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 where there are none or test cases differ from row to row."""
        classes = self.target is not None and self.target.dtype.kind == "i"
        return int(self.target.max()) + 1 if classes and self.target is not None else 0

    def rows(self, keep: Sequence[int]) -> Values:
        """Cut to some rows, by position."""
        at = list(keep)
        return Values(
            tuple(self.names[i] for i in at),
            self.plain[at],
            lambda: self.boot[at],
            self.fixed,
            self.train_size,
            self.test_size,
            self.target,
            None if self.influence is None else self.influence[at],
            self.size,
            self.units,
            self.without,
        )

    def by_draw(self) -> Values:
        """Average the rows of one draw and fold, which differ in the shuffle of their labels."""
        import numpy as np

        names = tuple(dict.fromkeys(self.names))
        if len(names) == len(self.names):
            return self
        at = [[i for i, other in enumerate(self.names) if other == name] for name in names]
        return replace(
            self,
            names=names,
            plain=np.array([self.plain[alike].mean() for alike in at]),
            resample=lambda: _means_of(self.boot, at),
            influence=None,
        )


def at_hand(boot: Floats) -> Callable[[], Floats]:
    """Return what `Values.resample` is where the (D, B) values have been made already."""
    return lambda: boot


def _means_of(boot: Floats, at: Sequence[Sequence[int]]) -> Floats:
    import numpy as np

    return np.stack([boot[alike].mean(axis=0) for alike in at])


@dataclass
class Resampler:
    """Evaluates metrics on bootstrap resamples of stored predictions, each once.

    Attributes:
        out: Folder of the results.
        n_boot: Number of resamples.
        seed: Seed of the resamples; equal cases get equal resamples, which pairs encoders.
        stored: Predictions by run id; those that are not there are read.
    """

    out: Path
    n_boot: int = N_BOOT
    seed: int = 0
    stored: dict[str, Predictions] = field(default_factory=dict)
    _values: dict[tuple[str, ...], Values] = field(default_factory=dict)
    _weights: dict[object, Floats] = field(default_factory=dict)
    _sizes: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)
    _intervals: dict[tuple[str, ...], Interval | None] = field(default_factory=dict)
    _centres: dict[tuple[str, ...], Floats] = field(default_factory=dict)
    _boots: dict[tuple[str, ...], Floats] = field(default_factory=dict)
    _bytes: int = 0

    def values(self, series: Series, metric: str) -> Values:
        """Return a metric of every row of a series.

        Raises:
            DataError: When predictions are missing or damaged.
        """
        key = _key(series, metric)
        if key not in self._values:
            self._values[key] = self._evaluate(series, metric)
        return self._values[key]

    def interval(self, series: Series, metric: str) -> Interval | None:
        """Mean over the rows of a series with its 95% interval; None where undefined.

        See :func:`single`. Where labels are permuted, each shuffle counts as a draw; those of one
        fold are averaged first, because folds that share training cases are not independent.
        """
        key = _key(series, metric)
        if key not in self._intervals:
            values = self.values(series, metric)
            if series.permutations > 1 and not values.fixed:
                values = values.by_draw()
            self._intervals[key] = single(values, metric, self.seed)
            if key in self._boots and metric == series.metrics[0]:
                self.centre(series, metric)  # while its resamples are at hand
        return self._intervals[key]

    def centre(self, series: Series, metric: str) -> Floats:
        """Return the mean over the rows of a series on each resample, (B,).

        Where rows are draws, with the chance of the draws added; see `statistics.intervals.means`.
        """
        from spade_bench.statistics.intervals import means

        key = _key(series, metric)
        if key not in self._centres:
            values = self.values(series, metric)
            boot = values.boot
            centre = means(values.plain, boot, self.seed) if values.fixed else boot.mean(axis=0)
            self._centres[key] = centre
            if values.influence is not None and key in self._boots:
                self._bytes -= self._boots.pop(key).nbytes  # intervals and tests do without
        return self._centres[key]

    @cached_property
    def _files(self) -> StoredPredictions:
        return StoredPredictions(self.out)

    def undefined(self, series: Series, metric: str) -> int:
        """Count the rows of a series in which a metric is undefined; its mean is over the others.

        Only expression has such means: elsewhere one undefined row makes the mean undefined.
        """
        import numpy as np

        return int((~np.isfinite(self.values(series, metric).plain)).sum())

    def predictions(self, row: Row) -> Predictions:
        """Read the predictions of a row, once."""
        if row.run_id not in self.stored:
            self.stored[row.run_id] = whole_predictions(self._files, row)
        return self.stored[row.run_id]

    def cases(self, series: Series) -> int:
        """Return the number of distinct test cases of a series."""
        if not series.rows:
            return 0
        sizes = {int(row.n.get("test") or 0) for row in series.rows}
        if series.protocol not in {"cv", "leave-site-out", *OF_SECTIONS} and len(sizes) == 1:
            return sizes.pop()
        return len({case for row in series.rows for case in self.predictions(row).case_ids})

    def sizes(self, series: Series) -> tuple[int, int]:
        """Return the test cases, or events, of the smallest class of a series and all of them."""
        key = tuple(row.run_id for row in series.rows)
        if key not in self._sizes:
            of_rows = [self.predictions(row) for row in series.rows]
            if of_rows[0].spots is not None:
                units = len(units_of(of_rows)[0])
                self._sizes[key] = units, units
            else:
                self._sizes[key] = class_sizes(of_rows)
        return self._sizes[key]

    def units(self, series: Series) -> tuple[tuple[str, ...], str]:
        """Return what intervals of expression count, and whether these are patients or sections."""
        return units_of([self.predictions(row) for row in series.rows])

    def _evaluate(self, series: Series, metric: str) -> Values:
        import numpy as np

        from spade_bench.statistics.draws import evaluate_draws

        if metric not in series.metrics:
            raise DataError(f"no metric '{metric}'", where=f"task {series.task}")
        of_rows = [self.predictions(row) for row in series.rows]
        first = of_rows[0]
        if first.spots is not None:
            return self._of_spots(series, of_rows, metric)
        if any(other.classes != first.classes for other in of_rows):
            raise DataError(
                "rows of one series have different classes",
                where=f"{series.encoder} on {series.task}",
            )
        fixed = all(other.case_ids == first.case_ids for other in of_rows)
        return Values(
            names=tuple((row.draw or 0, -1 if row.fold is None else row.fold)
                        for row in series.rows),
            plain=np.concatenate(
                [evaluate_draws(metric, target, scores, None, trains)[:, 0]
                 for _, (target, scores, trains) in _alike(of_rows)]
            ),
            resample=lambda: self._boot(_key(series, metric), of_rows, metric),
            fixed=fixed,
            train_size=float(np.mean([row.n.get("train") or 0 for row in series.rows])),
            test_size=float(np.mean([len(one.case_ids) for one in of_rows])),
            target=first.target if fixed else None,
            influence=_influence(of_rows) if fixed and metric == "auroc" else None,
            size=self.sizes(series)[0],
            units=self.sizes(series)[1],
        )  # fmt: skip

    def _boot(self, key: tuple[str, ...], of_rows: Sequence[Predictions], metric: str) -> Floats:
        """Metric of rows on resamples, (D, B); those that were asked for last are kept."""
        import numpy as np

        from spade_bench.statistics.draws import evaluate_draws

        if key in self._boots:
            self._boots[key] = self._boots.pop(key)  # the latest stands last
            return self._boots[key]
        boot = np.concatenate(
            [
                evaluate_draws(metric, target, scores, self.weights(first), trains)
                for first, (target, scores, trains) in _alike(of_rows)
            ]
        )
        self._boots[key] = boot
        self._bytes += boot.nbytes
        while self._bytes > _KEPT_VALUES and len(self._boots) > 1:
            self._bytes -= self._boots.pop(next(iter(self._boots))).nbytes
        return boot

    def _of_spots(self, series: Series, of_rows: Sequence[Predictions], metric: str) -> Values:
        """Values of expression in spots: folds of sections, and patients as what is left out."""
        import numpy as np

        scores = spot_scores(of_rows, metric, self.n_boot, self.seed)
        units = len(scores.units)
        return Values(
            names=tuple((row.draw or 0, row.fold or 0) for row in series.rows),
            plain=scores.folds,
            resample=at_hand(scores.boot),
            fixed=False,
            train_size=float(np.mean([row.n.get("train") or 0 for row in series.rows])),
            test_size=float(np.mean([len(one.case_ids) for one in of_rows])),
            size=units,
            units=units,
            without=scores.without,
        )

    def weights(self, predictions: Predictions) -> Floats:
        """Return how often each test case is in each resample, (B, n).

        Where cases are slides, it is their patients who are resampled.
        """
        from spade_bench.statistics.evaluate import strata
        from spade_bench.statistics.intervals import case_weights

        groups, patients = strata(predictions.target), predictions.patients
        key = (groups.tobytes(), patients)
        if key in self._weights:
            self._weights[key] = self._weights.pop(key)  # the latest stands last
        else:
            self._weights[key] = case_weights(groups, self.n_boot, self.seed, patients)
            # The latest stays, however large: with 8,001 cases it alone is more than is kept.
            while len(self._weights) > 1 and sum(w.nbytes for w in self._weights.values()) > _KEPT:
                del self._weights[next(iter(self._weights))]
        return self._weights[key]


def _key(series: Series, metric: str) -> tuple[str, ...]:
    return (metric, *(row.run_id for row in series.rows))


def _alike(of_rows: Sequence[Predictions]) -> Iterator[tuple[Predictions, _Draws]]:
    """Rows that follow each other with the same test cases: the first, and what all hold."""
    import numpy as np

    start = 0
    for at in range(1, len(of_rows) + 1):
        first = of_rows[start]
        if at < len(of_rows):
            other = of_rows[at]
            if (
                other.case_ids == first.case_ids
                and other.patients == first.patients
                and (other.target is first.target or np.array_equal(other.target, first.target))
            ):
                continue
        part = of_rows[start:at]
        yield first, (first.target, [one.scores for one in part], [_train(one) for one in part])
        start = at


def _train(one: Predictions) -> tuple[Floats, Floats] | None:
    if one.train_target is None or one.train_scores is None:
        return None
    return one.train_target, one.train_scores


def single(values: Values, metric: str, seed: int = 0) -> Interval | None:
    """Mean over rows with a 95% interval; None where the metric is undefined.

    Draws on the same test cases vary with the draw and with the cases; see
    :mod:`spade_bench.statistics.score_intervals`. Folds share training cases, so their spread is
    corrected after Nadeau and Bengio; see :func:`spade_bench.statistics.paired.corrected_t_test`.

    Args:
        values: The metric of each row.
        metric: Its name.
        seed: Seed of the chance of the draws, for a metric without bounds.

    Returns:
        The interval; its ends are NaN where a class has too few cases for one that would hold.
    """
    import numpy as np

    from spade_bench.statistics import score_intervals as scores
    from spade_bench.statistics.evaluate import bounds
    from spade_bench.statistics.genescores import jackknife
    from spade_bench.statistics.intervals import Interval, interval
    from spade_bench.statistics.paired import corrected_t_test

    if values.without is not None:
        if not np.isfinite(values.plain).any():
            return None
        found = jackknife(float(np.nanmean(values.plain)), values.without.tolist())
        least, most = bounds(metric)
        # NaN stays what it is: one section gives no interval.
        low, high = np.clip([found.low, found.high], least, most).tolist()
        return replace(found, low=low, high=high)
    if not np.isfinite(values.plain).all():
        return None
    # An AUROC with contributions of two cases of each class or more has a value on each resample.
    if values.influence is None and not np.isfinite(values.boot.mean(axis=0)).any():
        return None
    mean, (floor, top) = float(values.plain.mean()), bounds(metric, values.n_classes)
    if values.size < scores.least_cases(metric):
        return Interval(mean, float("nan"), float("nan"))
    if not np.isfinite([floor, top]).all():
        if values.fixed:
            size = values.size if np.isfinite([floor, top]).any() else None
            found = interval(values.plain, values.boot, seed, size)
            return replace(found, low=max(floor, found.low), high=min(top, found.high))
        return corrected_t_test(values.plain, values.train_size, values.test_size)
    span, size = top - floor, _effective(values, metric)
    plain = (values.plain - floor) / span
    if values.fixed:
        if values.influence is not None and values.target is not None:
            spread = scores.influence_spread(values.target, plain, values.influence)
        else:
            spread = scores.boot_spread(plain, (values.boot - floor) / span, values.size)
        least = scores.least_multiple(metric)
        low, high = scores.score_interval(float(plain.mean()), spread, size, least)
    else:
        of_folds = corrected_t_test(plain, values.train_size, values.test_size)
        low, high = max(0.0, of_folds.low), min(1.0, of_folds.high)
        if values.size < scores.FEW_CASES or of_folds.high == of_folds.low:
            # Folds of few cases may agree by chance; no less than what the cases allow is said.
            none = scores.Spread(0.0, float(len(plain) - 1))
            alone = scores.score_interval(float(plain.mean()), none, size)
            low, high = min(low, alone[0]), max(high, alone[1])
    return Interval(mean, floor + span * low, floor + span * high)


def _effective(values: Values, metric: str) -> int:
    """Cases that bound the variance of a metric: of a mean over classes or cases more than one."""
    if metric == "brier":
        # Squared errors of probabilities vary by far less than between right and wrong.
        return max(values.size, 4 * values.units)
    if metric == "balanced_accuracy":
        return values.size * max(1, values.n_classes)
    return values.size


def class_sizes(of_rows: Sequence[Predictions]) -> tuple[int, int]:
    """Test cases of the smallest class and of all, over all rows, each case once.

    For survival the cases with an event stand for the smallest class, of measured values all
    cases. Where cases are slides, the patients that have slides of the class count.
    """
    import numpy as np

    from spade_bench.statistics.evaluate import strata

    seen: dict[str, tuple[str, int]] = {}
    differing = any(one.case_ids != of_rows[0].case_ids for one in of_rows)
    for one in of_rows if differing else of_rows[:1]:
        label = strata(one.target)
        owners = one.patients or one.case_ids
        seen.update(zip(one.case_ids, zip(owners, label.tolist(), strict=True), strict=True))
    classes = np.array([label for _, label in set(seen.values())], dtype=np.int64)
    owned = {owner for owner, _ in seen.values()}
    if of_rows[0].kind == "regression":
        return len(owned), len(owned)
    if of_rows[0].survival:
        return int(classes.sum()), len(owned)
    return int(np.bincount(classes, minlength=len(of_rows[0].classes)).min()), len(owned)


def _influence(of_rows: Sequence[Predictions]) -> Floats | None:
    import numpy as np

    from spade_bench.statistics.draws import auroc_influences

    if any(len(set(one.patients)) < len(one.patients) for one in of_rows):
        return None  # slides of one patient are not independent, as DeLong has them
    found = [auroc_influences(target, scores) for _, (target, scores, _) in _alike(of_rows)]
    rows = [one for one in found if one is not None]
    return np.concatenate(rows) if len(rows) == len(found) else None
