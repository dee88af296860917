"""Keeps what was asked for beside the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from spade_bench import console
from spade_bench.evaluation.request import RunRequest
from spade_bench.files import hash_obj, write_json
from spade_bench.heads import Head

__all__ = ["store_config"]

_LEFT_OUT = {
    "encoders",
    "tasks",
    "heads",
    "head_params",
    "workspace",
    "shard",
    "dry_run",
    "given",
    "memory",
    "cache",
    "out",
}


def store_config(request: RunRequest, made: Mapping[str, Head]) -> None:
    """Write the resolved settings, named by their hash, and print them."""
    content = {
        "encoders": [dataclasses.asdict(encoder) for encoder in request.encoders],
        "tasks": [{**dataclasses.asdict(task.card), **_paths(task)} for task in request.tasks],
        "heads": {name: dict(head.params) for name, head in made.items()},
        **{
            f.name: getattr(request, f.name)
            for f in dataclasses.fields(request)
            if f.name not in _LEFT_OUT
        },
    }
    key = hash_obj(content)
    path: Path = request.out / "configs" / f"run-{key[:8]}.json"
    write_json(path, content)
    console.say(
        f"heads {', '.join(made)}; {_protocol(request)}, seed {request.seed}; "
        f"settings {key[:8]} in {path}"
    )


def _protocol(request: RunRequest) -> str:
    if not request.protocol and any(task.published or task.splits for task in request.tasks):
        return "splits as published"
    if request.protocol == "cv":
        return f"cv, {request.folds} folds, {request.repeats} repeat(s)"
    if request.protocol == "external" or any(task.test_table for task in request.tasks):
        return request.protocol or "external"
    return f"few-shot, shots {', '.join(map(str, request.shots))}, {request.draws} draws"


def _paths(task: object) -> dict[str, Path | None]:
    names = ("table", "test_table", "splits", "published")
    return {name: getattr(task, name) for name in names}
