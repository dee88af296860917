"""Cross-validation, ensembles, survival and several tasks in reports and comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from spade_bench.cli.main import main
from spade_bench.files import hash_obj
from spade_bench.report import Resampler, collect, compare, leaderboard, overall, verdict
from spade_bench.results import Predictions, ResultStore, Row
from spade_bench.statistics.delong import delong
from spade_bench.statistics.paired import corrected_t_test
from spade_bench.statistics.riskscores import c_index
from tests.helpers.stored_cells import store_predictions

N = 90
LABEL = np.arange(N) % 2
NOISE = np.random.default_rng(5).normal(size=N)


def _store(out: Path, row: Row, cases: Sequence[int], strength: float, **changes: Any) -> Row:
    """Store a row of a binary task whose predictions carry a signal of this strength."""
    rng = np.random.default_rng([int(row.fold or 0), int(row.draw or 0), int(100 * strength)])
    at = np.asarray(cases)
    p = 1 / (1 + np.exp(-(NOISE[at] + 0.3 * rng.normal(size=len(at)) + strength * LABEL[at])))
    names = tuple(f"c{i:02d}" for i in at)
    told = Predictions(names, ("neg", "pos"), LABEL[at], np.stack([1 - p, p], axis=1))
    run_id = hash_obj([row.encoder, row.task, row.protocol, row.draw, row.fold, row.flags])
    row = replace(
        row,
        run_id=run_id,
        metrics={"auroc": 0.0, "balanced_accuracy": 0.0},
        n={"train": N - len(at), "test": len(at)},
        inputs={"features": row.encoder, "episode": hash_obj([row.protocol, row.fold, names])},
        **changes,
    )
    store_predictions(out, row, told)
    ResultStore(out).append([row])
    return row


def _folds(out: Path, encoder: str, strength: float, task: str = "t") -> None:
    for draw in range(2):
        order = np.random.default_rng(draw).permutation(N)
        for fold in range(3):
            row = Row("", "ok", encoder, task, "logistic", "cv", None, draw, fold)
            _store(out, row, sorted(order[fold::3]), strength)


def _aurocs(out: Path, encoder: str) -> np.ndarray:
    found = []
    for one in collect(out):
        for row in one.rows:
            if row.encoder == encoder:
                p = Resampler(out).predictions(row)
                found.append(roc_auc_score(p.target, p.scores[:, 1]))
    return np.array(found)


def test_folds_have_the_corrected_interval(tmp_path: Path) -> None:
    _folds(tmp_path, "uni", 1.0)
    (row, _) = leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=50))
    expected = corrected_t_test(_aurocs(tmp_path, "uni"), 60, 30)
    assert (row.mean, row.ci_low, row.ci_high) == pytest.approx(
        (expected.mean, expected.low, min(1.0, expected.high))
    )
    assert (row.n_cases, row.n_draws, row.k_shot) == (N, 6, None)


def test_folds_are_compared_by_the_corrected_test(tmp_path: Path) -> None:
    _folds(tmp_path, "uni", 2.0)
    _folds(tmp_path, "resnet50", 0.2)
    found = compare(collect(tmp_path), Resampler(tmp_path, n_boot=50), "uni", "resnet50")
    (one,) = [d for d in found if d.metric == "auroc"]
    expected = corrected_t_test(_aurocs(tmp_path, "uni") - _aurocs(tmp_path, "resnet50"), 60, 30)
    assert (one.test, one.better, one.n_draws, one.k_shot) == ("nadeau-bengio", "uni", 6, None)
    assert one.p == pytest.approx(expected.p)
    assert (one.ci_low, one.ci_high) == pytest.approx((expected.low, expected.high))


def test_an_ensemble_stands_beside_its_fold_models(tmp_path: Path) -> None:
    held = list(range(40))
    for encoder, strength in (("uni", 1.5), ("lite0", 0.1)):
        for fold in (0, 1, None):
            flags = ("ensemble",) if fold is None else ()
            row = Row("", "ok", encoder, "t", "logistic", "cv", None, 0, fold, flags=flags)
            _store(tmp_path, row, held, strength)
    series, resampler = collect(tmp_path), Resampler(tmp_path, n_boot=50)
    rows = [r for r in leaderboard(series, resampler) if r.metric == "auroc"]
    found = {(r.encoder, "ensemble" in r.flags): (r.n_draws, r.n_cases) for r in rows}
    assert found == {
        (encoder, ensemble): (1 if ensemble else 2, 40)
        for encoder in ("uni", "lite0")
        for ensemble in (True, False)
    }
    differences = [d for d in compare(series, resampler, "uni", "lite0") if d.metric == "auroc"]
    assert {d.test for d in differences} == {"delong"}
    (ensemble,) = [d for d in differences if "ensemble" in d.flags]
    a, b = (
        next(resampler.predictions(s.rows[0]) for s in series if s.encoder == name and
             "ensemble" in s.flags)
        for name in ("uni", "lite0")
    )  # fmt: skip
    expected = delong(a.target == 1, a.scores[:, 1], b.scores[:, 1])
    assert ensemble.p == pytest.approx(expected.p)
    assert (ensemble.ci_low, ensemble.ci_high) == pytest.approx((expected.low, expected.high))
    assert "of 1 comparison " in verdict(differences)


def _survival(out: Path, encoder: str, strength: float, draws: int = 10) -> None:
    rng = np.random.default_rng(0)
    hazard = rng.normal(size=120)
    death, leaving = rng.exponential(np.exp(-hazard) * 900), rng.exponential(1500, 120)
    target = np.stack([(death <= leaving).astype(float), np.minimum(death, leaving)], axis=1)
    names = tuple(f"c{i:03d}" for i in range(120))
    rows = []
    for draw in range(draws):
        noise = 0.5 * np.random.default_rng([draw, int(10 * strength)]).normal(size=120)
        risk = (strength * hazard + noise)[:, None]
        run_id = hash_obj([encoder, "survival", draw])
        tested = Predictions(names[:70], (), target[:70], risk[:70])
        told = replace(
            tested, train_ids=names[70:], train_target=target[70:], train_scores=risk[70:]
        )
        metrics = {"c_index": 0.0, "c_index_uno": 0.0, "ibs": 0.0}
        n = {"train": 50, "test": 70, "events": int(target[:70, 0].sum())}
        place = ("os", "cox", "few-shot", 8, draw)
        inputs = {"features": encoder, "episode": str(draw)}
        rows.append(Row(run_id, "ok", encoder, *place, metrics=metrics, n=n, inputs=inputs))
        store_predictions(out, rows[-1], told)
    ResultStore(out).append(rows)


def test_survival_is_resampled_by_case_and_less_error_is_better(tmp_path: Path) -> None:
    _survival(tmp_path, "uni", 1.0)
    _survival(tmp_path, "noise", 0.0)
    series, resampler = collect(tmp_path), Resampler(tmp_path, n_boot=200)
    rows = {(r.encoder, r.metric): r for r in leaderboard(series, resampler)}
    told = [resampler.predictions(row) for one in series for row in one.rows
            if one.encoder == "uni"]  # fmt: skip
    expected = np.mean([c_index(p.target[:, 0] > 0, p.target[:, 1], p.scores[:, 0]) for p in told])
    own = rows["uni", "c_index"]
    assert own.mean == pytest.approx(expected)
    assert own.ci_low is not None
    assert own.ci_high is not None
    assert own.ci_low < expected < own.ci_high
    assert 0.5 < (rows["uni", "c_index_uno"].mean or 0) < 1
    found = {d.metric: d for d in compare(series, resampler, "uni", "noise")}
    assert {d.test for d in found.values()} == {"bootstrap"}
    assert found["c_index"].mean > 0
    assert found["c_index"].better == "uni"
    assert found["ibs"].better in {"uni", ""}
    assert found["ibs"].mean < 0


def test_ranks_over_tasks_leave_out_what_some_encoder_lacks(tmp_path: Path) -> None:
    for task in ("a", "b", "c", "d", "e", "f"):
        _folds(tmp_path, "uni", 2.0, task)
        _folds(tmp_path, "lite0", 0.1, task)
    _folds(tmp_path, "uni", 2.0, "only-uni")
    series, resampler = collect(tmp_path), Resampler(tmp_path, n_boot=50)
    first, second = overall(series, resampler)
    assert (first.encoder, first.rank, second.encoder, second.rank) == ("uni", 1.0, "lite0", 2.0)
    assert first.left_out == ("only-uni",)
    assert len(first.tasks) == 6
    assert second.p_best == pytest.approx(2 / 2**6)
    missing = [r for r in leaderboard(series, resampler) if r.task == "only-uni" and r.mean is None]
    assert {r.encoder for r in missing} == {"lite0"}
    assert all("missing" in r.flags for r in missing)
    sentence = verdict(compare(series, resampler, "uni", "lite0"))
    assert "p = 0.031 (Wilcoxon" in sentence
    assert sentence.startswith("UNI is better: ")


def test_marks_are_in_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("contamination:TCGA", "leaky-splits")
    for encoder, strength in (("phikon", 1.5), ("lite0", 0.1)):
        for task in ("t", "s"):
            row = Row("", "ok", encoder, task, "logistic", "cv", None, 0, 0,
                      flags=flags if encoder == "phikon" else ())  # fmt: skip
            _store(tmp_path, row, list(range(40)), strength)
    for arguments in (
        ["report", str(tmp_path), "--no-plots"],
        ["report", str(tmp_path), "--no-plots", "--json"],
        ["report", str(tmp_path), "--no-plots", "--csv"],
        ["report", str(tmp_path), "--no-plots", "--markdown"],
        ["compare", str(tmp_path), "--a", "phikon", "--b", "lite0", "--no-plots"],
        ["compare", str(tmp_path), "--a", "phikon", "--b", "lite0", "--json"],
    ):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0
        printed = capsys.readouterr().out
        assert all(flag in printed for flag in flags), arguments
        if arguments[0] == "compare":
            assert "(contaminated: see flags; leaky splits)" in printed
        if arguments == ["report", str(tmp_path), "--no-plots", "--json"]:
            tasks = {row["task"]: row["metric"] for row in json.loads(printed)["rows"]}
            assert tasks["overall"] == "mean_rank"
    assert (tmp_path / "plots" / "forest-phikon-lite0.png").stat().st_size > 1000


def test_an_undefined_metric_is_said_and_does_not_break_the_report(tmp_path: Path) -> None:
    row = Row("", "ok", "uni", "t", "logistic", "cv", None, 0, 0)
    _store(tmp_path, row, list(range(0, 40, 2)), 1.0)  # one class only
    rows = {r.metric: r for r in leaderboard(collect(tmp_path), Resampler(tmp_path, n_boot=20))}
    assert rows["auroc"].mean is None
    assert "undefined" in rows["auroc"].flags
    assert rows["balanced_accuracy"].mean is not None
