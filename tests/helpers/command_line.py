"""The command line and its requests, as tests of runs call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spade_bench.cli.main import main
from spade_bench.evaluation import RunRequest
from spade_bench.evaluation.request import EncoderRequest, resolve_task


def run_main(*arguments: object) -> int:
    """Run a command; return its exit code."""
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return int(str(done.value.code))


def request_of(study: Any, out: Path, **changes: Any) -> RunRequest:
    """The request to run `mine` on the study as `my_task`, on the CPU."""
    values: dict[str, Any] = {
        "encoders": (EncoderRequest("mine", "mine"),),
        "tasks": (resolve_task("my_task", study.table, None),),
        "out": out,
        "any_features": study.features,
        "device": "cpu",
        **changes,
    }
    return RunRequest(**values)
