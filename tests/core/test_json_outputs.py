"""Every --json prints one object whose first key is its schema; --config means one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import request_of, run_main
from small_studies import write_study

from spade_bench.cli.main import app
from spade_bench.cli.options import config_help
from spade_bench.config import names_of
from spade_bench.evaluation import run
from spade_bench.evaluation.modelfitting import fit_model

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
PAGE = (ROOT / "docs" / "FORMATS.md").read_text(encoding="utf-8")
# `explain` needs slides with a model, which tests/explain has.
ELSEWHERE = {"explain": ROOT / "tests" / "explain" / "test_run_maps.py"}
ENVELOPE = 'assert answer["schema"] == "spade-bench/explain/1"'


def with_option(flag: str) -> list[str]:
    return sorted(
        name for name, command in COMMANDS.items() if any(flag in p.opts for p in command.params)
    )


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Arguments of each command with --json."""
    at = tmp_path_factory.mktemp("json")
    study = write_study(at / "study", 24)
    lines = study.table.read_text().splitlines()
    table = [lines[0] + ",site", *(f"{s},{'ab'[i // 2 % 2]}" for i, s in enumerate(lines[1:]))]
    (at / "sites.csv").write_text("\n".join(table) + "\n")
    runs = at / "runs"
    run(request_of(study, runs, heads=("logistic",), shots=(2,), draws=2))
    fit_model(request_of(study, at / "x", heads=("logistic",))).save(at / "model")
    features = study.features
    planted = study.table.read_text().replace("normal", "solid").replace("tumor", "glandular")
    (at / "planted.csv").write_text(planted)
    return {
        "list": ["heads"],
        "show": ["head", "logistic"],
        "doctor": ["efficientnet-lite0"],
        "check": ["head", "logistic"],
        "cohort": [],
        "validate": ["--task", "sim_subtype", "--table", at / "planted.csv",
                     "--features", features],
        "pack": ["--features", features, "--out", at / "f.pack"],
        "robustness": ["--encoder", "mine", "--table", at / "sites.csv", "--features", features,
                       "--out", at / "robust", "--no-controls"],
        "report": [runs],
        "compare": [runs, "--a", "mine", "--b", "mine+random256"],
        "cite": [runs],
        "merge": [runs, "--out", at / "merged"],
        "export": [runs, "--out", at / "r.zip", "--leaderboard", at / "board.json"],
        "import": [at / "r.zip", "--out", at / "imported"],
        "push": [at / "model", "--to", at / "pushed"],
        "pull": [at / "pushed", "--out", at / "pulled"],
    }  # fmt: skip


def test_no_command_is_forgotten(calls: dict[str, list[Any]]) -> None:
    assert {*calls, *ELSEWHERE} == set(with_option("--json"))
    assert all(ENVELOPE in file.read_text() for file in ELSEWHERE.values())


def test_each_prints_one_object_that_begins_with_its_schema(
    calls: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for command, arguments in calls.items():
        code = run_main(command, *arguments, "--json")
        shown = capsys.readouterr()
        assert code == 0, f"{command}: {shown.err}"
        content = json.loads(shown.out)
        assert next(iter(content)) == "schema", command
        name, kind, version = content["schema"].split("/")
        assert name == "spade-bench"
        assert version.isdigit()
        assert kind in {command, "recipes"}
        assert f"`{content['schema']}`" in PAGE


def test_config_means_one_thing(capsys: pytest.CaptureFixture[str]) -> None:
    ships = {"run": "reproduce", "pretrain": "pretrain"}
    assert set(with_option("--config")) == set(ships)
    for command, group in ships.items():
        (option,) = (p for p in COMMANDS[command].params if "--config" in p.opts)
        assert option.help == config_help(", ".join(names_of(group)))
        assert not option.multiple
        assert run_main(command, "--config", "nothing-of-that-name") == 2
        assert "config named 'nothing-of-that-name'" in capsys.readouterr().err
        assert run_main(command, "--config", "absent.yaml") == 2
        assert "absent.yaml" in capsys.readouterr().err
