"""Errors speak of keywords to those who call from Python, and of flags on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from command_line import run_main

import spade_bench as sb
from spade_bench.cli.main import app
from spade_bench.errors import DataError, UserError
from spade_bench.features.bags import write_features
from spade_bench.keywords import SWITCHES, command_line, in_keywords, says_keywords


@pytest.mark.parametrize(
    ("flags", "keywords"),
    [
        ("leave them out with --allow-missing", "leave them out with allow_missing=True"),
        ("Give --table CSV and --features DIR", "Give table=CSV and features=DIR"),
        ("leave controls out with --no-controls", "leave controls out with controls=False"),
        ("Did you mean --encoder uni? Or another", "Did you mean encoders='uni'? Or another"),
        ("Give --encoder NAME (`x list --json`)", "Give encoders=NAME (`x list --json`)"),
        ("--out", "out="),
        ("with --mpp 0.5", "with mpp=0.5"),
        ("Leave --positive out", "Leave positive= out"),
        ("give --event-value too", "give event_value= too"),
        ("Write --set abmil.lr=0.1", "Write set={'abmil.lr': 0.1}"),
        ("--weights spade=FOLDER", "weights={'spade': FOLDER}"),
        ("a file /tmp/a--b.csv", "a file /tmp/a--b.csv"),
        ("--genes to encode", "genes= to encode"),
    ],
)
def test_flags_become_keywords(flags: str, keywords: str) -> None:
    assert in_keywords(flags, ("encoders", "table")) == keywords


def test_every_flag_without_a_value_is_known() -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    flags = {p.opts[0][2:] for c in commands for p in c.params if getattr(p, "is_flag", False)}
    assert flags <= SWITCHES


def test_the_class_and_the_parts_of_an_error_stay() -> None:
    @says_keywords
    def verb(out: str) -> None:
        raise DataError("--out is a file", where="--out", fix="Give --out DIR")

    with pytest.raises(DataError) as said:
        verb("x")
    assert str(said.value) == "out=: out= is a file. Give out=DIR."
    assert said.value.fix == "Give out=DIR"
    with command_line(), pytest.raises(DataError, match="Give --out DIR"):
        verb("x")


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        if i:
            write_features(
                tmp_path / "f" / f"s{i}.h5", rng.normal(size=(3, 4)), slide_id=f"s{i}",
                encoder="mine",
            )  # fmt: skip
        rows.append({"case_id": f"c{i}", "slide_id": f"s{i}", "label": "ab"[i % 2]})
    return {"table": pd.DataFrame(rows), "features": tmp_path / "f", "out": tmp_path / "o"}


WRONG: dict[str, Any] = {
    "nothing to run": lambda given: sb.evaluate([], "t", **given),
    "no task": lambda given: sb.evaluate("mine", [], **given),
    "no table": lambda given: sb.evaluate("mine", "crc_braf", out=given["out"]),
    "no features": lambda given: sb.evaluate("mine", "t", table=given["table"], out=given["out"]),
    "missing slide": lambda given: sb.evaluate("mine", "t", **given),
    "another encoder": lambda given: sb.evaluate("uni", "t", **given),
    "unknown protocol": lambda given: sb.evaluate("mine", "t", protocol="loo", **given),
    "unknown heads to keep": lambda given: sb.evaluate("mine", "t", keep_heads="some", **given),
    "option of a protocol": lambda given: sb.evaluate("mine", "t", protocol="cv", shots=(1,),
                                                      **given),
    "no draws": lambda given: sb.evaluate("mine", "t", draws=0, **given),
    "two tables": lambda given: sb.evaluate("mine", ["t", "u"], **given),
    "unknown setting": lambda given: sb.evaluate("mine", "t", set={"nohead.x": 1}, **given),
    "no such class": lambda given: sb.evaluate("mine", "t", positive="c", **given),
    "fit": lambda given: sb.fit("mine", "t", table=given["table"], features=given["features"]),
    "head": lambda given: sb.fit(
        "mine", "t", head="cox", table=given["table"], features=given["features"]
    ),
    "model": lambda given: sb.explain("nowhere", "s.svs", features=given["features"]),
    "results": lambda given: sb.load_results(given["out"] / "nothing"),
    "pretrain": lambda given: sb.pretrain(out=given["out"]),
    "weights": lambda given: sb.load_encoder("spade"),
    "extract": lambda given: sb.extract(encoder="resnet50", patches=given["out"]),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_no_error_speaks_of_flags(wrong, given) -> None:
    with pytest.raises(UserError) as said:
        wrong(given)
    outside_commands = re.sub(r"`[^`]*`", "", str(said.value))
    assert not re.search(r"(?<![\\w-])--[a-z]", outside_commands)


def test_the_command_line_speaks_of_flags(given, tmp_path, capsys) -> None:
    given["table"].to_csv(tmp_path / "t.csv", index=False)
    arguments = ["--task", "t", "--table", tmp_path / "t.csv", "--features", given["features"]]
    assert run_main("fit", "--encoder", "mine", *arguments, "--out", tmp_path / "m") == 2
    assert "--allow-missing" in capsys.readouterr().err
    with pytest.raises(DataError, match="allow_missing=True"):
        sb.fit("mine", "t", table=given["table"], features=given["features"])
