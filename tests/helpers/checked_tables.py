"""Cohort tables, and what the checks find in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from spade_bench.cohorts.checks.validation import Question, validate_cohort

Found = dict[str, list[object]]
N = 24


def rows_of(n: int = N) -> list[dict[str, object]]:
    return [
        {
            "case_id": f"c{i:02d}",
            "slide_id": f"s{i:02d}",
            "label": "ab"[i % 2],
            "site": f"h{i // 2 % 4}",
        }
        for i in range(n)
    ]


def write_table(folder: Path, rows: list[dict[str, object]], name: str = "table.csv") -> Path:
    path = folder / name
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def check(folder: Path, rows: list[dict[str, object]], **options: object) -> Found:
    """Severity and examples of each finding, by check."""
    found = validate_cohort(Question(write_table(folder, rows), **options))  # type: ignore[arg-type]
    out: Found = {}
    for issue in found.issues:
        out.setdefault(f"{issue.severity}:{issue.check}", []).append(issue)
    return out


def bad(found: Found) -> set[str]:
    return {name for name in found if not name.startswith("note")}


def survival_rows(rate: float = 0.3, n: int = 200, seed: int = 0) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    death, leaving = rng.exponential(2000 / rate, n), rng.uniform(300, 4000, n)
    return [
        {
            "case_id": f"c{i}",
            "slide_id": f"s{i}",
            "event": int(death[i] <= leaving[i]),
            "duration_days": round(min(death[i], leaving[i]) + 1),
            "site": f"h{i % 5}",
        }
        for i in range(n)
    ]
