"""Sweeps: many encoders, tasks and heads in one go; what fails is recorded, the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import make_request, run_main

from spade_bench.evaluation import run
from spade_bench.evaluation.request import EncoderRequest, resolve_task
from spade_bench.evaluation.resolve import resolve
from spade_bench.evaluation.settings import EvaluationSettings, read_settings
from spade_bench.heads._pooled import PooledHead
from spade_bench.report.series import collect
from spade_bench.results import ResultStore


def _rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sweep(study: Any, survival: Any, tmp_path: Path) -> Path:
    """Two kinds of task, two heads a kind, in one file with relative paths."""
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "encoders: [mine, twin=mine]\n"
        "tasks: [subtype, outcome]\n"
        "heads: [logistic, knn, cox]\n"
        f"tables: {{subtype: {study.table.name}, outcome: survival/{survival.table.name}}}\n"
        "features: everything\n"
        "shots: [1, 2]\ndraws: 2\ncontrols: false\ndevice: cpu\nout: results\n"
        "set: {logistic.C: 0.5}\n"
    )
    # Both cohorts' features in one folder; their slides have other names.
    everything = tmp_path / "everything"
    everything.mkdir()
    for path in study.features.iterdir():
        (everything / path.name).write_bytes(path.read_bytes())
    text = survival.table.read_text()
    for slide in survival.slides:
        data = (survival.features / f"{slide}.h5").read_bytes()
        (everything / f"surv-{slide}.h5").write_bytes(data)
        text = text.replace(f",{slide},", f",surv-{slide},")
    survival.table.write_text(text)
    return file


def test_one_file_runs_heads_where_they_fit(sweep: Path, tmp_path: Path) -> None:
    assert run_main("run", "--config", str(sweep)) == 0
    rows = _rows(tmp_path / "results")
    assert {(r["task"], r["head"]) for r in rows} == {
        *(("subtype", "logistic"), ("subtype", "knn"), ("outcome", "cox"))
    }
    assert len(rows) == 2 * 3 * 4
    assert {r["encoder"] for r in rows} == {"mine", "twin"}
    # Flags win over the file.
    assert run_main("run", "--config", str(sweep), "--draws", "1", "--out", "other") == 0
    assert len(_rows(tmp_path / "other")) == 2 * 3 * 2


def test_a_file_is_read_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("encoders: [mine]\ntask: [a]\n")
    assert run_main("run", "--config", str(file)) == 2
    assert "Did you mean 'tasks'" in capsys.readouterr().err
    file.write_text("encoders: [mine]\nset: {logistic: {C: 2}, abmil.hidden: 8}\nfeatures: here\n")
    settings = read_settings(file)
    assert settings.set == {"logistic": {"C": 2}, "abmil": {"hidden": 8}}
    assert settings.features == {"*": tmp_path / "here"}
    merged = EvaluationSettings(encoders=("other",), set={"logistic": {"C": 3}}).over(settings)
    assert merged.encoders == ("other",)
    assert merged.set == {"logistic": {"C": 3}, "abmil": {"hidden": 8}}


def test_a_failing_task_is_recorded_and_gives_way_once_it_runs(
    sweep: Path, survival: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = survival.table.read_text()
    survival.table.write_text(sound.replace(",1,", ",7,"))
    assert run_main("run", "--config", str(sweep)) == 2
    told = capsys.readouterr().err
    assert told.count("is 7") == 1
    assert "2 cell(s) failed, see the warnings above" in told.splitlines()[-1]
    failed = [r for r in _rows(tmp_path / "results") if r["status"] == "failed"]
    assert {(r["task"], r["encoder"], r["head"]) for r in failed} == {
        *(("outcome", "mine", "cox"), ("outcome", "twin", "cox"))
    }
    assert all("is 7" in r["error"] for r in failed)
    assert sum(r["status"] == "ok" for r in _rows(tmp_path / "results")) == 16
    survival.table.write_text(sound)
    assert run_main("run", "--config", str(sweep)) == 0
    assert all(row.status == "ok" for row in ResultStore(tmp_path / "results").rows())
    assert not any(series.failed for series in collect(tmp_path / "results"))


def test_an_encoder_that_cannot_be_used_does_not_stop_the_other(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    request = make_request(
        encoders=(EncoderRequest("mine", "mine"), EncoderRequest("resnet50", "resnet50")),
        tasks=(resolve_task("my_task", study.table, None),),
        out=out,
        features={"*": study.features},
        shots=(1,),
        draws=2,
        controls=False,
        device="cpu",
    )
    summary = run(request)
    assert (summary.done, summary.failed) == (2, 1)
    assert "resnet50" in summary.first_error
    (failed,) = [r for r in _rows(out) if r["status"] == "failed"]
    assert failed["encoder"] == "resnet50"
    assert set(failed) == set(_rows(out)[-1])


def test_a_head_that_fits_nothing_is_refused(survival: Any, tmp_path: Path) -> None:
    given = ["--table", str(survival.table), "--features", str(survival.features), "--out", "o"]
    assert run_main("run", "--encoder", "mine", "--task", "t", "--head", "logistic", *given) == 2
    assert not (tmp_path / "o").exists()


def test_interruption_leaves_everything_readable(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--table", str(study.table), "--features", str(study.features), "--device", "cpu"]
    command = ["run", "--encoder", "mine", "--task", "t", "--protocol", "cv", "--folds", "3"]
    fit, calls = PooledHead.fit_predict, []

    def interrupted(self: Any, bags: Any, fits: Any, n_outputs: int, *keep: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(self, bags, fits, n_outputs, *keep)

    monkeypatch.setattr(PooledHead, "fit_predict", interrupted)
    assert run_main(*command, *given, "--out", "o") == 130
    before = _rows(tmp_path / "o")
    assert len(before) == 18  # the encoder and its permuted labels, not yet the projections
    monkeypatch.setattr(PooledHead, "fit_predict", fit)
    assert run_main(*command, *given, "--out", "o") == 0
    assert _rows(tmp_path / "o")[:18] == before
    assert len(_rows(tmp_path / "o")) == 21


def test_all_that_starts_from_the_same_bags_trains_in_one_pass(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--table", str(study.table), "--features", str(study.features), "--device", "cpu"]
    command = ["run", "--encoder", "mine", "--task", "t", *given, "--draws", "2"]
    fit, calls = PooledHead.fit_predict, []

    def counted(self: Any, bags: Any, fits: Any, n_outputs: int) -> Any:
        calls.append(len(fits))
        return fit(self, bags, fits, n_outputs)

    monkeypatch.setattr(PooledHead, "fit_predict", counted)
    assert run_main(*command, "--shots", "1,2,4", "--out", "whole") == 0
    # Three shots x two draws of the encoder and of its labels permuted five times; then the
    # projections.
    assert calls == [6 + 5 * 6, 6]
    for shot in ("4", "1", "2"):
        assert run_main(*command, "--shots", shot, "--out", "parts") == 0
    whole, parts = (
        {row["run_id"]: row["metrics"] for row in _rows(tmp_path / out)}
        for out in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for run_id, metrics in whole.items():
        assert metrics == pytest.approx(parts[run_id], abs=1e-9, nan_ok=True)


def test_dry_run_counts_and_estimates(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--table", str(study.table), "--features", str(study.features), "--device", "cpu"]
    command = ["run", "--encoder", "mine", "--task", "t", "--shots", "1,2", *given, "--out", "o"]
    assert run_main(*command, "--draws", "2", "--dry-run") == 0
    assert "28 cells to run, 0 finished; about" in capsys.readouterr().err
    assert run_main(*command, "--draws", "2") == 0
    assert run_main(*command, "--draws", "4", "--dry-run") == 0
    assert "28 cells to run, 28 finished; about" in capsys.readouterr().err
    assert not (tmp_path / "o" / "results.jsonl.new").exists()


def test_few_shot_run_ids_are_those_of_the_first_version(study: Any, tmp_path: Path) -> None:
    settings = EvaluationSettings(
        encoders=("mine",),
        tasks=("my_task",),
        tables={"*": study.table},
        features={"*": study.features},
        shots=(1, 2),
        draws=2,
        controls=False,
        device="cpu",
        out=tmp_path / "o",
    )
    run(resolve(settings, None))
    # Stored results stay valid: these ids were written before there were other protocols.
    assert {row["run_id"] for row in _rows(tmp_path / "o")} == {
        *("21208ee04842bb09", "716453e6c5bd90d5", "761c9a279f93c529", "e070c5726551345e"),
    }
