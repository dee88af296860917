"""`spade-bench run` as people type it: exit codes, messages, the workspace file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_main

from spade_bench.heads.training import trainer as trainer_module
from spade_bench.results import ResultStore, read_predictions

FAST = ["--shots", "1,2", "--draws", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_given_is_one_line_that_mentions_the_demo(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main("run", "--encoder", "spade", "--task", "crc_braf") == 2
    message = capsys.readouterr().err.strip()
    assert "make demo" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "No encoder given"),
        (["run", "--encoder", "uni"], "No task given"),
        (["run", "--encoder", "uni", "--task", "crc_braff"], "Did you mean 'crc_braf'"),
        (["run", "--encoder", "uni", "--task", "tcga_brca_survival"], "make demo"),
        (["run", "--encoder", "uni", "--task", "t", "--head", "logstic"], "logistic"),
        (["run", "--encoder", "uni", "--task", "t", "--shots", "1,x"], "--shots"),
    ],
)
def test_mistakes_exit_2_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(*arguments) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_run_report_and_resume_with_flags(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--table", str(study.table), "--features", str(study.features), "--out", "o"]
    assert run_main("run", "--encoder", "mine", "--task", "my_task", *given, *FAST) == 0
    assert "28 cells done" in capsys.readouterr().err
    assert run_main("run", "--encoder", "mine", "--task", "my_task", *given, *FAST) == 0
    assert "0 cells done, 28 finished before" in capsys.readouterr().err
    assert run_main("report", "o", "--json", "--no-plots") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["encoder"] for row in rows} == {"mine", "mine+random256"}


@pytest.mark.parametrize("name", ["responders", "my", "my.yaml"])
def test_paths_of_a_card_file_go_by_its_name_or_stem(
    study: Any, other_study: Any, name: str
) -> None:
    Path("my.yaml").write_text(
        "name: responders\nkind: classification\ntitle: t\ncohort: c\nclasses: [normal, tumor]\n"
    )
    given = ["--features", str(study.features), "--test-features", str(other_study.features)]
    given += ["--table", f"{name}={study.table}", "--test-table", f"{name}={other_study.table}"]
    given += ["--table", "another=missing.csv", "--no-controls", "--out", "o", "--device", "cpu"]
    assert run_main("run", "--encoder", "mine", "--task", "my.yaml", *given) == 0
    rows = [json.loads(line) for line in Path("o/results.jsonl").read_text().splitlines()]
    assert {(row["task"], row["n"]["test"]) for row in rows} == {("responders", 24)}


def test_the_name_in_a_card_goes_before_its_stem(study: Any, tmp_path: Path) -> None:
    card = "kind: classification\ntitle: t\ncohort: c\nclasses: [normal, tumor]\n"
    Path("a.yaml").write_text(f"name: b\n{card}")
    given = ["--features", str(study.features), "--no-controls", "--out", "o", *FAST]
    tables = ["--table", "a=missing.csv", "--table", f"b={study.table}"]
    assert run_main("run", "--encoder", "mine", "--task", "a.yaml", *given, *tables) == 0


def test_shards_together_make_the_whole(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--table", str(study.table), "--features", str(study.features), *FAST]
    for part in ("1/2", "2/2"):
        arguments = ["run", "--encoder", "mine", "--task", "t", *given]
        assert run_main(*arguments, "--out", "parts", "--shard", part) == 0
    assert run_main("run", "--encoder", "mine", "--task", "t", *given, "--out", "whole") == 0
    ids = [
        {json.loads(line)["run_id"] for line in Path(out, "results.jsonl").read_text().splitlines()}
        for out in ("parts", "whole")
    ]
    assert ids[0] == ids[1]


def test_memory_bounds_training_and_never_changes_the_numbers(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[int] = []
    real = trainer_module.Trainer.__init__

    def count(self: Any, members: Any, *args: Any, **rest: Any) -> None:
        stacks.append(len(members))
        real(self, members, *args, **rest)

    monkeypatch.setattr(trainer_module.Trainer, "__init__", count)
    given = ["--table", str(study.table), "--features", str(study.features), "--no-controls"]
    given += ["--shots", "2", "--draws", "6", "--device", "cpu", "--head", "abmil"]
    given += [
        "--set",
        "abmil.hidden=16",
        "--set",
        "abmil.attention=8",
        "--set",
        "abmil.min_steps=20",
        "--set",
        "abmil.epochs=2",
    ]
    found = {}
    for out, more in (("free", []), ("bound", ["--memory", "200kB"])):
        stacks.clear()
        arguments = ["run", "--encoder", "mine", "--task", "t", *given, *more]
        assert run_main(*arguments, "--out", out) == 0
        found[out] = (
            list(stacks),
            {
                row.run_id: read_predictions(Path(out), row.run_id).scores
                for row in ResultStore(Path(out)).rows()
            },
        )
    assert found["free"][0] == [6]
    assert len(found["bound"][0]) > 1
    assert sum(found["bound"][0]) == 6
    for run_id, scores in found["free"][1].items():
        assert np.allclose(found["bound"][1][run_id], scores, rtol=0, atol=1e-5)
    assert run_main(*arguments[:-1], "1kB", "--out", "none") == 2


def test_workspace_fills_in_everything(
    study: Any, half: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = study.table.read_text().replace("normal", "wildtype").replace("tumor", "mutant")
    (tmp_path / "braf.csv").write_text(table)
    (tmp_path / "spade-bench.yaml").write_text(
        "device: cpu\nout: results\n"
        f"encoders: {{half: {{weights: {weights.name}}}}}\n"
        "cohorts:\n  tcga_crc:\n    tables: {crc_braf: braf.csv}\n"
        f"    features: {{mine: {study.features.name}}}\n"
        "run: {shots: [1, 2], draws: 2, heads: [logistic]}\n"
    )
    assert run_main("run", "--encoder", "half", "--task", "crc_braf") == 0
    assert run_main("report") == 0
    text = capsys.readouterr().out
    assert "control:base" in text
    assert "half minus mine" in text
    assert (tmp_path / "results" / "plots" / "crc_braf-logistic.png").exists()
    rows = [json.loads(x) for x in (tmp_path / "results/results.jsonl").read_text().splitlines()]
    assert set(rows[0]["metrics"]) == {"auroc", "auprc", "balanced_accuracy"}
    assert run_main("run", "--encoder", "half", "--task", "crc_kras") == 2
    assert "crc_kras" in capsys.readouterr().err
