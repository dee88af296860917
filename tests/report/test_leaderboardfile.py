"""The file for leaderboards: as its schema says, the same numbers as the report, no cases."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from command_line import request_of, run_main
from small_studies import write_study

import spade_bench as sb
from spade_bench.errors import UserError
from spade_bench.evaluation import run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "FORMATS.md"


def schema() -> dict[str, Any]:
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found = [json.loads(text) for text in blocks if "spade-bench/leaderboard/1" in text]
    assert len(found) == 1
    return dict(found[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboard")
    study = write_study(folder / "study", 30)
    run(request_of(study, folder / "runs", heads=("logistic",), shots=(2, 4), draws=3))
    return folder / "runs"


def test_it_is_what_the_page_says_and_what_the_report_says(runs: Path, tmp_path: Path) -> None:
    made = sb.export_leaderboard(runs, out=tmp_path / "board.json")
    text = (tmp_path / "board.json").read_text()
    content = json.loads(text)
    jsonschema.validate(content, schema())
    assert made.rows == len(content["rows"])
    reported = sb.load_results(runs).leaderboard("all")
    key = ["encoder", "task", "head", "k_shot", "metric", "control"]
    wanted = {tuple(row[key]): row for _, row in reported.iterrows() if row["n_draws"]}
    assert len(content["rows"]) == len(wanted)
    for row in content["rows"]:
        same = wanted[tuple(row[name] for name in key)]
        assert row["mean"] == pytest.approx(same["mean"], nan_ok=True)
        assert row["flags"] == same["flags"]
        assert row["seeds"] == [0]
        assert all(len(row["hashes"][name]) == 1 for name in ("cohort", "task", "head"))
    by_shot = {row["k_shot"]: row["hashes"]["episodes"] for row in content["rows"]}
    assert len(set(by_shot.values())) == len(by_shot) == 2  # one for all encoders at a shot
    assert all(row["hashes"]["episodes"] == by_shot[row["k_shot"]] for row in content["rows"])
    assert {"encoder", "head", "task"} <= {one["kind"] for one in content["used"]}
    assert "case0" not in text
    assert str(tmp_path.parent) not in text


def test_the_schema_refuses_what_is_not_one(runs: Path, tmp_path: Path) -> None:
    sb.export_leaderboard(runs, out=tmp_path / "board.json")
    content = json.loads((tmp_path / "board.json").read_text())
    for wrong in (
        {**content, "schema": "spade-bench/leaderboard/2"},
        {**content, "rows": []},
        {**content, "rows": [{**content["rows"][0], "seeds": "0"}]},
        {**content, "rows": [{k: v for k, v in content["rows"][0].items() if k != "hashes"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema())


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = tmp_path / "board.json"
    assert run_main("export", runs, "--leaderboard", board, "--json") == 0
    assert json.loads(capsys.readouterr().out)["leaderboard"] == str(board)
    assert run_main("export", runs) == 2
    assert "--leaderboard" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        sb.export_leaderboard(tmp_path / "empty", out=board)
