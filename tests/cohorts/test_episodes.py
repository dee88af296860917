"""Few-shot episodes: nested, disjoint, fixed test set, independent of order and encoder."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.cohorts.episodes import (
    FewShot,
    check_disjoint,
    episode_hash,
    few_shot,
    save_episodes,
)
from spade_bench.errors import ConfigError, DataError
from spade_bench.types import Case, Cohort, Episode


def _cohort(sizes: list[int], splits: list[str] | None = None) -> Cohort:
    cases = []
    for label, size in enumerate(sizes):
        for i in range(size):
            name = f"c{label}-{i:03d}"
            split = splits[len(cases) % len(splits)] if splits else None
            cases.append(Case(name, (f"{name}-s1", f"{name}-s2"), f"L{label}", split=split))
    return Cohort("t", tuple(cases), tuple(f"L{i}" for i in range(len(sizes))))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(4, 40), min_size=2, max_size=5), st.integers(0, 10_000))
def test_nested_balanced_disjoint_with_one_test_set(sizes: list[int], seed: int) -> None:
    cohort = _cohort(sizes)
    label = {case.case_id: case.label for case in cohort.cases}
    episodes, left_out = few_shot(cohort, FewShot(draws=3, seed=seed))
    tests = {episode.test for episode in episodes}
    assert len(tests) == 1
    test = next(iter(tests))
    for value, size in zip(cohort.classes, sizes, strict=True):
        assert sum(label[case] == value for case in test) == round(size * 0.5)
    by_draw: dict[int | None, list[Episode]] = {}
    for episode in episodes:
        assert not set(episode.train) & set(episode.test)
        for value in cohort.classes:
            assert sum(label[case] == value for case in episode.train) == episode.k_shot
        by_draw.setdefault(episode.draw, []).append(episode)
    for own in by_draw.values():
        for small, large in itertools.pairwise(own):
            assert set(small.train) < set(large.train)
    smallest = min(size - round(size * 0.5) for size in sizes)
    assert max(e.k_shot or 0 for e in episodes) <= smallest
    assert all(k > smallest for k in left_out)


def test_neither_order_nor_number_of_draws_changes_an_episode() -> None:
    cohort = _cohort([20, 30])
    turned = Cohort("other", cohort.cases[::-1], cohort.classes)
    few, _ = few_shot(cohort, FewShot(draws=2, shots=(1, 4)))
    many, _ = few_shot(turned, FewShot(draws=9, shots=(1, 2, 4, 8)))
    hashes = {(e.draw, e.k_shot): episode_hash(e) for e in many}
    for episode in few:
        assert hashes[episode.draw, episode.k_shot] == episode_hash(episode)
    other, _ = few_shot(cohort, FewShot(draws=2, shots=(1, 4), seed=1))
    assert {episode_hash(e) for e in few}.isdisjoint(episode_hash(e) for e in other)


def test_draws_differ() -> None:
    episodes, _ = few_shot(_cohort([30, 30]), FewShot(draws=10, shots=(8,)))
    assert len({episode.train for episode in episodes}) == 10


def test_given_split_is_kept() -> None:
    cohort = _cohort([20, 20], ["train", "val", "test", "train"])
    episodes, _ = few_shot(cohort, FewShot(shots=(1, 4)))
    held = tuple(sorted(case.case_id for case in cohort.cases if case.split == "test"))
    assert all(episode.test == held for episode in episodes)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(DataError, match="too few for 16"):
        few_shot(_cohort([10, 40]), FewShot(shots=(16, 32)))
    with pytest.raises(DataError, match="L1 has no training case"):
        few_shot(_cohort([10, 1]), FewShot())
    with pytest.raises(DataError, match="has no test case"):
        few_shot(_cohort([4, 4], ["train"]), FewShot())
    with pytest.raises(ConfigError):
        few_shot(_cohort([10, 10]), FewShot(shots=(0,)))


def test_a_case_on_both_sides_is_named() -> None:
    with pytest.raises(DataError, match="b"):
        check_disjoint(Episode("few-shot", ("a", "b"), ("b", "c")))


def test_file_holds_everything_and_refuses_other_episodes(tmp_path: Path) -> None:
    episodes, _ = few_shot(_cohort([10, 10]), FewShot(draws=2, shots=(1, 2)))
    path = tmp_path / "e" / "t.json"
    save_episodes(path, episodes, {"task": "t"})
    before = path.read_bytes()
    save_episodes(path, episodes, {"task": "t"})
    assert path.read_bytes() == before
    with pytest.raises(DataError, match="another --out"):
        save_episodes(path, episodes[:-1], {"task": "t"})
