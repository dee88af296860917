"""What the user says of an encoder without a card reaches the contamination ledger."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from spade_bench.cli.main import main


def run_main(study: Any, *arguments: str) -> int:
    given = ["--table", str(study.table), "--features", str(study.features), "--out", "o"]
    fast = ["--shots", "4", "--draws", "1", "--no-controls"]
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--encoder", "mine", *given, *fast, *arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    name = f"responders-{uuid.uuid4().hex}"  # the registry of tasks lives as long as the process
    Path("my.yaml").write_text(
        f"name: {name}\nkind: classification\ntitle: t\ncohort: c\n"
        "classes: [normal, tumor]\nsources: [TCGA-COAD]\n"
    )
    return ["--plugin", "my.yaml", "--task", name]


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        ([], ["contamination:unknown"]),
        (["TCGA,CPTAC"], ["contamination:TCGA-COAD"]),
        (["mine=TCGA"], ["contamination:TCGA-COAD"]),
        (["CPTAC"], []),
        (["none"], []),
        (["TCGA", "mine=none"], []),
    ],
)
def test_a_declaration_decides_the_flag(
    said: list[str], flags: list[str], study: Any, card: list[str]
) -> None:
    options = [part for text in said for part in ("--pretrained-on", text)]
    assert run_main(study, *card, *options) == 0
    row = json.loads(Path("o/results.jsonl").read_text())
    assert [flag for flag in row["flags"] if flag.startswith("contamination")] == flags


@pytest.mark.parametrize(
    ("text", "said"),
    [("uni=TCGA", "the card of 'uni' says"), ("mien=TCGA", "'mien' is not among the encoders")],
)
def test_a_declaration_for_nobody_is_refused(
    text: str, said: str, study: Any, card: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(study, *card, "--pretrained-on", text) == 2
    assert said in capsys.readouterr().err
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("text", "meant"),
    [("TCGAA", "'TCGA'"), ("tcga", "'TCGA'"), ("TCGA", ""), ("TCGA-COAD", ""), ("our-own", "")],
)
def test_a_data_set_that_resembles_one_of_the_cards_is_said(
    text: str, meant: str, study: Any, card: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(study, *card, "--pretrained-on", text) == 0
    told = capsys.readouterr().err
    assert ("Did you mean" in told) == bool(meant)
    assert meant in told
