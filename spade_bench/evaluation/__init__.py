"""Runs encoders on tasks: the one place that sees both."""

from __future__ import annotations

from spade_bench.evaluation.request import RunRequest
from spade_bench.evaluation.running import RunSummary, run

__all__ = ["RunRequest", "RunSummary", "run"]
