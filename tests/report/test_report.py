"""Reports rebuild every number from the stored predictions and show what is missing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from spade_bench.cli.main import main
from spade_bench.errors import DataError
from spade_bench.files import hash_obj
from spade_bench.report import Resampler, against_base, collect, compare, leaderboard, verdict
from spade_bench.report.leaderboard import COLUMNS, as_csv
from spade_bench.report.tableformats import long_grid, markdown
from spade_bench.report.terminal import print_differences
from spade_bench.results import Predictions, ResultStore, Row, read_predictions
from tests.helpers.stored_cells import store_predictions

LABEL = np.repeat([0, 1], 30)
CASES = tuple(f"c{i:02d}" for i in range(60))
ROW_FIELDS = {
    *("encoder", "task", "head", "protocol", "k_shot", "metric", "mean", "ci_low", "ci_high"),
    *("n_cases", "n_draws", "flags", "covers", "note", "condition", "tested_on"),
    *("control", "control_of"),
}


def _fill(
    out: Path,
    encoder: str,
    strength: float,
    flags: tuple[str, ...] = (),
    *,
    shots: tuple[int, ...] = (1, 4),
    draws: int = 4,
    base: str = "",
    noise_seed: int = 0,
) -> None:
    """Store rows whose predictions carry ``strength`` of signal over shared case noise."""
    rows = []
    shared = np.random.default_rng(99).normal(size=60)
    for k in shots:
        for draw in range(draws):
            rng = np.random.default_rng([noise_seed, k, draw])
            logit = shared + 0.3 * rng.normal(size=60) + strength * k**0.5 * (LABEL - 0.5)
            p = 1 / (1 + np.exp(-logit))
            scores = np.stack([1 - p, p], axis=1)
            run_id = hash_obj([encoder, k, draw, flags])
            rows.append(
                Row(
                    run_id,
                    "ok",
                    encoder,
                    "t",
                    "logistic",
                    "few-shot",
                    k,
                    draw,
                    # Deliberately wrong: a report must not take stored metrics on trust.
                    metrics={"auroc": -1.0, "balanced_accuracy": -1.0},
                    n={"train": 2 * k, "test": 60},
                    inputs={
                        "features": encoder,
                        "episode": f"{k}-{draw}",
                        **({"base": base} if base else {}),
                    },
                    flags=flags,
                )
            )
            told = Predictions(CASES, ("neg", "pos"), LABEL, scores)
            store_predictions(out, rows[-1], told)
    ResultStore(out).append(rows)


def test_numbers_are_rebuilt_from_predictions(tmp_path: Path) -> None:
    _fill(tmp_path, "uni", 1.0, ("simulated",))
    series = collect(tmp_path)
    rows = leaderboard(series, Resampler(tmp_path, n_boot=100))
    assert {(r.k_shot, r.metric) for r in rows} == {
        (k, m) for k in (1, 4) for m in ("auroc", "balanced_accuracy")
    }
    parts = pd.read_parquet(tmp_path / "predictions" / "t" / "uni")
    for one in series:
        expected = []
        for row in one.rows:
            table = parts[parts["run_id"] == row.run_id]
            expected.append(roc_auc_score(table["label"] == "pos", table["score:pos"]))
        found = next(r for r in rows if r.k_shot == one.k_shot and r.metric == "auroc")
        assert found.mean == pytest.approx(np.mean(expected))
        assert found.ci_low is not None
        assert found.ci_high is not None
        assert found.ci_low < found.mean < found.ci_high
        assert (found.n_cases, found.n_draws, found.flags) == (60, 4, ("simulated",))


def test_same_files_same_report(tmp_path: Path) -> None:
    _fill(tmp_path, "uni", 1.0)
    first, second = (leaderboard(collect(tmp_path), Resampler(tmp_path)) for _ in range(2))
    assert first == second


def test_missing_and_failed_cells_are_shown(tmp_path: Path) -> None:
    _fill(tmp_path, "uni", 1.0)
    _fill(tmp_path, "partial", 1.0, shots=(1,), draws=3)
    store = ResultStore(tmp_path)
    template = store.rows()[0]
    broken = replace(template, run_id="f" * 16, encoder="broken", status="failed", error="no")
    store.append([replace(broken, inputs={"features": "x"}, metrics={})])
    rows = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    found = {(r.encoder, r.k_shot): r for r in rows if r.metric == "auroc"}
    assert found["partial", 1].flags == ("missing",)
    assert found["partial", 1].n_draws == 3
    assert found["partial", 4].mean is None
    assert found["partial", 4].flags == ("missing",)
    assert found["broken", 1].mean is None
    assert "failed" in found["broken", 1].flags
    assert found["uni", 4].flags == ()


def test_two_versions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    _fill(tmp_path, "uni", 1.0)
    store = ResultStore(tmp_path)
    again = []
    for row in store.rows():
        run_id = row.run_id[:-1] + ("0" if row.run_id[-1] != "0" else "1")
        again.append(replace(row, run_id=run_id, inputs={**row.inputs, "features": "other"}))
        told = Predictions(CASES, ("neg", "pos"), LABEL, np.full((60, 2), 0.5))
        store_predictions(tmp_path, again[-1], told)
    store.append(again)
    rows = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    assert all(any(f.startswith("inputs:") for f in r.flags) for r in rows)
    assert all(r.n_draws == 4 for r in rows)


def test_paired_difference_against_the_base(tmp_path: Path) -> None:
    _fill(tmp_path, "lite0", 0.6, ("control:base",))
    _fill(tmp_path, "spade", 1.4, base="lite0", noise_seed=1)
    _fill(tmp_path, "spade", 0.0, ("control:permuted-labels",), noise_seed=2)
    found = against_base(collect(tmp_path), Resampler(tmp_path, n_boot=300))
    assert {(d.a, d.b) for d in found} == {("spade", "lite0")}
    assert {d.k_shot for d in found} == {1, 4, None}
    mean = next(d for d in found if d.metric == "auroc" and d.k_shot is None)
    assert mean.ci_low > 0
    assert mean.p < 0.05
    assert mean.p <= mean.p_adjusted
    assert verdict(found).startswith("SPADE is better: SPADE minus lite0 is +0.")
    alone = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=300))
    values = {(r.encoder, r.k_shot): r.mean for r in alone if r.metric == "auroc" and not r.flags}
    by_shot = {d.k_shot: d.mean for d in found if d.metric == "auroc"}
    base = {r.k_shot: r.mean for r in alone if r.encoder == "lite0" and r.metric == "auroc"}
    assert by_shot[4] == pytest.approx(values["spade", 4] - base[4])


def test_a_base_that_another_run_names_is_an_encoder_there_too(tmp_path: Path) -> None:
    _fill(tmp_path, "lite0", 0.6, ("control:base",))
    _fill(tmp_path, "spade", 1.4, base="lite0", noise_seed=1)
    store = ResultStore(tmp_path)
    elsewhere = []
    for row in store.rows():  # the same two on another task, where both were asked for
        run_id = f"u{row.run_id}"
        flags = tuple(flag for flag in row.flags if flag != "control:base")
        elsewhere.append(replace(row, run_id=run_id, task="u", flags=flags, control=""))
        told = read_predictions(tmp_path, row.run_id)
        store_predictions(tmp_path, elsewhere[-1], told)
    store.append(elsewhere)
    rows = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    assert {(row.task, row.encoder, row.control) for row in rows} == {
        (task, encoder, "") for task in ("t", "u") for encoder in ("lite0", "spade")
    }
    assert all(row.mean is not None and "missing" not in row.flags for row in rows)
    found = against_base(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    assert {(one.task, one.a, one.b) for one in found} == {
        ("t", "spade", "lite0"), ("u", "spade", "lite0"),
    }  # fmt: skip


def test_folds_that_share_held_out_cases_are_called_so_everywhere(
    tmp_path: Path, store: Any, classes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.tile([0, 1], 30)
    for fold in (0, 1, 2, None):
        rng = np.random.default_rng(9 if fold is None else fold)
        made = classes(rng.uniform(size=60), label)
        flags = ("ensemble",) if fold is None else ()
        place = {"protocol": "cv", "fold": fold, "draw": 0}
        store(tmp_path, place, made, flags=flags)
    rows = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    covers = {("ensemble" in row.flags): row.covers for row in rows}
    assert covers == {
        True: "over held-out cases, for these training cases",
        False: "over models and held-out cases, for these training cases",
    }
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(tmp_path), "--no-plots", "--json"])
    printed = json.loads(capsys.readouterr().out)["rows"]
    assert {row["covers"] for row in printed} == set(covers.values())


def test_differences_of_several_encoders_name_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    _fill(tmp_path, "lite0", 0.6, ("control:base",))
    _fill(tmp_path, "spade", 1.4, base="lite0", noise_seed=1)
    found = against_base(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    print_differences(found, "one")
    assert "minus" not in capsys.readouterr().out  # the title says it
    print_differences([*found, dataclasses.replace(found[0], a="other")], "two")
    printed = capsys.readouterr().out
    assert "spade minus lite0" in printed
    assert "other minus lite0" in printed


def test_compare_needs_known_names_and_shared_episodes(tmp_path: Path) -> None:
    _fill(tmp_path, "uni", 1.0, shots=(1,))
    _fill(tmp_path, "resnet50", 0.2, shots=(4,))
    series, resampler = collect(tmp_path), Resampler(tmp_path, n_boot=20)
    with pytest.raises(DataError, match="'resnet50'"):
        compare(series, resampler, "uni", "resnet5")
    with pytest.raises(DataError, match="share no episode"):
        compare(series, resampler, "uni", "resnet50")


def test_formats_hold_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(tmp_path, "uni", 1.0)
    _fill(tmp_path, "lite0", 0.5, ("control:base", "simulated"))
    rows = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    assert as_csv(rows).splitlines()[0] == ",".join(COLUMNS)
    assert len(as_csv(rows).splitlines()) == len(rows) + 1
    assert markdown([long_grid(rows)]).count("\n") == len(rows) + 1
    with pytest.raises(SystemExit) as done:
        main(["report", str(tmp_path), "--json"])
    assert done.value.code == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["schema", "rows"]
    assert content["schema"] == "spade-bench/report/1"
    printed = content["rows"]
    assert all(set(row) == ROW_FIELDS for row in printed)
    assert all(isinstance(row["flags"], list) for row in printed)
    assert {(row["encoder"], row["control"]) for row in printed} == {("uni", ""), ("lite0", "base")}
    assert (tmp_path / "plots" / "t-logistic.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "--no-plots"])
    text = capsys.readouterr().out
    assert "simulated: simulated data, not patients" in text
    assert "control:base" in text
    assert "mean rank" not in text  # over one task it would be the leaderboard again
    with pytest.raises(SystemExit) as done:
        main(["compare", str(tmp_path), "--a", "uni", "--b", "lite0", "--json"])
    assert done.value.code == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["schema", "verdict", "differences"]
    assert content["schema"] == "spade-bench/compare/1"
    assert "simulated data" in content["verdict"]


def test_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spade-bench run"):
        collect(tmp_path)
