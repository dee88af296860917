"""Leaderboards, differences and curves: pure functions of the stored files."""

from __future__ import annotations

from spade_bench.report.differences import Difference, against_base, compare
from spade_bench.report.leaderboard import ReportRow, leaderboard
from spade_bench.report.overall import OverallRow, overall
from spade_bench.report.risk_split import RiskSplit, risk_splits
from spade_bench.report.series import Series, collect
from spade_bench.report.values import Resampler
from spade_bench.report.verdict import verdict

__all__ = [
    "Difference",
    "OverallRow",
    "ReportRow",
    "Resampler",
    "RiskSplit",
    "Series",
    "against_base",
    "collect",
    "compare",
    "leaderboard",
    "overall",
    "risk_splits",
    "verdict",
]
