"""Rows and tables say where numbers rest on few cases, a small pool or draws that are one."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_bench.cli.main import main
from spade_bench.report import Resampler, collect, compare, leaderboard
from spade_bench.report.caveats import caveats
from spade_bench.report.leaderboard import as_csv
from spade_bench.report.tableformats import long_grid, markdown
from spade_bench.results import ResultStore
from tests.helpers.stored_cells import store_predictions


def _fill(out: Path, store: Any, classes: Any, positives: int, **how: Any) -> None:
    """Five draws of two encoders, the first of which is right everywhere if ``perfect``."""
    label = np.repeat([0, 1], [40, positives])
    for draw in range(5):
        rng = np.random.default_rng([positives, draw])
        for encoder in ("uni", "lite0"):
            noise = 0.0 if how.get("perfect") else 0.2
            p = np.clip(0.25 + 0.5 * label + noise * rng.normal(size=len(label)), 0.01, 0.99)
            place = {"encoder": encoder, "draw": draw, "k_shot": how.get("shot", 4)}
            row = store(out / str(draw), place, classes(p, label))
            _copy(out, row, classes(p, label), how, draw)


def _copy(out: Path, row: Any, predictions: Any, how: dict[str, Any], draw: int) -> None:
    store_predictions(out, row, predictions)
    episode = "one" if how.get("same") else str(draw)
    changed = replace(
        row,
        n={**row.n, "pool": how.get("pool", 40)},
        inputs={**row.inputs, "episode": episode},
    )
    ResultStore(out).append([changed])


@pytest.mark.parametrize(
    ("positives", "how", "expected"),
    [
        (10, {}, set()),
        (9, {}, {"few-cases"}),
        (1, {}, {"few-cases"}),
        (20, {"shot": 4, "pool": 12}, set()),
        (20, {"shot": 4, "pool": 11}, {"small-pool"}),
        (20, {"shot": 4, "pool": 4, "same": True}, {"small-pool", "same-draws"}),
    ],
)
def test_rows_and_differences_carry_the_caveat(
    store: Any,
    classes: Any,
    tmp_path: Path,
    positives: int,
    how: dict[str, Any],
    expected: set[str],
) -> None:
    _fill(tmp_path, store, classes, positives, **how)
    series, resampler = collect(tmp_path), Resampler(tmp_path, n_boot=50)
    for one in series:
        assert set(caveats(one, resampler)) == expected
    for row in leaderboard(series, resampler):
        assert expected == set(row.flags)
        assert row.mean is not None
        assert (row.ci_low is None) == (positives == 1)
    for one in compare(series, resampler, "uni", "lite0"):
        assert expected == set(one.flags)


@pytest.mark.parametrize(
    ("metric", "least"),
    [("sensitivity_at_90_specificity", 50), ("sensitivity_at_95_specificity", 100),
     ("calibration_slope", 20)],
)  # fmt: skip
def test_an_interval_that_a_metric_needs_more_cases_for_is_left_out_and_flagged(
    store: Any, classes: Any, tmp_path: Path, metric: str, least: int
) -> None:
    for n in (least - 1, least):
        out, label = tmp_path / str(n), np.repeat([0, 1], [n, n])
        rng = np.random.default_rng(n)
        told = classes(1 / (1 + np.exp(-rng.normal(size=2 * n) - label + 0.5)), label)
        row = store(tmp_path / "first", {"draw": n}, told)
        store_predictions(out, row, told)
        ResultStore(out).append([replace(row, metrics=dict.fromkeys(("auroc", metric), 0.0))])
        rows = {r.metric: r for r in leaderboard(collect(out), Resampler(out, n_boot=50))}
        assert rows["auroc"].ci_low is not None
        assert "few-cases" not in rows["auroc"].flags
        assert (rows[metric].ci_low is None) == (n < least)
        assert ("few-cases" in rows[metric].flags) == (n < least)


@pytest.mark.parametrize("positives", [2, 5, 30])
def test_differences_of_perfect_encoders_have_a_width(
    store: Any, classes: Any, tmp_path: Path, positives: int
) -> None:
    _fill(tmp_path, store, classes, positives, perfect=True)
    resampler = Resampler(tmp_path, n_boot=50)
    found = compare(collect(tmp_path), resampler, "uni", "lite0")
    (one,) = [d for d in found if d.metric == "auroc"]
    assert (one.mean, one.p, one.better, one.test) == (0.0, 1.0, "", "square-and-add")
    assert -1.0 <= one.ci_low < 0.0 < one.ci_high <= 1.0


def test_differences_stay_within_what_a_difference_can_be(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    label = np.repeat([0, 1], [3, 3])
    for encoder, p in (("uni", [0.1, 0.2, 0.6, 0.5, 0.8, 0.9]),
                       ("lite0", [0.9, 0.5, 0.3, 0.4, 0.2, 0.1])):  # fmt: skip
        store(tmp_path, {"encoder": encoder}, classes(p, label))
    for one in compare(collect(tmp_path), Resampler(tmp_path, n_boot=50), "uni", "lite0"):
        assert -1.0 <= one.ci_low <= one.mean <= one.ci_high <= 1.0


def test_folds_that_agree_have_a_width(store: Any, classes: Any, tmp_path: Path) -> None:
    for fold in range(3):
        label = np.array([0, 0, 0, 1, 1])
        told = classes(0.2 + 0.6 * label, label)
        names = tuple(f"f{fold}-{name}" for name in told.case_ids)
        told = type(told)(names, told.classes, told.target, told.scores)
        store(tmp_path, {"protocol": "cv", "fold": fold}, told)
    (row,) = [r for r in leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
              if r.metric == "auroc"]  # fmt: skip
    assert row.mean == 1.0
    assert row.ci_low is not None
    assert row.ci_low < 0.9
    assert "few-cases" in row.flags


def test_every_table_says_for_which_training_cases(
    store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(tmp_path, store, classes, 5, pool=5, perfect=False)
    sentence = "for these training cases"
    rows = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    assert all(sentence in line["covers"] for line in csv.DictReader(io.StringIO(as_csv(rows))))
    assert sentence in markdown([long_grid(rows)])
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(tmp_path), "--json", "--no-plots"])
    told = json.loads(capsys.readouterr().out)["rows"]
    assert all(
        sentence in one["covers"] for one in (told if isinstance(told, list) else told["rows"])
    )
    pair = ["--a", "uni", "--b", "lite0", "--no-plots"]
    for command in (["report", str(tmp_path), "--no-plots"], ["compare", str(tmp_path), *pair]):
        with pytest.raises(SystemExit, match="0"):
            main(command)
        out = " ".join(capsys.readouterr().out.split())
        assert sentence in out
        assert "few-cases: fewer than 10" in out
        assert "small-pool: the shots are more than a third" in out
