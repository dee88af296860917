"""A metric within each level of a column, such as a site, a sex or a stage, against all others.

The mean over a cohort may hide that a model fails somewhere. For each level stand its cases, its
base rate, the metric there and the difference to the cases of all other levels, with an interval of
the difference itself: two intervals that overlap say nothing of it. Cases are resampled within each
level and class; draws of few shots are averaged, and the folds of a repeat are read as one, because
each fold tests only a few cases of a level. p values are adjusted by Holm over the levels of an
encoder. Levels with fewer than ten cases of a class (events, or cases with a value) are named and
not tested.

Nothing is chosen on test cases: a class is called where it is the likeliest, a rule that was there
before training. Metrics that would choose a threshold anew within each level are refused.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, UserError, name_some
from spade_bench.escaping import csv_cell
from spade_bench.report.mainseries import main_series
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler
from spade_bench.results import Predictions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["LEAST", "LevelRow", "as_levels", "by_levels", "levels_csv", "read_levels"]

LEAST = 10
"""Cases of each class (events, cases with a value) that a level must have to be tested."""

BLANK, SEVERAL = "(no value)", "(several values)"
"""Cases of which the table says nothing, and those whose rows say different things."""
_NO_LEVEL = {
    BLANK: "the table has no value: in no level, and not among the others",
    SEVERAL: "rows of a case differ: in no level, and not among the others",
}

_MOST_LEVELS = 10  # of numbers; more are cut into quarters
_MOSTLY = 0.9  # share of the values that are numbers, from which the others are mistakes
_QUARTERS = 4


@dataclass(frozen=True)
class LevelRow:
    """One level of a column, as one encoder predicts its cases.

    Attributes:
        encoder: Label of the encoder.
        task: Name of the task.
        head: Name of the head.
        protocol: Protocol.
        k_shot: Cases per class, or None.
        column: The column.
        level: The level.
        n_cases: Distinct test cases of it.
        n_events: Of them those of the last class, or with an event; None for measured values.
        base_rate: Share of these; for measured values their mean.
        metric: Name of the metric.
        value: The metric within the level; None where it has too few cases.
        difference: Value less that among the cases of all other levels.
        ci_low: Lower end of the 95% interval of the difference.
        ci_high: Upper end.
        p: Two-sided bootstrap p value of no difference.
        p_adjusted: The same, adjusted by Holm over the levels.
        note: Why there is no value; else empty.
        condition: Cases, splits, seed or settings where the folder holds several, in words.
        flags: Flags of the series.
    """

    encoder: str
    task: str
    head: str
    protocol: str
    k_shot: int | None
    column: str
    level: str
    n_cases: int
    n_events: int | None
    base_rate: float
    metric: str
    value: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    note: str = ""
    condition: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the row ready for JSON."""
        return {**asdict(self), "condition": list(self.condition), "flags": list(self.flags)}


@dataclass(frozen=True)
class _Pool:
    """Test cases of a series, each once, with what each draw or repeat said of them.

    Attributes:
        predictions: The cases and their truth; the scores are those of the first draw.
        scores: For each draw or repeat (n, C).
        level: Level of each case; `BLANK` or `SEVERAL` where it has none.
    """

    predictions: Predictions
    scores: tuple[Floats, ...]
    level: NDArray[Any]


def as_levels(values: Mapping[str, str], column: str = "") -> dict[str, str]:
    """Return the level of each case: the value itself, or the quarter of many different numbers.

    Args:
        values: Case -> what the table says.
        column: Name of the column, for messages.

    Raises:
        DataError: When nearly all values are different numbers, and some are none.
    """
    import numpy as np

    from spade_bench.cohorts.spelling import read_number

    numbers = {case: read_number(v) for case, v in values.items() if v not in _NO_LEVEL}
    known = [number for number in numbers.values() if number is not None and np.isfinite(number)]
    if len(set(known)) <= _MOST_LEVELS or len(known) < _MOSTLY * len(numbers):
        return dict(values)
    odd = sorted({values[case] for case, n in numbers.items() if n is None or not np.isfinite(n)})
    if odd:
        raise DataError(
            f"{len(numbers) - len(known)} of {len(numbers)} values are no numbers among numbers: "
            f"{name_some(odd)}",
            where=f"--by {column}",
            fix="Leave these cells empty, or write numbers",
        )
    edges = np.unique(np.quantile(known, np.arange(1, _QUARTERS) / _QUARTERS))  # (q,)
    ends = [f"{edge:.4g}" for edge in edges]
    names = [f"up to {ends[0]}",
             *(f"{low} to {high}" for low, high in itertools.pairwise(ends)),
             f"above {ends[-1]}"]  # fmt: skip
    quarter = {
        case: names[int(np.searchsorted(edges, number or 0.0, side="left"))]
        for case, number in numbers.items()
    }
    return {case: quarter.get(case, value) for case, value in values.items()}


