"""Few-shot episodes: nested draws of cases against one fixed test set.

The unit is the case. Survival has no classes; there k cases with an event and k censored ones are
drawn, and of measured values k from each quarter of them. Training sets are drawn once per task,
are the same for every encoder and head, and are nested: the cases of the 1-shot episode are among
those of the 2-shot episode of the same draw. Nothing here depends on the order of the table or on
how many draws are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_bench.errors import ConfigError, DataError
from spade_bench.files import hash_obj, read_json, write_json
from spade_bench.types import Case, Cohort, Episode

__all__ = [
    "FewShot",
    "check_disjoint",
    "episode_hash",
    "few_shot",
    "save_episodes",
    "shuffled",
    "strata_of",
]

QUARTERS = 4


@dataclass(frozen=True)
class FewShot:
    """Settings of the few-shot protocol.

    Attributes:
        shots: Training cases per class; for survival with an event, and as many censored; of
            measured values from each quarter.
        draws: Repetitions with other training cases.
        seed: Seed of the test set and of all draws.
        test_fraction: Share of each class in the test set when the table gives none.
    """

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    draws: int = 10
    seed: int = 0
    test_fraction: float = 0.5


def few_shot(cohort: Cohort, config: FewShot) -> tuple[list[Episode], tuple[int, ...]]:
    """Draw the few-shot episodes of a cohort.

    Args:
        cohort: Cases with labels, or with events and days; when they carry a split, its test
            cases are the test set.
        config: Shots, draws and seed.

    Returns:
        The episodes, draw by draw and shot by shot, and the shots that the smallest class cannot
        fill and that were therefore left out.

    Raises:
        ConfigError: On impossible settings.
        DataError: When a class is absent from one side or no shot can be filled.
    """
    if not config.shots or min(config.shots) < 1 or config.draws < 1:
        raise ConfigError("shots and draws must be 1 or more")
    pool, test = _sides(cohort, config)
    smallest = min(len(cases) for cases in pool.values())
    shots = tuple(k for k in sorted(set(config.shots)) if k <= smallest)
    if not shots:
        raise DataError(
            f"the smallest class has {smallest} training case(s), too few for {min(config.shots)}",
            where=cohort.name,
            fix="Ask for fewer --shots",
        )
    episodes = []
    for draw in range(config.draws):
        order = {
            label: shuffled(cases, [config.seed, 1, draw, index])
            for index, (label, cases) in enumerate(pool.items())
        }
        for k in shots:
            train = tuple(sorted(case for cases in order.values() for case in cases[:k]))
            episode = Episode(
                "few-shot", train, test, k_shot=k, draw=draw, seed=config.seed, pool=smallest
            )
            check_disjoint(episode)
            episodes.append(episode)
    return episodes, tuple(k for k in sorted(set(config.shots)) if k > smallest)


def check_disjoint(episode: Episode) -> None:
    """Refuse an episode with a case on two sides.

    Raises:
        DataError: Naming the cases.
    """
    both = (
        set(episode.train) & set(episode.test)
        | set(episode.train) & set(episode.tune)
        | set(episode.tune) & set(episode.test)
    )
    if both:
        names = ", ".join(sorted(both)[:5])
        raise DataError(f"{len(both)} case(s) on both sides of a split: {names}")


def episode_hash(episode: Episode) -> str:
    """Hash the cases of an episode; equal episodes have equal hashes on every machine."""
    return hash_obj([episode.protocol, episode.train, episode.tune, episode.test])


def save_episodes(path: Path, episodes: Sequence[Episode], about: dict[str, Any]) -> None:
    """Write episodes with their hashes, or check that the file already holds the same ones.

    The test cases, equal in all episodes of a protocol, are written once.

    Raises:
        DataError: When the file exists and holds other episodes.
    """
    tests = sorted({episode.test for episode in episodes})
    content = {
        "schema": "spade-bench/episodes/1",
        **about,
        "test_sets": [list(test) for test in tests],
        "episodes": [
            {
                "protocol": episode.protocol,
                "k_shot": episode.k_shot,
                "draw": episode.draw,
                "fold": episode.fold,
                "seed": episode.seed,
                "hash": episode_hash(episode),
                "train": list(episode.train),
                "tune": list(episode.tune),
                "test_set": tests.index(episode.test),
            }
            for episode in episodes
        ],
    }
    if path.exists():
        if hash_obj(read_json(path)) != hash_obj(content):
            raise DataError(
                "the episodes on disk are not the ones this command draws",
                where=str(path),
                fix="Use another --out folder",
            )
        return
    write_json(path, content)


def _sides(cohort: Cohort, config: FewShot) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Training pool by class, and the test set."""
    stratum = strata_of(cohort.cases)
    measured = any(case.value is not None for case in cohort.cases)
    strata = sorted(set(stratum.values())) if measured else ("censored", "event")
    by_class: dict[str, list[Case]] = {name: [] for name in cohort.classes or strata}
    for case in sorted(cohort.cases, key=lambda case: case.case_id):
        by_class[stratum[case.case_id]].append(case)
    given = any(case.split is not None for case in cohort.cases)
    pool: dict[str, list[str]] = {}
    test: list[str] = []
    for index, (label, cases) in enumerate(by_class.items()):
        if given:
            held = [case.case_id for case in cases if case.split == "test"]
        else:
            ids = shuffled([case.case_id for case in cases], [config.seed, 0, index])
            held = ids[: max(1, round(len(ids) * config.test_fraction))]
        out = set(held)
        pool[label] = [case.case_id for case in cases if case.case_id not in out]
        if not held or not pool[label]:
            side = "test" if not held else "training"
            raise DataError(
                f"class {label} has no {side} case ({len(cases)} case(s) in all)",
                where=cohort.name,
                fix="Every class needs at least one case on either side",
            )
        test += held
    return pool, tuple(sorted(test))


def strata_of(cases: Sequence[Case]) -> dict[str, str]:
    """What a split spreads evenly, by case: the class, the event, or the quarter of the value.

    Equal values stay in one quarter, so that there are fewer where many cases share a value.
    """
    import numpy as np

    measured = [case.value for case in cases if case.value is not None]
    if not measured:
        return {case.case_id: _stratum(case) for case in cases}
    edges = np.unique(np.quantile(measured, np.arange(1, QUARTERS) / QUARTERS))  # (q,)
    places = np.searchsorted(edges, measured, side="left")  # (n,)
    names = {place: f"quarter {i + 1}" for i, place in enumerate(np.unique(places))}
    ids = [case.case_id for case in cases if case.value is not None]
    return {case_id: names[place] for case_id, place in zip(ids, places, strict=True)}


def _stratum(case: Case) -> str:
    if case.event is None:
        return str(case.label)
    return "event" if case.event else "censored"


def shuffled(ids: Sequence[str], seed: Sequence[int]) -> list[str]:
    """Return the ids in the order that the seed gives."""
    import numpy as np

    order = np.random.default_rng(list(seed)).permutation(len(ids))
    return [ids[i] for i in order]
