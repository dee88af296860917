"""The report as one page that opens anywhere, from stored results only."""

from __future__ import annotations

from spade_bench.report.page.reportpage import render_page, write_page

__all__ = ["render_page", "write_page"]
