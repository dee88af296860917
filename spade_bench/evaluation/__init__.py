"""Runs encoders on tasks: the one place that sees both."""

from __future__ import annotations

from typing import Any

from spade_bench.evaluation.request import EvaluationRequest
from spade_bench.evaluation.resolve import resolve
from spade_bench.evaluation.running import RunSummary, run
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.workspace import Workspace

__all__ = [
    "EvaluationRequest",
    "EvaluationSettings",
    "RunSummary",
    "resolve",
    "run",
    "run_settings",
]


def run_settings(
    settings: EvaluationSettings, workspace: Workspace | None = None, **rest: Any
) -> RunSummary:
    """Resolve settings and run them; finished cells are skipped, failing ones recorded.

    Args:
        settings: What flags, a YAML file or keywords say.
        workspace: Fills in what they leave out.
        **rest: What is no setting: ``shard``, ``dry_run`` and ``loaded``; see `resolve`.

    Raises:
        UserError: When something is missing or unknown, options do not fit together, or the only
            task or encoder asked for cannot be used at all.
    """
    return run(resolve(settings, workspace, **rest))
