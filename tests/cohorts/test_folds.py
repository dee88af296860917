"""Cross-validation and external cohorts: cases never on two sides, folds even, sites whole."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.cohorts.episodes import FewShot, episode_hash, few_shot, strata_of
from spade_bench.cohorts.folds import CrossValidation, assign_folds, cross_validation, external
from spade_bench.errors import ConfigError, DataError
from spade_bench.types import Case, Cohort, Episode


def _cohort(sizes: list[int], n_sites: int = 0, held: int = 0) -> Cohort:
    cases = []
    for label, size in enumerate(sizes):
        for i in range(size):
            name = f"c{label}-{i:03d}"
            site = f"S{(i + label) % n_sites}" if n_sites else None
            split = ("test" if i < held else "train") if held else None
            cases.append(Case(name, (f"{name}-s",), f"L{label}", site=site, split=split))
    return Cohort("t", tuple(cases), tuple(f"L{i}" for i in range(len(sizes))))


def _survival(n: int, events: int) -> Cohort:
    rng = np.random.default_rng(0)
    cases = [
        Case(f"c{i:03d}", (f"s{i}",), event=i < events, duration_days=float(rng.integers(1, 999)))
        for i in range(n)
    ]
    return Cohort("t", tuple(cases))


def _apart(episodes: list[Episode]) -> None:
    for e in episodes:
        assert not set(e.train) & set(e.test)
        assert not set(e.train) & set(e.tune)
        assert not set(e.tune) & set(e.test)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(5, 40), min_size=2, max_size=4),
    st.integers(2, 5),
    st.integers(1, 3),
    st.integers(0, 999),
)
def test_folds_are_disjoint_even_and_test_every_case_once(
    sizes: list[int], n: int, repeats: int, seed: int
) -> None:
    cohort = _cohort(sizes)
    episodes = cross_validation(cohort, CrossValidation(n, repeats, seed))
    _apart(episodes)
    assert len(episodes) == n * repeats
    everyone = {case.case_id for case in cohort.cases}
    label = {case.case_id: case.label for case in cohort.cases}
    for repeat in range(repeats):
        own = [e for e in episodes if e.draw == repeat]
        assert sorted(case for e in own for case in e.test) == sorted(everyone)
        assert all(set(e.train) | set(e.test) == everyone for e in own)
        assert max(len(e.test) for e in own) - min(len(e.test) for e in own) <= 1
        for name in cohort.classes:
            counts = [sum(label[case] == name for case in e.test) for e in own]
            assert max(counts) - min(counts) <= 1
            assert min(counts) >= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 20), st.integers(2, 4), st.integers(0, 999))
def test_sites_stay_whole(n_sites: int, n: int, seed: int) -> None:
    cohort = _cohort([60, 40], n_sites)
    episodes = cross_validation(cohort, CrossValidation(n, 1, seed, group_by_site=True))
    _apart(episodes)
    site = {case.case_id: case.site for case in cohort.cases}
    for e in episodes:
        assert not {site[c] for c in e.train} & {site[c] for c in e.test}
    sizes = [len(e.test) for e in episodes]
    assert max(sizes) - min(sizes) <= 100 / n_sites * 2


def test_holdout_is_never_trained_or_tuned_on() -> None:
    for cohort, config in (
        (_cohort([30, 20], held=5), CrossValidation(4, 2)),
        (_cohort([30, 20]), CrossValidation(4, 2, holdout=0.2)),
        (_cohort([60, 40], 20), CrossValidation(4, 2, holdout=0.2, group_by_site=True)),
        (_survival(60, 25), CrossValidation(4, 2, holdout=0.25)),
    ):
        episodes = cross_validation(cohort, config)
        _apart(episodes)
        assert len({e.test for e in episodes}) == 1
        assert len(episodes) == 2 * (4 + 1)
        for repeat in range(2):
            folds = [e for e in episodes if e.draw == repeat and e.fold is not None]
            whole = next(e for e in episodes if e.draw == repeat and e.fold is None)
            assert sorted(c for e in folds for c in e.tune) == list(whole.train)
            assert all(set(e.train) | set(e.tune) == set(whole.train) for e in folds)
    given = cross_validation(_cohort([30, 20], held=5), CrossValidation(4))[0].test
    assert given == tuple(f"c{label}-{i:03d}" for label in (0, 1) for i in range(5))


def test_neither_order_nor_repeats_change_a_fold() -> None:
    cohort = _cohort([20, 30])
    turned = Cohort("other", cohort.cases[::-1], cohort.classes)
    few = cross_validation(cohort, CrossValidation(5, 1))
    many = cross_validation(turned, CrossValidation(5, 3))
    assert [episode_hash(e) for e in few] == [episode_hash(e) for e in many[:5]]
    other = cross_validation(cohort, CrossValidation(5, 1, seed=1))
    assert {episode_hash(e) for e in few}.isdisjoint(episode_hash(e) for e in other)
    assert {episode_hash(e) for e in many[:5]}.isdisjoint(episode_hash(e) for e in many[5:10])


def test_impossible_folds_are_refused() -> None:
    with pytest.raises(DataError, match=r"L1 has 3 case.s., too few for 5 folds.*--folds"):
        cross_validation(_cohort([20, 3]), CrossValidation(5))
    with pytest.raises(DataError, match="without a site"):
        cross_validation(_cohort([20, 20]), CrossValidation(2, group_by_site=True))
    with pytest.raises(DataError, match="cannot be dealt"):
        cross_validation(_cohort([20, 20], 2), CrossValidation(4, group_by_site=True))
    for bad in (CrossValidation(1), CrossValidation(holdout=1.5), CrossValidation(repeats=0)):
        with pytest.raises(ConfigError):
            cross_validation(_cohort([20, 20]), bad)


@settings(max_examples=25, deadline=None)
@given(st.integers(12, 80), st.integers(4, 8), st.integers(0, 999))
def test_survival_draws_as_many_events_as_censored(n: int, events: int, seed: int) -> None:
    cohort = _survival(n, events)
    happened = {case.case_id for case in cohort.cases if case.event}
    episodes, left_out = few_shot(cohort, FewShot((1, 2, 4, 8), 3, seed))
    _apart(episodes)
    assert 8 in left_out
    assert len({e.test for e in episodes}) == 1
    by_draw: dict[int | None, list[Episode]] = {}
    for e in episodes:
        assert len(happened & set(e.train)) == e.k_shot
        assert len(e.train) == 2 * (e.k_shot or 0)
        by_draw.setdefault(e.draw, []).append(e)
    for own in by_draw.values():
        assert all(set(a.train) < set(b.train) for a, b in itertools.pairwise(own))


def test_survival_folds_spread_events() -> None:
    cohort = _survival(50, 11)
    folds = assign_folds(cohort.cases, 5, [0])
    events = {case for case, name in strata_of(cohort.cases).items() if name == "event"}
    assert sorted(Counter(len(events & set(fold)) for fold in folds).elements()) == [2, 2, 2, 2, 3]


def test_external_trains_on_one_cohort_and_tests_on_the_other() -> None:
    cohort = _cohort([10, 10], held=4)
    episodes = external(cohort, 2, 0)
    _apart(episodes)
    assert [e.draw for e in episodes] == [0, 1]
    assert len(episodes[0].test) == 8
    with pytest.raises(DataError, match="--test-table"):
        external(_cohort([10, 10]), 1, 0)
