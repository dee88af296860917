"""Episodes of the protocols that every kind of task shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spade_bench import config
from spade_bench.cohorts.sitefolds import LEAST_OF_CLASS
from spade_bench.errors import UserError, name_some
from spade_bench.types import Cohort, Episode

__all__ = ["PROTOCOLS", "draw_episodes"]

PROTOCOLS = ("few-shot", "cv", "external", "leave-site-out")


def draw_episodes(
    cohort: Cohort, protocol: str, settings: Mapping[str, Any]
) -> tuple[list[Episode], list[str]]:
    """Draw the episodes of a protocol.

    Args:
        cohort: The cases.
        protocol: A name in `PROTOCOLS`.
        settings: Fields of the protocol's settings, such as `shots` or `folds`.

    Returns:
        Episodes, and notes for people.

    Raises:
        UserError: When the protocol does not exist, or its settings or the cases do not allow it.
    """
    if protocol == "few-shot":
        return _few_shot(cohort, settings)
    if protocol == "cv":
        return _cross_validation(cohort, settings)
    if protocol == "external":
        from spade_bench.cohorts.folds import external

        episodes = external(cohort, settings.get("repeats", 1), settings.get("seed", 0))
        first = episodes[0]
        return episodes, [f"{len(first.train)} training cases, {len(first.test)} test cases"]
    if protocol == "leave-site-out":
        from spade_bench.cohorts.sitefolds import leave_site_out

        episodes, parts = leave_site_out(cohort, settings.get("seed", 0))
        alone = [part[0] for part in parts if len(part) == 1]
        joined = [part for part in parts if len(part) > 1]
        notes = [f"{len(parts)} parts held out in turn: {name_some(alone or ['no site'])} alone"]
        if joined:
            notes.append(
                f"{sum(map(len, joined))} sites with fewer than {LEAST_OF_CLASS} cases of some "
                f"class in {len(joined)} joint part(s)"
            )
        return episodes, notes
    raise UserError(
        f"there is no protocol '{protocol}'",
        where="--protocol",
        fix=f"Use {', '.join(PROTOCOLS)}",
    )


def _few_shot(cohort: Cohort, settings: Mapping[str, Any]) -> tuple[list[Episode], list[str]]:
    from spade_bench.cohorts.episodes import FewShot, few_shot

    episodes, left_out = few_shot(cohort, config.build(FewShot, settings, "few-shot"))
    largest = max(episode.k_shot or 0 for episode in episodes)
    notes = [
        f"{len(episodes[0].test)} test cases, "
        f"{len(cohort.cases) - len(episodes[0].test)} cases to draw training sets from"
    ]
    if left_out:
        notes.append(
            f"shots {', '.join(map(str, left_out))} left out: the smallest class has too few "
            f"training cases (largest shot run: {largest})"
        )
    return episodes, notes


def _cross_validation(
    cohort: Cohort, settings: Mapping[str, Any]
) -> tuple[list[Episode], list[str]]:
    from spade_bench.cohorts.folds import CrossValidation, cross_validation

    asked = config.build(CrossValidation, settings, "cv")
    episodes = cross_validation(cohort, asked)
    text = f"{asked.folds} folds"
    if asked.repeats > 1:
        text += f", drawn {asked.repeats} times"
    if asked.group_by_site or asked.preserve_sites:
        text += ", whole sites"
    notes = [text]
    ensemble = next((e for e in episodes if e.fold is None), None)
    if ensemble is not None:
        notes.append(f"{len(ensemble.test)} cases held out for each fold and their ensemble")
        site = {case.case_id: case.site for case in cohort.cases}
        shared = {site[c] for c in ensemble.test} & {site[c] for c in ensemble.train} - {None}
        if (asked.group_by_site or asked.preserve_sites) and shared:
            notes.append(f"the given hold-out shares {len(shared)} site(s) with the folds")
    return episodes, notes
