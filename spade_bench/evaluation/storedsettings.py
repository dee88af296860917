"""Keeps what was asked for beside the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spade_bench import console
from spade_bench.evaluation.request import EvaluationRequest
from spade_bench.files import hash_obj, write_json
from spade_bench.heads import Head

__all__ = ["store_config"]

# Settings stored as they are. Those that name encoders, tasks and heads are stored with what they
# came to; memory, cache, the folder for results and consent change no number.
_STORED = (
    *("protocol", "shots", "draws", "folds", "repeats", "holdout", "group_by_site", "select"),
    *("allow_leaky_splits", "seed", "controls", "permutations", "allow_missing", "device"),
    *("match_ids", "positive", "as_is", "pretrained_on"),
)


def store_config(request: EvaluationRequest, made: Mapping[str, Head]) -> None:
    """Write the resolved settings, named by their hash, and print them."""
    settings = request.settings
    content: dict[str, Any] = {
        "encoders": [dataclasses.asdict(encoder) for encoder in request.encoders],
        "tasks": [{**dataclasses.asdict(task.card), **_paths(task)} for task in request.tasks],
        "heads": {name: dict(head.params) for name, head in made.items()},
        **{name: getattr(settings, name) for name in _STORED},
    }
    for name in ("features", "test_features"):
        folders = getattr(settings, name)
        content[name] = {key: path for key, path in folders.items() if key != "*"}
        content[f"any_{name}"] = folders.get("*")
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


def _protocol(request: EvaluationRequest) -> str:
    settings = request.settings
    if not settings.protocol and any(task.published or task.splits for task in request.tasks):
        return "splits as published"
    if settings.protocol == "cv":
        return f"cv, {settings.folds} folds, {settings.repeats} repeat(s)"
    if settings.protocol == "external" or any(task.test_table for task in request.tasks):
        return settings.protocol or "external"
    return f"few-shot, shots {', '.join(map(str, settings.shots))}, {settings.draws} draws"


def _paths(task: object) -> dict[str, Path | None]:
    names = ("table", "test_table", "splits", "published")
    return {name: getattr(task, name) for name in names}
