"""Numbers of single classes and single sites, which the mean over all of them may hide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spade_bench.report.mainseries import main_series
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler
from spade_bench.results import Predictions

__all__ = ["ByClass", "BySite", "Subgroups", "by_class", "by_site"]


@dataclass(frozen=True)
class ByClass:
    """One class of a task, as each encoder predicts it.

    Attributes:
        name: Name of the class.
        n_cases: Distinct test cases of it.
        recall: Share of these cases that are predicted as it, by encoder; NaN where there is none.
        precision: Share of it among the cases predicted as it; NaN where there is none.
        auroc: AUROC of its probability against all other classes; NaN where undefined.
    """

    name: str
    n_cases: int
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    auroc: tuple[float, ...]


@dataclass(frozen=True)
class BySite:
    """One site of a task.

    Attributes:
        name: Name of the site.
        n_cases: Distinct test cases from there.
        counts: Cases of each class, or events, in words.
        values: The metric among these cases, by encoder, mean over the draws or folds in which it
            is defined; NaN where it is in none.
    """

    name: str
    n_cases: int
    counts: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Subgroups:
    """A table of classes or sites.

    Attributes:
        title: Task, head, protocol and condition.
        metric: Name of the metric of sites; empty for classes.
        encoders: Labels, in the order of the columns.
        rows: Classes or sites.
    """

    title: str
    metric: str
    encoders: tuple[str, ...]
    rows: tuple[ByClass, ...] | tuple[BySite, ...]


def by_class(series: Sequence[Series], resampler: Resampler) -> list[Subgroups]:
    """Return a table of classes for each task of classes, by the main head of each encoder."""
    out = []
    for place, shown in main_series(series, resampler).items():
        classes = resampler.predictions(shown[0].rows[0]).classes
        if not classes:
            continue
        rows = tuple(_class(at, name, shown, resampler) for at, name in enumerate(classes))
        out.append(Subgroups(_title(place, shown), "", tuple(one.encoder for one in shown), rows))
    return out


def by_site(
    series: Sequence[Series], resampler: Resampler, sites: Mapping[str, Mapping[str, str]]
) -> list[Subgroups]:
    """Return a table of sites for each task whose cases have some, by the main head.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
        sites: Site of each case, by the hash of the cohort.
    """
    out = []
    for place, shown in main_series(series, resampler).items():
        site_of = sites.get(str(shown[0].rows[0].inputs.get("cohort", "")), {})
        names = sorted(set(site_of.values()))
        if len(names) < 2:
            continue
        metric = shown[0].metrics[0]
        rows = tuple(_site(name, site_of, metric, shown, resampler) for name in names)
        tested = tuple(row for row in rows if row.n_cases)
        out.append(Subgroups(_title(place, shown), metric, tuple(s.encoder for s in shown), tested))
    return out


def _title(place: Sequence[str], shown: Sequence[Series]) -> str:
    shot = shown[0].k_shot
    return ", ".join((*place, *((f"k={shot}",) if shot else ())))


def _class(at: int, name: str, shown: Sequence[Series], resampler: Resampler) -> ByClass:
    """Means over the draws or folds of each encoder, of one class."""
    import numpy as np

    from spade_bench.statistics.evaluate import evaluate

    cases: set[str] = set()
    values: list[list[float]] = []
    for one in shown:
        of_rows = []
        for row in one.rows:
            predictions = resampler.predictions(row)
            mine, called = predictions.target == at, predictions.scores.argmax(axis=1) == at
            cases |= {case for case, is_mine in zip(predictions.case_ids, mine, strict=True)
                      if is_mine}  # fmt: skip
            scores = predictions.scores[:, at]
            both = np.stack([1 - scores, scores], axis=1)  # (m, 2)
            defined = mine.any() and not mine.all()
            of_rows.append(
                (
                    called[mine].mean() if mine.any() else math.nan,
                    mine[called].mean() if called.any() else math.nan,
                    evaluate("auroc", mine.astype(np.int64), both)[0] if defined else math.nan,
                )
            )
        values.append([_mean(column) for column in zip(*of_rows, strict=True)])
    recall, precision, auroc = zip(*values, strict=True)
    return ByClass(name, len(cases), recall, precision, auroc)


def _site(
    name: str,
    site_of: Mapping[str, str],
    metric: str,
    shown: Sequence[Series],
    resampler: Resampler,
) -> BySite:
    """The metric among the cases of one site, mean over the draws or folds of each encoder."""
    import numpy as np

    from spade_bench.statistics.evaluate import evaluate

    truth: dict[str, str] = {}
    values = []
    for one in shown:
        of_rows = []
        for row in one.rows:
            predictions = resampler.predictions(row)
            ids = predictions.case_ids
            here = np.array([site_of.get(case) == name for case in ids])  # (m,)
            target = predictions.target[here]
            for at in np.flatnonzero(here):
                truth[ids[at]] = _truth(predictions, int(at))
            if predictions.kind == "regression":
                enough = len(np.unique(target)) > 1
            elif predictions.survival:
                enough = len(target) > 1 and bool((target[:, 0] > 0).any())
            else:
                enough = len(np.unique(target)) == len(predictions.classes)
            if not enough:
                continue
            train = None
            if predictions.train_target is not None and predictions.train_scores is not None:
                train = (predictions.train_target, predictions.train_scores)
            scores = predictions.scores[here]
            of_rows.append(float(evaluate(metric, target, scores, None, train)[0]))
        values.append(_mean(of_rows))
    counts = {label: list(truth.values()).count(label) for label in sorted(set(truth.values()))}
    words = ", ".join(f"{label} {count}" for label, count in counts.items())
    return BySite(name, len(truth), words, tuple(values))


def _truth(predictions: Predictions, at: int) -> str:
    """What is true of a test case, by which cases are counted."""
    target = predictions.target[at]
    if predictions.kind == "regression":
        return "measured"
    if predictions.survival:
        return "event" if target[0] > 0 else "no event"
    return predictions.classes[int(target)]


def _mean(values: Sequence[float]) -> float:
    """Mean of what is defined; NaN where nothing is."""
    known = [float(value) for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
