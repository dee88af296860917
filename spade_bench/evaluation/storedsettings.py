"""Keeps what was asked for beside the results, and finds it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spade_bench import config, console
from spade_bench.errors import DataError
from spade_bench.evaluation.request import EncoderRequest, EvaluationRequest, TaskRequest
from spade_bench.evaluation.settings import EvaluationSettings, path_of
from spade_bench.files import hash_obj, write_json
from spade_bench.heads import Head
from spade_bench.heads.spots import SpotHead
from spade_bench.registry import encoders as registered
from spade_bench.registry import kinds
from spade_bench.results.runsettings import read_run_settings
from spade_bench.types import TaskCard
from spade_bench.workspace import Workspace

__all__ = ["names_of_runs", "store_config", "stored_request"]

# Settings stored as they are. Those that name encoders, tasks and heads are stored with what they
# came to; memory, cache, the folder for results and consent change no number.
_STORED = (
    *("protocol", "shots", "draws", "folds", "repeats", "holdout", "group_by_site", "select"),
    *("allow_leaky_splits", "seed", "controls", "permutations", "allow_missing", "device"),
    *("match_ids", "positive", "as_is", "pretrained_on", "keep_heads"),
)

_OF_SECTIONS = ("official", "leave-one-patient-out", "leave-one-section-out")
_PLACES = ("table", "test_table", "splits", "published")
# What finding cases and their features again depends on.
_REPEATED = ("match_ids", "positive", "as_is", "allow_missing", "allow_leaky_splits", "seed",
             "protocol", "regions", "region_names", "region_share")  # fmt: skip


def store_config(request: EvaluationRequest, made: Mapping[str, Head | SpotHead]) -> None:
    """Write the resolved settings, named by their hash, and print them."""
    settings = request.settings
    content: dict[str, Any] = {
        "encoders": [_described(encoder) for encoder in request.encoders],
        "tasks": [{**dataclasses.asdict(task.card), **_paths(task)} for task in request.tasks],
        "heads": {name: dict(head.params) for name, head in made.items()},
        **{name: getattr(settings, name) for name in _STORED},
    }
    for name in ("features", "test_features"):
        folders = getattr(settings, name)
        content[name] = {key: path for key, path in folders.items() if key != "*"}
        content[f"any_{name}"] = folders.get("*")
    if settings.preserve_sites:  # older files know of no such setting
        content["preserve_sites"] = True
    of_cohorts = {task.card.name: request.cohort_features(task.card) for task in request.tasks}
    if of_cohorts := {task: folders for task, folders in of_cohorts.items() if folders}:
        content["cohort_features"] = of_cohorts
    if settings.regions is not None:
        names = ("regions", "region_names", "region_share")
        content |= {name: getattr(settings, name) for name in names}
    key = hash_obj(content)
    path: Path = request.out / "configs" / f"run-{key[:8]}.json"
    write_json(path, content)
    console.say(
        f"heads {', '.join(made)}; {_protocol(request)}, seed {settings.seed}; "
        f"settings {key[:8]} in {path}"
    )


def stored_request(
    out: Path,
    task: str,
    encoders: Sequence[str],
    *,
    table: Path | None = None,
    features: Mapping[str, Path] | None = None,
    weights: Mapping[str, Path] | None = None,
    device: str = "auto",
    inside: bool = False,
    regions: Path | None = None,
    workspace: Workspace | None = None,
) -> EvaluationRequest:
    """Return what a run was asked for, for one of its tasks; the latest of several runs.

    Args:
        out: Folder of the results.
        task: Name of the task.
        encoders: Labels of its encoders. One that no run names is the base of another, whose
            features are used as they are.
        table: Its table; None takes that of the run.
        features: Encoder or label -> features folder, `*` for every one; None takes those of the
            run.
        weights: Label -> weights, `*` for every one, instead of those of the run.
        device: Device.
        inside: Whether the run was restricted to regions.
        regions: Their folder; None takes that of the run.
        workspace: Names the features of runs that were not given them.

    Raises:
        DataError: When no run of the folder had the task, or its table is not where it was.
    """
    for content in _latest(out):
        cards = [one for one in content.get("tasks", ()) if one.get("name") == task]
        if cards and bool(content.get("regions")) == inside:
            break
    else:
        raise DataError(
            f"does not say how '{task}' was run",
            where=str(out / "configs"),
            fix="Run it again with this version",
        )
    given: dict[str, Any] = {name: content[name] for name in _REPEATED if name in content}
    for name in ("features", "test_features"):
        folders = dict(content.get(name) or {})
        if content.get(f"any_{name}"):
            folders["*"] = content[f"any_{name}"]
        given[name] = {label: Path(path) for label, path in folders.items()}
    given |= {"features": features} if features else {}
    given |= {"regions": regions} if regions else {}
    given |= {"device": device, "out": out}
    known = {one["label"]: one for one in content.get("encoders", ())}
    chosen = [_encoder(known.get(label), label, weights or {}) for label in encoders]
    return EvaluationRequest(
        EvaluationSettings.of(given, str(out / "configs")),
        tuple(chosen),
        (_task(cards[0], table, out),),
        workspace,
    )


def names_of_runs(folders: Sequence[Path]) -> set[str]:
    """Return labels, names and bases of all encoders that were run into some folders."""
    listed = [one for out in folders for content in _latest(out) for one in content["encoders"]]
    names = {str(one[key]) for one in listed for key in ("label", "name")}
    cards = [registered.get(name).card for name in names if name in registered]
    return names | {card.upstream for card in cards if card.upstream}


def _latest(out: Path) -> list[Mapping[str, Any]]:
    """The settings of the runs of a folder, the latest first; what is damaged is said."""
    problems: list[str] = []
    found = read_run_settings(out, problems)
    for problem in problems:
        console.warn(problem)
    found.sort(key=lambda one: one[0].stat().st_mtime, reverse=True)
    return [content for _, content in found]


def _encoder(
    stored: Mapping[str, Any] | None, label: str, weights: Mapping[str, Path]
) -> EncoderRequest:
    if stored is None:
        return EncoderRequest(label, label)
    path = path_of(weights, label, str(stored["name"])) or stored.get("weights")
    if path is not None and stored.get("weights") and not Path(path).exists():
        raise DataError(
            f"the weights of '{label}' are not where the run had them",
            where=str(path),
            fix="Give them with --weights, or repeat the command from the folder of the run",
        )
    options = dict(stored.get("options") or {})
    needed = path is not None and stored.get("weights")
    return EncoderRequest(
        str(stored["name"]), label, Path(path) if path is not None and needed else None, options
    )


def _task(stored: Mapping[str, Any], table: Path | None, out: Path) -> TaskRequest:
    fields = {field.name for field in dataclasses.fields(TaskCard)}
    values = {key: value for key, value in stored.items() if key in fields}
    card = config.build(TaskCard, values, str(out / "configs"))
    paths = {key: None if stored.get(key) is None else Path(stored[key]) for key in _PLACES}
    paths |= {"table": table} if table is not None else {}
    for name, path in paths.items():
        if path is not None and not path.exists():
            raise DataError(
                f"the {name.replace('_', ' ')} of the run is not here",
                where=str(path),
                fix="Give the table with --table, or repeat the command from the folder of the run",
            )
    if paths["table"] is None:
        raise DataError(f"does not name the table of '{card.name}'", where=str(out / "configs"))
    return TaskRequest(card, paths.pop("table"), **paths)  # type: ignore[arg-type]


def _protocol(request: EvaluationRequest) -> str:
    settings = request.settings
    if not settings.protocol and all(
        kinds.get(task.card.kind).card.units == "spots" for task in request.tasks
    ):
        return "folds of sections"
    if not settings.protocol and any(task.published or task.splits for task in request.tasks):
        return "splits as published"
    if settings.protocol == "cv":
        return f"cv, {settings.folds} folds, {settings.repeats} repeat(s)"
    if settings.protocol == "leave-site-out" or settings.protocol in _OF_SECTIONS:
        return settings.protocol
    if settings.protocol == "external" or any(task.test_table for task in request.tasks):
        return settings.protocol or "external"
    return f"few-shot, shots {', '.join(map(str, settings.shots))}, {settings.draws} draws"


def _paths(task: object) -> dict[str, Path | None]:
    return {name: getattr(task, name) for name in _PLACES}


def _described(encoder: EncoderRequest) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": encoder.name,
        "label": encoder.label,
        "weights": encoder.weights,
        "options": dict(encoder.options),
    }
    if encoder.loaded is not None:
        described["loaded"] = type(encoder.loaded).__qualname__
    return described
