"""What sets rows of one task apart: other cases, splits, seed or settings, in words.

Rows are compared only within one condition. What no two rows of a protocol differ in is not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spade_bench.files import hash_obj
from spade_bench.results import Row

__all__ = ["conditions", "tested_on"]

Condition = tuple[str, ...]
_Aspect = tuple[str, ...]  # what may differ, and within what it must not: ("head", protocol, head)
_ENSEMBLE = "ensemble"
_PUBLISHED = "published splits"  # how the words of splits begin that came with a task


def conditions(rows: Sequence[Row]) -> dict[str, Condition]:
    """Say of each row what sets it apart from other rows of its task and protocol.

    The seed and the way of splitting are held against all tasks of the protocol, so that a mean
    over tasks is made of one of each; the cases against those of the same task; published splits,
    of which each task and shot has its own, against those of the same task and shot; the settings
    of a head against all rows of this head. Features, encoder and base are what is compared, and
    never part of it.

    Returns:
        Run id -> words such as `seed 1` or `logistic.C=0.5`; empty where nothing differs. Rows
        that failed before their inputs were known have none.
    """
    known = [row for row in rows if row.inputs]
    words_of: dict[_Aspect, dict[str, str]] = {}
    for row in known:
        for aspect, (key, words) in _aspects(row).items():
            kept = words_of.setdefault(aspect, {})
            kept[key] = kept.get(key) or words  # rows of older versions hold no words
    names = {aspect: _names(aspect, values) for aspect, values in words_of.items()}
    other = _other_episodes(known)
    return {
        row.run_id: (
            *(
                names[aspect][key]
                for aspect, (key, _) in _aspects(row).items()
                if len(names[aspect]) > 1
            ),
            *other.get(row.run_id, ()),
        )
        for row in known
    }


def tested_on(rows: Sequence[Row]) -> str:
    """Name of the cohort that rows of the external protocol were tested on; empty if unknown."""
    return next((row.env["tested_on"] for row in rows if row.env.get("tested_on")), "")


def _aspects(row: Row) -> dict[_Aspect, tuple[str, str]]:
    """What a row may differ in: key to tell apart by, and words if the row holds them."""
    inputs, env = row.inputs, row.env
    splits, dealt = str(inputs.get("splits", "")), env.get("splits", "")
    published = dealt.startswith(_PUBLISHED)
    of_place: dict[_Aspect, tuple[str, str]] = {
        ("splits", row.protocol, row.task, str(row.k_shot)): (splits, dealt)
    }
    return {
        **(of_place if published else {}),
        ("seed", row.protocol): (str(row.seed), f"seed {row.seed}"),
        ("cases", row.protocol, row.task): (str(inputs.get("cohort", "")), env.get("cohort", "")),
        ("patches", row.protocol, row.task): (
            str(inputs.get("regions", "")),
            env.get("regions", "") or ("" if inputs.get("regions") else "whole slides"),
        ),
        ("metrics", row.protocol, row.task): (
            str(inputs.get("task", "")),
            f"metrics {', '.join(row.metrics)}" if row.metrics else "",
        ),
        ("splits", row.protocol): (_PUBLISHED,) * 2 if published else (splits, dealt),
        ("settings", row.protocol, row.head): (str(inputs.get("head", "")), env.get("head", "")),
        ("choice", row.protocol, row.head): (
            str(inputs.get("select", "")),
            env.get("choice", "") or ("" if inputs.get("select") else f"{row.head} as set"),
        ),
    }


def _names(aspect: _Aspect, values: Mapping[str, str]) -> dict[str, str]:
    """Words for each key; those that are missing or the same get a hash."""
    out = {}
    for key, words in values.items():
        plain = words or " ".join((*aspect[2:], aspect[0]))
        unique = bool(words) and list(values.values()).count(words) == 1
        out[key] = plain if unique else f"{plain} {_short(key)}"
    return out


def _short(key: str) -> str:
    return (key or "unstated")[:8]


def _other_episodes(rows: Sequence[Row]) -> dict[str, Condition]:
    """Words for rows whose episodes contradict those of the first rows of their place.

    Equal settings give equal episodes, so this is for rows whose settings are not known, such as
    folds stored by older versions.
    """
    places: dict[object, dict[object, dict[object, Row]]] = {}
    for row in rows:
        inputs = row.inputs
        place = (row.task, row.protocol, row.seed, inputs.get("cohort"), inputs.get("splits"))
        shared = {key: value for key, value in inputs.items() if key != "episode"}
        series = (row.encoder, row.head, *sorted(row.flags), *sorted(shared.items()))
        at = (row.k_shot, row.draw, row.fold, _ENSEMBLE in row.flags)
        # Two deals of one encoder would otherwise hide behind each other.
        turn = 0
        while at in places.setdefault(place, {}).setdefault((series, turn), {}):
            turn += 1
        places[place][series, turn][at] = row
    out: dict[str, Condition] = {}
    for by_series in places.values():
        deals = _deals(list(by_series.values()))
        for episodes, run_ids in deals if len(deals) > 1 else ():
            words = f"splits {hash_obj(sorted(map(str, episodes.values())))[:8]}"
            out.update(dict.fromkeys(run_ids, (words,)))
    return out


def _deals(series: Sequence[Mapping[object, Row]]) -> list[tuple[dict[object, object], list[str]]]:
    """Put series together whose episodes agree: their episodes by place, and their run ids."""
    deals: list[tuple[dict[object, object], list[str]]] = []
    for members in series:
        episodes = {at: row.inputs.get("episode") for at, row in members.items()}
        same = (d for d in deals if all(d[0].get(at, v) == v for at, v in episodes.items()))
        deal = next(same, None)
        if deal is None:
            deal = ({}, [])
            deals.append(deal)
        deal[0].update(episodes)
        deal[1].extend(row.run_id for row in members.values())
    return deals
