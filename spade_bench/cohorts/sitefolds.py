"""Splits that keep sites whole: folds of balanced classes, and one site held out after another.

Random folds let a model that knows hospitals look good (Howard et al., Nature Communications 2021).
Their folds keep sites whole and balance classes with a commercial solver; here the same objective
is minimised by trying everything where sites are few, and by simulated annealing where they are
many.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.cohorts.episodes import check_disjoint, strata_of
from spade_bench.errors import DataError, UserError
from spade_bench.types import Case, Cohort, Episode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["LEAST_OF_CLASS", "SiteFolds", "leave_site_out", "sites_of", "spread_sites"]

LEAST_OF_CLASS = 5
"""Test cases of each class that a held-out site must have; smaller ones are held out together."""

_EXACT = 200_000  # ways to deal sites to folds that are all tried
_STEPS = 20_000
_HOTTEST, _COLDEST = 0.1, 1e-5  # temperatures, in units of the objective


@dataclass(frozen=True)
class SiteFolds:
    """Sites dealt to folds.

    Attributes:
        fold: Site -> number of its fold.
        objective: Sum over folds and classes of the squared difference between the fold's share of
            the class and an equal one; 0 where every fold holds an equal part of every class.
        exact: Whether no other way to deal them is better.
    """

    fold: Mapping[str, int]
    objective: float
    exact: bool


def sites_of(cases: Sequence[Case], where: str) -> dict[str, list[Case]]:
    """Return the cases of each site, by its name.

    Raises:
        DataError: When a case has none.
    """
    unknown = [case.case_id for case in cases if not case.site]
    if unknown:
        raise DataError(
            f"{len(unknown)} case(s) without a site, such as {unknown[0]}",
            where=where,
            fix="Fill the column site, or use another protocol",
        )
    sites: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        sites.setdefault(str(case.site), []).append(case)
    return dict(sorted(sites.items()))


def spread_sites(cases: Sequence[Case], n: int, seed: Sequence[int], where: str) -> SiteFolds:
    """Deal whole sites to folds so that the classes are spread as evenly as they can be.

    Args:
        cases: Cases with sites.
        n: Number of folds.
        seed: Seed of the annealing.
        where: Name of the cohort, for messages.

    Raises:
        DataError: When a case has no site, or sites are fewer than folds.
    """
    import numpy as np

    sites, stratum = sites_of(cases, where), strata_of(cases)
    if len(sites) < n:
        raise DataError(
            f"{len(sites)} site(s) cannot fill {n} folds", where=where, fix="Ask for fewer --folds"
        )
    names = sorted(set(stratum.values()))
    tallies = [Counter(stratum[case.case_id] for case in own) for own in sites.values()]
    counts = np.array([[tally[name] for name in names] for tally in tallies], dtype=float)  # (S, L)
    shares = counts / counts.sum(axis=0)  # (S, L)
    exact = n ** (len(sites) - 1) <= _EXACT
    dealt = _best(shares, n) if exact else _annealed(shares, n, seed)
    fold = dict(zip(sites, dealt.tolist(), strict=True))
    return SiteFolds(fold, _objective(shares, dealt, n), exact)


def leave_site_out(cohort: Cohort, seed: int) -> tuple[list[Episode], list[tuple[str, ...]]]:
    """Hold out one site after another; sites that cannot be tested on alone go together.

    A site is held out alone where it has `LEAST_OF_CLASS` cases of every class (events and
    censored; twice as many cases where a value is measured). Smaller sites are joined, whole,
    until they have.

    Args:
        cohort: Cases with sites.
        seed: Seed of the run.

    Returns:
        An episode per held-out part, and the sites of each.

    Raises:
        DataError: When a case has no site, or fewer than two parts can be tested on.
        UserError: When the table gives a split, which this protocol would pass over.
    """
    if any(case.split == "test" for case in cohort.cases):
        raise UserError(
            "the table marks test cases, and leave-site-out tests on every site",
            where=cohort.name,
            fix="Remove the column split or holdout, or use another protocol",
        )
    sites = sites_of(cohort.cases, cohort.name)
    parts = [[name] for name, own in sites.items() if _enough(own, cohort)]
    small = [name for name, own in sites.items() if not _enough(own, cohort)]
    waiting: list[str] = []
    for name in sorted(small, key=lambda name: (-len(sites[name]), name)):
        waiting.append(name)
        if _enough([case for one in waiting for case in sites[one]], cohort):
            parts.append(waiting)
            waiting = []
    if waiting and parts:  # too few to be a part of their own
        parts[-1] = [*parts[-1], *waiting]
    if len(parts) < 2:
        raise DataError(
            f"{len(sites)} site(s) make {len(parts)} part(s) with {LEAST_OF_CLASS} test cases of "
            "every class, and two are needed",
            where=cohort.name,
            fix="Use --protocol cv",
        )
    everyone = tuple(sorted(case.case_id for case in cohort.cases))
    episodes = []
    for number, part in enumerate(parts):
        test = {case.case_id for name in part for case in sites[name]}
        train = tuple(case for case in everyone if case not in test)
        episode = Episode("leave-site-out", train, tuple(sorted(test)), fold=number, draw=0,
                          seed=seed)  # fmt: skip
        check_disjoint(episode)
        episodes.append(episode)
    return episodes, [tuple(sorted(part)) for part in parts]


def _enough(cases: Sequence[Case], cohort: Cohort) -> bool:
    """Whether cases can be tested on."""
    if any(case.value is not None for case in cases):
        return len(cases) >= 2 * LEAST_OF_CLASS
    counts = Counter(strata_of(cases).values())
    names = cohort.classes or ("event", "censored")
    return all(counts[name] >= LEAST_OF_CLASS for name in names)


def _objective(shares: Floats, dealt: NDArray[np.int64], n: int) -> float:
    import numpy as np

    of_folds = np.zeros((n, shares.shape[1]))
    np.add.at(of_folds, dealt, shares)  # (F, L)
    return float(((of_folds - 1 / n) ** 2).sum())


def _best(shares: Floats, n: int) -> NDArray[np.int64]:
    """Try every way; the first site stays in the first fold, because folds have no names."""
    import numpy as np

    rest = np.array(list(itertools.product(range(n), repeat=len(shares) - 1)), dtype=np.int64)
    rest = rest.reshape(-1, len(shares) - 1)
    every = np.concatenate([np.zeros((len(rest), 1), dtype=np.int64), rest], axis=1)  # (W, S)
    value = np.zeros(len(every))
    filled = np.zeros(len(every), dtype=np.int64)
    for fold in range(n):
        inside = every == fold  # (W, S)
        value += ((inside @ shares - 1 / n) ** 2).sum(axis=1)
        filled += inside.any(axis=1)
    value[filled < n] = np.inf  # an empty fold is no fold
    best: NDArray[np.int64] = every[int(value.argmin())]
    return best


def _annealed(shares: Floats, n: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Move or swap sites at random, uphill ever more rarely; the best seen is returned."""
    import numpy as np

    rng = np.random.default_rng(list(seed))
    order = np.argsort(-shares.sum(axis=1), kind="stable")  # largest first
    dealt = np.zeros(len(shares), dtype=np.int64)
    of_folds = np.zeros((n, shares.shape[1]))
    for site in order:  # the start: each to the emptiest fold
        fold = int(of_folds.sum(axis=1).argmin())
        dealt[site] = fold
        of_folds[fold] += shares[site]
    sizes = np.bincount(dealt, minlength=n)
    value = float(((of_folds - 1 / n) ** 2).sum())
    best, lowest = dealt.copy(), value
    for step in range(_STEPS):
        heat = _HOTTEST * (_COLDEST / _HOTTEST) ** (step / _STEPS)
        site, other = rng.integers(len(shares), size=2)
        here = int(dealt[site])
        swap = rng.random() < 0.5
        there = int(dealt[other]) if swap else int(rng.integers(n))
        if there == here or (not swap and sizes[here] == 1):
            continue
        moved = shares[site] - (shares[other] if swap else 0.0)  # (L,) from here to there
        before = ((of_folds[[here, there]] - 1 / n) ** 2).sum()
        after = ((of_folds[here] - moved - 1 / n) ** 2).sum()
        after += ((of_folds[there] + moved - 1 / n) ** 2).sum()
        gain = float(after - before)
        if gain > 0 and rng.random() >= math.exp(-gain / heat):
            continue
        of_folds[here] -= moved
        of_folds[there] += moved
        dealt[site] = there
        if swap:
            dealt[other] = here
        else:
            sizes[here] -= 1
            sizes[there] += 1
        value += gain
        if value < lowest - 1e-15:
            best, lowest = dealt.copy(), value
    return best