def by_levels(
    series: Sequence[Series],
    resampler: Resampler,
    column: str,
    levels: Mapping[str, Mapping[str, str]],
    metric: str = "primary",
) -> list[LevelRow]:
    """Measure the main series of each encoder within each level.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
        column: Name of the column.
        levels: Level of each case, by task.
        metric: `primary`, or the name of a metric.

    Raises:
        UserError: When the metric would choose a threshold within each level, or no task has
            two levels.
    """
    if metric.startswith("sensitivity_at_"):
        raise UserError(
            f"{metric} would choose its threshold anew within each level",
            where="--metric",
            fix="Use auroc, balanced_accuracy or another metric whose rule is fixed before testing",
        )
    out: list[LevelRow] = []
    for shown in main_series(series, resampler).values():
        for one in shown:
            of_task = levels.get(one.task, {})
            name = one.metrics[0] if metric == "primary" else metric
            if name in one.metrics and len(set(of_task.values()) - set(_NO_LEVEL)) > 1:
                out += _of_series(one, resampler, column, of_task, name)
    if not out:
        raise UserError(
            f"no test cases of two levels of '{column}'",
            where="--by",
            fix="Name a column that differs between cases",
        )
    return out


def levels_csv(rows: Sequence[LevelRow]) -> str:
    """Return the rows as csv."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = list(rows[0].as_dict()) if rows else []
    writer.writerow(columns)
    for row in rows:
        content = {**row.as_dict(), "condition": ";".join(row.condition),
                   "flags": ";".join(row.flags)}  # fmt: skip
        writer.writerow([csv_cell(content[name]) for name in columns])
    return buffer.getvalue().rstrip("\n")


def _of_series(
    one: Series, resampler: Resampler, column: str, levels: Mapping[str, str], metric: str
) -> list[LevelRow]:
    import numpy as np

    from spade_bench.statistics.multiplicity import holm

    pool = _pooled(one, resampler, levels)
    names = sorted({str(name) for name in pool.level} - set(_NO_LEVEL), key=_place)
    out = []
    for level in names:
        inside = pool.level == level  # (n,)
        row = _described(one, pool, column, level, metric)
        others = ~np.isin(pool.level, [*_NO_LEVEL, level])  # (n,)
        why = _too_few(pool.predictions, inside) or _too_few(
            pool.predictions, others, "all other levels together have"
        )
        if why:
            out.append(replace(row, note=why))
        elif len(names) == 2 and out and out[0].difference is not None:
            # The other way round it is the same question, not a second test.
            out.append(_mirrored(row, out[0], pool, inside))
        else:
            out.append(_measured(row, pool, inside, others, resampler))
    tested = [at for at, row in enumerate(out) if row.p is not None]
    if tested:
        several = np.array([out[at].p for at in tested], dtype=float)
        adjusted = several if len(names) == 2 else holm(several)
        for at, p in zip(tested, adjusted, strict=True):
            out[at] = replace(out[at], p_adjusted=float(p))
    for level, why in _NO_LEVEL.items():
        if (pool.level == level).any():
            out.append(replace(_described(one, pool, column, level, metric), note=why))
    return out


def _mirrored(row: LevelRow, other: LevelRow, pool: _Pool, inside: Bools) -> LevelRow:
    """The second of two levels, of which the first is measured."""
    import numpy as np

    plain = _values(pool, inside, row.metric, np.ones((1, len(inside))))[0]
    assert other.difference is not None
    assert other.ci_low is not None
    assert other.ci_high is not None
    return replace(row, value=float(plain.mean()), difference=-other.difference,
                   ci_low=-other.ci_high, ci_high=-other.ci_low, p=other.p)  # fmt: skip


def _place(level: str) -> tuple[float, str]:
    """Where a level stands among others: numbers and quarters in their order, words after them."""
    from spade_bench.cohorts.spelling import read_number

    first = level.split(maxsplit=1)[0]
    if first in {"up", "above"}:
        return (-float("inf") if first == "up" else float("inf")), ""
    number = read_number(first)
    return (float("inf"), level) if number is None else (number, level)


def _pooled(one: Series, resampler: Resampler, levels: Mapping[str, str]) -> _Pool:
    """Join the folds of a repeat; draws on the same cases stay apart."""
    import numpy as np

    draws: dict[int, list[Predictions]] = {}
    for row in one.rows:
        draws.setdefault(row.draw or 0, []).append(resampler.predictions(row))
    joined = [_join(parts) for parts in draws.values()]
    first = joined[0]
    alike = [other for other in joined if other.case_ids == first.case_ids]
    level = np.array([levels.get(case, BLANK) for case in first.case_ids], dtype=object)  # (n,)
    return _Pool(first, tuple(other.scores for other in alike), level)


def _join(parts: Sequence[Predictions]) -> Predictions:
    """Every test case of several rows once, sorted by name."""
    import numpy as np

    ids = [case for part in parts for case in part.case_ids]
    names, first = np.unique(np.array(ids), return_index=True)
    target = np.concatenate([part.target for part in parts])[first]
    scores = np.concatenate([part.scores for part in parts])[first]
    patients = [patient for part in parts for patient in part.patients]
    owners = tuple(patients[i] for i in first) if len(patients) == len(ids) else ()
    alone = len(parts) == 1  # what metrics of survival need of the training cases
    kept = parts[0] if alone else replace(parts[0], train_ids=(), train_target=None,
                                          train_scores=None)  # fmt: skip
    return replace(kept, case_ids=tuple(map(str, names)), target=target, scores=scores,
                   patients=owners)  # fmt: skip


def _described(one: Series, pool: _Pool, column: str, level: str, metric: str) -> LevelRow:
    predictions, inside = pool.predictions, pool.level == level
    target = predictions.target[inside]
    positive = None
    if predictions.kind == "survival":
        positive = target[:, 0] > 0
    elif predictions.kind == "classification":
        positive = target == len(predictions.classes) - 1
    return LevelRow(
        encoder=one.encoder,
        task=one.task,
        head=one.head,
        protocol=one.protocol,
        k_shot=one.k_shot,
        column=column,
        level=level,
        n_cases=int(inside.sum()),
        n_events=None if positive is None else int(positive.sum()),
        base_rate=float(target.mean() if positive is None else positive.mean()),
        metric=metric,
        condition=one.condition,
        flags=one.flags,
    )


def _too_few(predictions: Predictions, inside: Bools, who: str = "") -> str:
    """Why a level cannot be tested; empty where it can."""
    target = predictions.target[inside]
    if predictions.kind == "regression":
        size = len(target)
        what = "case" if size == 1 else "cases"
    elif predictions.kind == "survival":
        size = int((target[:, 0] > 0).sum())
        what = "event" if size == 1 else "events"
    else:
        sizes = {name: int((target == at).sum()) for at, name in enumerate(predictions.classes)}
        name, size = min(sizes.items(), key=lambda pair: pair[1])
        what = f"case of {name}" if size == 1 else f"cases of {name}"
    if size >= LEAST:
        return ""
    return f"{who} {size} {what}, fewer than {LEAST}".lstrip()


def _measured(
    row: LevelRow, pool: _Pool, inside: Bools, outside: Bools, resampler: Resampler
) -> LevelRow:
    """The metric within a level, and its difference to all others on resamples of both."""
    import numpy as np

    from spade_bench.statistics.evaluate import strata
    from spade_bench.statistics.intervals import case_weights, paired_interval

    # Every class keeps its size within the level and outside of it.
    classes = strata(pool.predictions.target)  # (n,)
    groups = 3 * classes + np.where(inside, 0, np.where(outside, 1, 2))
    weights = case_weights(groups, resampler.n_boot, resampler.seed, pool.predictions.patients)
    here, there = (_values(pool, part, row.metric, weights) for part in (inside, outside))
    sizes = [np.unique(classes[part], return_counts=True)[1].min() for part in (inside, outside)]
    try:
        found = paired_interval(here, there, resampler.seed, int(min(sizes)))
    except DataError:  # where a class or all events are absent in some draw
        return replace(row, note="the metric is undefined here")
    return replace(row, value=float(here[0].mean()), difference=found.mean, ci_low=found.low,
                   ci_high=found.high, p=found.p)  # fmt: skip


def _values(pool: _Pool, part: Bools, metric: str, weights: Floats) -> tuple[Floats, Floats]:
    """A metric of each draw among some cases, (D,), and on resamples, (D, B)."""
    import numpy as np

    from spade_bench.statistics.evaluate import evaluate

    whole, train = pool.predictions, None
    if whole.train_target is not None and whole.train_scores is not None:
        train = whole.train_target, whole.train_scores
    target, counts = whole.target[part], weights[:, part]  # (m,), (B, m)
    plain = [evaluate(metric, target, scores[part], None, train)[0] for scores in pool.scores]
    boot = [evaluate(metric, target, scores[part], counts, train) for scores in pool.scores]
    return np.array(plain), np.stack(boot)


def read_levels(
    folders: Sequence[Path], column: str, table: Path | None, problems: list[str]
) -> dict[str, dict[str, str]]:
    """Return the level of each case, by task, from the tables of the runs.

    Tables are read again, because results hold no more of them than they need; a site is also
    known from the cohort that is stored beside the results.

    Args:
        folders: Folders of results.
        column: The column.
        table: A table to read instead of those of the runs; it serves every task.
        problems: Takes a sentence for each stored file that cannot be read.

    Raises:
        DataError: When no table is where the run had it, or none has the column.
    """
    from spade_bench.cohorts.tables import read_table
    from spade_bench.results.cohortfiles import read_cohorts
    from spade_bench.results.runsettings import stored_settings

    found: dict[str, dict[str, str]] = {}
    looked: list[str] = []
    tasks = [task for content in stored_settings(folders, problems)
             for task in content.get("tasks", ())]  # fmt: skip
    for task in tasks:
        for name in ("table", "test_table"):
            path = table if table is not None and name == "table" else task.get(name)
            if path is None or not Path(path).is_file():
                looked += [str(path)] if path is not None else []
                continue
            frame = read_table(Path(path))
            looked.append(f"{Path(path).name} ({name_some([str(c) for c in frame.columns], 12)})")
            if column in frame:
                values = _of_frame(frame, column, task)
                found.setdefault(str(task["name"]), {}).update(values)
    if not found and column == "site":
        for folder in folders:
            for cohort in read_cohorts(folder, problems):
                if cohort.sites:
                    found.setdefault(cohort.task, {}).update(cohort.sites)
    if not found:
        raise DataError(
            f"no table with a column '{column}' (looked at {name_some(looked) or 'none'})",
            where=", ".join(map(str, folders)),
            fix="Name the table with --table CSV",
        )
    return {task: as_levels(values, column) for task, values in found.items()}


def _of_frame(frame: pd.DataFrame, column: str, task: Mapping[str, Any]) -> dict[str, str]:
    """What a table says of each case, and of each slide, where slides are the cases."""
    out: dict[str, str] = {}
    for key in (task.get("slide_column") or "slide_id", task.get("case_column") or "case_id"):
        if key in frame:
            known = frame.dropna(subset=[key, column])
            grouped = known[column].astype(str).groupby(known[key].astype(str))
            said = {str(name): set(values) for name, values in grouped}
            out |= {name: SEVERAL if len(values) > 1 else values.pop()
                    for name, values in said.items()}  # fmt: skip
    return out
