"""Cross-validation: stratified folds of cases, if wanted with whole sites, and a hold-out.

The unit is the case. Folds are drawn once per task and are the same for every encoder and head;
nothing depends on the order of the table. With a hold-out this is the protocol of the paper: each
fold's model trains on the other folds and tunes on its own, and the models are averaged on cases
that none of them has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spade_bench.cohorts.episodes import check_disjoint, shuffled, strata_of
from spade_bench.cohorts.sitefolds import spread_sites
from spade_bench.console import say
from spade_bench.errors import ConfigError, DataError
from spade_bench.types import Case, Cohort, Episode

__all__ = ["CrossValidation", "assign_folds", "cross_validation", "external"]


@dataclass(frozen=True)
class CrossValidation:
    """Settings of cross-validation.

    Attributes:
        folds: Number of folds.
        repeats: How often folds are drawn anew.
        seed: Seed of everything.
        holdout: Share of cases to hold out where the table gives no split; None for none.
        group_by_site: Keep the cases of a site on one side of every split.
        preserve_sites: Likewise, with sites dealt to folds so that classes are spread as evenly as
            a search can find; see `spade_bench.cohorts.sitefolds`.
    """

    folds: int = 5
    repeats: int = 1
    seed: int = 0
    holdout: float | None = None
    group_by_site: bool = False
    preserve_sites: bool = False


def cross_validation(cohort: Cohort, config: CrossValidation) -> list[Episode]:
    """Draw the folds of a cohort.

    Args:
        cohort: Its cases; those whose split is `test` are the hold-out.
        config: Folds, repeats, seed.

    Returns:
        Without a hold-out, one episode per fold, which tests on the fold. With one, one episode per
        fold that tunes on the fold and tests on the hold-out, and behind the folds of each
        repeat the episode of their ensemble, whose ``fold`` is None.

    Raises:
        ConfigError: On impossible settings.
        DataError: When cases or sites are too few for the folds.
    """
    if config.folds < 2 or config.repeats < 1:
        raise ConfigError("folds must be 2 or more, repeats 1 or more")
    if config.holdout is not None and not 0 < config.holdout < 1:
        raise ConfigError(f"holdout is {config.holdout}", fix="Use a share between 0 and 1")
    cases = sorted(cohort.cases, key=lambda case: case.case_id)
    held = _holdout(cases, config, cohort.name)
    pool = [case for case in cases if case.case_id not in held]
    test = tuple(sorted(held))
    everyone = tuple(case.case_id for case in pool)
    episodes = []
    for repeat in range(config.repeats):
        seed = [config.seed, 5, repeat]
        if config.preserve_sites:
            folds = _preserved(pool, config.folds, seed, cohort.name)
        else:
            folds = assign_folds(
                pool, config.folds, seed, group_by_site=config.group_by_site, where=cohort.name
            )
        for number, fold in enumerate(folds):
            tested = set(fold)
            train = tuple(case for case in everyone if case not in tested)
            sides = (test, fold) if held else (fold, ())
            episodes.append(Episode("cv", train, *sides, None, repeat, number, config.seed))
        if held:
            episodes.append(Episode("cv", everyone, test, (), None, repeat, None, config.seed))
    for episode in episodes:
        check_disjoint(episode)
    return episodes


def assign_folds(
    cases: Sequence[Case],
    n: int,
    seed: Sequence[int],
    *,
    group_by_site: bool = False,
    where: str = "",
) -> list[tuple[str, ...]]:
    """Deal cases to folds so that every class, or events and censored, are spread evenly.

    Args:
        cases: Cases in a fixed order.
        n: Number of folds.
        seed: Seed of the deal.
        group_by_site: Deal whole sites, each to the fold that it keeps most even.
        where: Name of the cohort, for messages.

    Returns:
        The sorted case ids of each fold.

    Raises:
        DataError: When a fold would lack a class.
    """
    stratum = strata_of(cases)
    strata = sorted(set(stratum.values()))
    by_stratum = {name: [c.case_id for c in cases if stratum[c.case_id] == name] for name in strata}
    smallest = min(strata, key=lambda name: len(by_stratum[name]))
    if len(by_stratum[smallest]) < n:
        raise DataError(
            f"{smallest} has {len(by_stratum[smallest])} case(s), too few for {n} folds",
            where=where,
            fix="Ask for fewer --folds",
        )
    if group_by_site:
        folds = _deal_sites(cases, stratum, n, seed, where)
    else:
        folds = [[] for _ in range(n)]
        turn = 0  # goes on from stratum to stratum, so that folds are of equal size too
        for index, name in enumerate(strata):
            for case_id in shuffled(by_stratum[name], [*seed, index]):
                folds[turn % n].append(case_id)
                turn += 1
    return [tuple(sorted(fold)) for fold in folds]


def _preserved(
    cases: Sequence[Case], n: int, seed: Sequence[int], where: str
) -> list[tuple[str, ...]]:
    """Folds of whole sites with balanced classes; says how even they are.

    Raises:
        DataError: When a fold lacks a class.
    """
    found, stratum = spread_sites(cases, n, seed, where), strata_of(cases)
    folds: list[list[Case]] = [[] for _ in range(n)]
    for case in cases:
        folds[found.fold[str(case.site)]].append(case)
    names = set(stratum.values())
    for fold in folds:
        if lacking := names - {stratum[case.case_id] for case in fold}:
            raise DataError(
                f"{len(found.fold)} site(s) cannot be dealt to {n} folds that all hold "
                f"{min(lacking)}",
                where=where,
                fix="Ask for fewer --folds, or run without --preserve-sites",
            )
    how = "no other way is better" if found.exact else "by annealing"
    say(f"{where}: {len(found.fold)} sites kept whole in {n} folds; imbalance of classes "
        f"{found.objective:.3g} ({how})")  # fmt: skip
    return [tuple(sorted(case.case_id for case in fold)) for fold in folds]


def external(cohort: Cohort, repeats: int, seed: int) -> list[Episode]:
    """Train on the cases of one cohort, test on those of another, marked by their split.

    Args:
        cohort: Both cohorts' cases; those whose split is `test` are the other cohort's.
        repeats: Fits with other seeds.
        seed: Seed of the run.

    Raises:
        DataError: When one side is empty.
    """
    test = tuple(sorted(case.case_id for case in cohort.cases if case.split == "test"))
    train = tuple(sorted(case.case_id for case in cohort.cases if case.split != "test"))
    if not train or not test:
        raise DataError(
            "nothing to test on: no case is of another cohort",
            where=cohort.name,
            fix="Give the other cohort with --test-table CSV, or a column split",
        )
    return [Episode("external", train, test, draw=i, seed=seed) for i in range(max(1, repeats))]


def _holdout(cases: Sequence[Case], config: CrossValidation, where: str) -> set[str]:
    given = {case.case_id for case in cases if case.split == "test"}
    if given or config.holdout is None:
        return given
    if config.group_by_site or config.preserve_sites:
        parts = max(2, round(1 / config.holdout))
        seed = [config.seed, 6]
        return set(assign_folds(cases, parts, seed, group_by_site=True, where=where)[0])
    held: set[str] = set()
    stratum = strata_of(cases)
    for index, name in enumerate(sorted(set(stratum.values()))):
        ids = shuffled(
            [case.case_id for case in cases if stratum[case.case_id] == name],
            [config.seed, 6, index],
        )
        held.update(ids[: max(1, round(len(ids) * config.holdout))])
    return held


def _deal_sites(
    cases: Sequence[Case], stratum: Mapping[str, str], n: int, seed: Sequence[int], where: str
) -> list[list[str]]:
    """Largest site first, each to the fold where it does least harm to the balance."""
    unknown = [case.case_id for case in cases if not case.site]
    if unknown:
        raise DataError(
            f"{len(unknown)} case(s) without a site, such as {unknown[0]}",
            where=where,
            fix="Fill the column site, or run without --group-by-site",
        )
    sites: dict[str, list[Case]] = {}
    for case in cases:
        sites.setdefault(str(case.site), []).append(case)
    total = Counter(stratum.values())
    strata = sorted(total)
    counts = [Counter[str]() for _ in range(n)]
    folds: list[list[str]] = [[] for _ in range(n)]
    order = shuffled(sorted(sites), seed)
    for site in sorted(order, key=lambda name: -len(sites[name])):
        tally = Counter(stratum[case.case_id] for case in sites[site])

        def harm(fold: int, tally: Counter[str] = tally) -> float:
            # How much fuller, in shares of each stratum, the fold becomes: fills the emptiest.
            return sum(((counts[fold][s] + tally[s]) ** 2 - counts[fold][s] ** 2) / total[s] ** 2
                       for s in strata)  # fmt: skip

        best = min(range(n), key=harm)
        counts[best].update(tally)
        folds[best] += [case.case_id for case in sites[site]]
    lacking = [name for name in strata for count in counts if not count[name]]
    if lacking:
        raise DataError(
            f"{len(sites)} site(s) cannot be dealt to {n} folds that all hold {lacking[0]}",
            where=where,
            fix="Ask for fewer --folds, or run without --group-by-site",
        )
    return folds
