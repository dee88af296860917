"""The command line and its requests, as tests of runs call them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spade_bench.cli.main import main
from spade_bench.evaluation import EvaluationRequest, EvaluationSettings
from spade_bench.evaluation.request import EncoderRequest, TaskRequest, resolve_task

_REST = {"workspace", "shard", "dry_run"}


def run_main(*arguments: object) -> int:
    """Run a command; return its exit code."""
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return int(str(done.value.code))


def make_request(
    encoders: tuple[EncoderRequest, ...], tasks: tuple[TaskRequest, ...], **options: Any
) -> EvaluationRequest:
    """A request from resolved encoders and tasks; options are settings or fields of the request."""
    rest = {name: options.pop(name) for name in _REST & options.keys()}
    return EvaluationRequest(EvaluationSettings(**options), encoders, tasks, **rest)


def request_of(study: Any, out: Path, **changes: Any) -> EvaluationRequest:
    """The request to run `mine` on the study as `my_task`, on the CPU."""
    values: dict[str, Any] = {
        "encoders": (EncoderRequest("mine", "mine"),),
        "tasks": (resolve_task("my_task", study.table, None),),
        "out": out,
        "features": {"*": study.features},
        "device": "cpu",
        **changes,
    }
    return make_request(**values)


def changed(request: EvaluationRequest, **options: Any) -> EvaluationRequest:
    """The request with other settings."""
    return replace(request, given=replace(request.given, **options))
