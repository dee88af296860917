"""What a linear probe loses as class and centre go together in the cases that train it.

Source: the average performance drop of PathoROB (Koemen et al. 2025). A probe learns two classes at
two centres. In the first training set they are independent; in the next ones each class comes more
and more from one of the centres, until the centre alone tells the class; the number of cases stays.
Tested is on other cases of the two centres, where class and centre are independent, and on cases of
all other centres. The drop is the mean over the correlated training sets of the accuracy over that
of the first, minus 1: an encoder that shows the tissue more clearly than the hospital loses little.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, fit_predict
from spade_bench.registry import heads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.robustness.sitepoints import PointSet

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["DRAWS", "LEAST_IN_CELL", "PerformanceDrop", "performance_drop"]

LEAST_IN_CELL = 9
"""Cases of each class at each of the two centres, below which nothing is measured."""
DRAWS = 20
_TESTED = 3  # a third of the cases of a cell is tested on
_CORRELATED = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class PerformanceDrop:
    """Accuracy of a probe whose training cases tie class and centre together ever more.

    Attributes:
        classes: The two classes.
        centres: The two centres of the training cases.
        train_cases: Cases of each training set.
        elsewhere_cases: Cases of other centres that are tested on; 0 where a class has too few.
        correlation: Cramer's V of class and centre in each training set, L of them.
        at_home: Balanced accuracy on held-out cases of the two centres, (L,), mean over draws.
        elsewhere: That on cases of other centres; None where there are too few.
        drop_at_home: Mean of the accuracies at a correlation over that without one, minus 1.
        drop_at_home_range: The middle 95% of it over draws of the training cases.
        drop_elsewhere: The same on cases of other centres.
        drop_elsewhere_range: The middle 95% of it.
    """

    classes: tuple[str, str]
    centres: tuple[str, str]
    train_cases: int
    elsewhere_cases: int
    correlation: tuple[float, ...]
    at_home: tuple[float, ...]
    elsewhere: tuple[float, ...] | None
    drop_at_home: float
    drop_at_home_range: tuple[float, float]
    drop_elsewhere: float | None
    drop_elsewhere_range: tuple[float, float] | None


class _Crossing(NamedTuple):
    """Cases of two classes, (n,), by class and centre, and those of other centres."""

    classes: tuple[int, int]
    centres: tuple[int, int]
    cells: tuple[tuple[Ints, Ints], tuple[Ints, Ints]]  # [class][centre] -> cases
    elsewhere: tuple[Ints, Ints]  # [class] -> cases


class _Draw(NamedTuple):
    """One split: training cases of each correlation, and the cases tested on at home."""

    train: list[tuple[Ints, Ints]]  # of each correlation the cases of either class
    test: tuple[Ints, Ints]


def performance_drop(x: Floats, points: PointSet, seed: int) -> PerformanceDrop | None:
    """Train probes on cases whose class and centre are correlated more and more.

    The two classes and two centres are those whose smallest cell has the most cases.

    Args:
        x: Features, (n, D).
        points: The points; all those of a case stay together.
        seed: Seed of the draws.

    Returns:
        What was measured; None where no two classes have `LEAST_IN_CELL` cases at two centres.
    """
    import numpy as np

    crossing = _crossing(points)
    if crossing is None:
        return None
    rng = np.random.default_rng([seed, 13])
    draws = [_draw(crossing, rng) for _ in range(DRAWS)]
    per_class = sum(map(len, draws[0].train[0])) // 2
    away = crossing.elsewhere if min(map(len, crossing.elsewhere)) >= LEAST_IN_CELL else None
    at_home, elsewhere = _accuracies(x, points.group, draws, away, seed)  # (R, L) each
    correlation = tuple(2 * _mostly(per_class, v) / per_class - 1 for v in _CORRELATED)
    home, home_ends = _drop(at_home)
    other, other_ends = _drop(elsewhere) if away is not None else (None, None)
    a, b = crossing.classes
    c, d = crossing.centres
    return PerformanceDrop(
        classes=(points.labels[a], points.labels[b]),
        centres=(points.centres[c], points.centres[d]),
        train_cases=2 * per_class,
        elsewhere_cases=0 if away is None else sum(map(len, away)),
        correlation=correlation,
        at_home=tuple(at_home.mean(axis=0).tolist()),
        elsewhere=None if away is None else tuple(elsewhere.mean(axis=0).tolist()),
        drop_at_home=home,
        drop_at_home_range=home_ends,
        drop_elsewhere=other,
        drop_elsewhere_range=other_ends,
    )


def _crossing(points: PointSet) -> _Crossing | None:
    """The two classes and centres with the fullest cells; None where these are too few.

    A case with points of several centres, or classes, is of none.
    """
    import numpy as np

    n = int(points.group.max()) + 1
    places = np.full((n, 2), -1, dtype=np.int64)  # (cases, class and centre)
    for at, values in enumerate((points.label, points.centre)):
        low, high = np.full(n, np.iinfo(np.int64).max), np.full(n, -1)
        np.minimum.at(low, points.group, values)
        np.maximum.at(high, points.group, values)
        places[:, at] = np.where(low == high, low, -1)
    known = (places >= 0).all(axis=1)  # (cases,)
    counts = np.zeros((len(points.labels), len(points.centres)), dtype=np.int64)
    np.add.at(counts, tuple(places[known].T), 1)
    best, found = LEAST_IN_CELL - 1, None
    for a, b in itertools.combinations(range(len(counts)), 2):
        least = np.minimum(counts[a], counts[b])  # (centres,)
        c, d = np.argsort(-least, kind="stable")[:2].tolist()
        if least[d] > best:
            best, found = int(least[d]), ((a, b), tuple(sorted((c, d))))
    if found is None:
        return None
    (a, b), (c, d) = found

    def cases(label: int, inside: NDArray[np.bool_]) -> Ints:
        return np.flatnonzero(known & (places[:, 0] == label) & inside)

    first, second = places[:, 1] == c, places[:, 1] == d
    cells = tuple((cases(label, first), cases(label, second)) for label in (a, b))
    other = tuple(cases(label, ~first & ~second) for label in (a, b))
    return _Crossing((a, b), (c, d), (cells[0], cells[1]), (other[0], other[1]))


def _draw(crossing: _Crossing, rng: np.random.Generator) -> _Draw:
    """Deal the cases of each cell to training and test, as many of every cell."""
    import numpy as np

    size = min(len(cell) for row in crossing.cells for cell in row)
    held = size // _TESTED
    held += (size - held) % 2  # half of an even number: the first training set ties nothing
    dealt = [[rng.permutation(cell)[:size] for cell in row] for row in crossing.cells]
    pool = [[cell[held:] for cell in row] for row in dealt]  # [class][centre]
    train = []
    for v in _CORRELATED:
        most = _mostly(size - held, v)
        parts = []
        for label in (0, 1):
            own, other = pool[label][label], pool[label][1 - label]
            parts.append(np.concatenate([own[:most], other[: size - held - most]]))
        train.append((parts[0], parts[1]))
    test = [np.concatenate([cell[:held] for cell in row]) for row in dealt]
    return _Draw(train, (test[0], test[1]))


def _mostly(n: int, correlation: float) -> int:
    """Of n cases of a class those that come from its own centre."""
    return round(n * (1 + correlation) / 2)


def _accuracies(
    x: Floats, group: Ints, draws: Sequence[_Draw], away: tuple[Ints, Ints] | None, seed: int
) -> tuple[Floats, Floats]:
    """Balanced accuracy at home and elsewhere of each draw and correlation, (R, L) both."""
    import numpy as np

    def rows(of: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
        """Points of the cases of either class, and their class."""
        parts = [np.flatnonzero(np.isin(group, cases)) for cases in of]
        return np.concatenate(parts), np.repeat([0, 1], [len(part) for part in parts])

    bags = CaseBags(lambda i: x[i][None].astype(np.float32), len(x), x.shape[1])
    others = rows(away) if away is not None else (np.empty(0, np.int64), np.empty(0, np.int64))
    jobs, targets = [], []
    for draw in draws:
        at, label = rows(draw.test)
        for train in draw.train:
            chosen, classes = rows(train)
            jobs.append(Fit(chosen, classes, np.concatenate([at, others[0]]), seed))
            targets.append((label, others[1]))
    head = heads.get("logistic").load(HeadOptions())
    out = np.full((2, len(jobs)), np.nan)
    for number, scores in enumerate(fit_predict(head, bags, jobs, 2, name="logistic")):
        called, (label, other) = scores.argmax(axis=1), targets[number]
        out[0, number] = _balanced(label, called[: len(label)])
        if len(other):
            out[1, number] = _balanced(other, called[len(label) :])
    at_home, elsewhere = out.reshape(2, len(draws), len(_CORRELATED))
    return at_home, elsewhere


def _balanced(label: Ints, called: Ints) -> float:
    """Mean over the two classes of the share that is called right."""
    import numpy as np

    return float(np.mean([(called[label == one] == one).mean() for one in (0, 1)]))


def _drop(accuracy: Floats) -> tuple[float, tuple[float, float]]:
    """Mean over correlations of accuracy (R, L) over that without one, minus 1; and over draws."""
    import numpy as np

    mean = accuracy.mean(axis=0)  # (L,)
    whole = float((mean[1:] / mean[0]).mean() - 1)
    first = np.maximum(accuracy[:, :1], 1e-12)  # (R, 1)
    of_draws = (accuracy[:, 1:] / first).mean(axis=1) - 1  # (R,)
    low, high = np.quantile(of_draws, [0.025, 0.975]).tolist()
    return whole, (low, high)
