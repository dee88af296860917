"""Whole sites in folds: the best deal by brute force, annealing, and one site after another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spade_bench.cohorts import sitefolds
from spade_bench.cohorts.episodes import strata_of
from spade_bench.cohorts.folds import CrossValidation, assign_folds, cross_validation
from spade_bench.cohorts.sitefolds import LEAST_OF_CLASS, leave_site_out, spread_sites
from spade_bench.errors import DataError, UserError
from spade_bench.types import Case, Cohort


def _cohort(sizes: list[tuple[int, int]], split: str | None = None) -> Cohort:
    """A cohort whose sites hold so many cases of each class."""
    cases = [
        Case(f"c{site:02d}-{label}{i:03d}", (f"s{site:02d}-{label}{i:03d}",), label=label,
             site=f"S{site:02d}", split=split)
        for site, counts in enumerate(sizes)
        for label, n in zip("ab", counts, strict=True)
        for i in range(n)
    ]  # fmt: skip
    return Cohort("c", tuple(sorted(cases, key=lambda case: case.case_id)), ("a", "b"))


def _imbalance(cohort: Cohort, fold_of: dict[str, int], n: int) -> float:
    """The objective as it is defined: squared differences of shares, over folds and classes."""
    stratum, total = strata_of(cohort.cases), 0.0
    for name in set(stratum.values()):
        own = [case for case in cohort.cases if stratum[case.case_id] == name]
        for fold in range(n):
            inside = sum(fold_of[str(case.site)] == fold for case in own)
            total += (inside / len(own) - 1 / n) ** 2
    return total


SIZES = [(20, 3), (5, 9), (12, 12), (1, 7), (9, 2), (4, 4), (15, 1)]


def test_few_sites_are_dealt_in_the_best_way() -> None:
    cohort = _cohort(SIZES)
    found = spread_sites(cohort.cases, 3, [0], "c")
    names = sorted(found.fold)
    every = (dict(zip(names, way, strict=True)) for way in itertools.product(range(3), repeat=7))
    best = min(_imbalance(cohort, way, 3) for way in every if len(set(way.values())) == 3)
    assert found.exact
    assert found.objective == pytest.approx(best)
    assert found.objective == pytest.approx(_imbalance(cohort, dict(found.fold), 3))


def test_annealing_finds_what_trying_all_finds(monkeypatch) -> None:
    cohort = _cohort(SIZES)
    best = spread_sites(cohort.cases, 3, [0], "c").objective
    monkeypatch.setattr(sitefolds, "_EXACT", 0)
    for seed in range(3):
        found = spread_sites(cohort.cases, 3, [seed], "c")
        assert not found.exact
        assert found.objective == pytest.approx(best, abs=1e-9)
        again = spread_sites(cohort.cases, 3, [seed], "c")
        assert again.fold == found.fold


def test_many_sites_are_spread_better_than_one_after_another() -> None:
    rng = np.random.default_rng(0)
    sizes = [(int(a), int(b)) for a, b in rng.integers(1, 30, (25, 2))]
    cohort = _cohort(sizes)
    found = spread_sites(cohort.cases, 5, [0], "c")
    site = {case.case_id: str(case.site) for case in cohort.cases}
    greedy = assign_folds(cohort.cases, 5, [0], group_by_site=True)
    dealt = {site[case]: number for number, fold in enumerate(greedy) for case in fold}
    assert found.objective < 0.5 * _imbalance(cohort, dealt, 5)
    assert found.objective == pytest.approx(_imbalance(cohort, dict(found.fold), 5))


def test_folds_keep_sites_whole_and_say_how_even_they_are(capsys) -> None:
    cohort = _cohort(SIZES)
    episodes = cross_validation(cohort, CrossValidation(3, preserve_sites=True))
    site = {case.case_id: case.site for case in cohort.cases}
    assert len(episodes) == 3
    for episode in episodes:
        assert not {site[c] for c in episode.train} & {site[c] for c in episode.test}
    said = capsys.readouterr().err
    assert "7 sites kept whole in 3 folds; imbalance of classes" in said
    assert "no other way is better" in said


def test_folds_that_would_lack_a_class_are_refused() -> None:
    with pytest.raises(DataError, match="--preserve-sites"):
        cross_validation(_cohort([(9, 0), (9, 0), (9, 9)]), CrossValidation(3, preserve_sites=True))
    with pytest.raises(DataError, match="2 site"):
        spread_sites(_cohort([(9, 9), (9, 9)]).cases, 3, [0], "c")


def test_sites_are_held_out_in_turn_and_small_ones_together() -> None:
    big, small = LEAST_OF_CLASS, LEAST_OF_CLASS - 1
    cohort = _cohort([(big, big), (30, 8), (small, 1), (1, small), (2, 2)])
    episodes, parts = leave_site_out(cohort, 0)
    assert parts[:2] == [("S00",), ("S01",)]
    assert parts[2] == ("S02", "S03", "S04")
    site = {case.case_id: case.site for case in cohort.cases}
    tested = [case for episode in episodes for case in episode.test]
    assert sorted(tested) == sorted(site)
    for number, episode in enumerate(episodes):
        assert episode.fold == number
        assert episode.protocol == "leave-site-out"
        assert not {site[c] for c in episode.train} & {site[c] for c in episode.test}
        assert set(episode.train) | set(episode.test) == set(site)


def test_what_is_left_joins_the_last_part() -> None:
    _, parts = leave_site_out(_cohort([(9, 9), (9, 9), (1, 0)]), 0)
    assert parts == [("S00",), ("S01", "S02")]


def test_leaving_sites_out_needs_two_parts_and_no_split() -> None:
    with pytest.raises(DataError, match=r"1 part\(s\)"):
        leave_site_out(_cohort([(9, 9), (1, 1)]), 0)
    with pytest.raises(UserError, match="marks test cases"):
        leave_site_out(_cohort([(9, 9), (9, 9)], split="test"), 0)
    nowhere = Cohort("c", (Case("x", ("s",), label="a"), Case("y", ("t",), label="b")), ("a", "b"))
    with pytest.raises(DataError, match="without a site"):
        leave_site_out(nowhere, 0)
