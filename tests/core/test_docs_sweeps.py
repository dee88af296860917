"""The page on sweeps: its example is read, and it names every key and default."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from spade_bench.errors import ConfigError
from spade_bench.evaluation.settings import DEFAULTS, EvaluationSettings, read_settings
from spade_bench.registry import encoders, heads, tasks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "SWEEPS.md").read_text(encoding="utf-8")


def test_the_example_is_a_sweep_of_things_that_exist(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    settings = read_settings(path)
    assert {name.partition("=")[2] or name for name in settings.encoders} <= set(encoders.names())
    assert set(settings.tasks) <= set(tasks.names())
    assert set(settings.heads) <= set(heads.names())
    assert settings.tables["crc_braf"] == tmp_path / "tables" / "crc_braf.csv"
    assert settings.set["spade-hard"] == {"routing": "hard"}
    assert settings.resolved(None).draws == 20


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("encoders: [uni]\nshot: [1]\n")
    with pytest.raises(ConfigError, match="Did you mean 'shots'"):
        read_settings(path)


def test_the_table_names_every_key() -> None:
    keys = {key for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
            for key in re.findall(r"`(\w+)`", row)}  # fmt: skip
    assert keys == {field.name for field in dataclasses.fields(EvaluationSettings)}


def test_defaults_are_as_the_table_says() -> None:
    assert (DEFAULTS.shots[0], DEFAULTS.shots[-1], DEFAULTS.draws) == (1, 32, 10)
    assert (DEFAULTS.folds, DEFAULTS.repeats, DEFAULTS.seed) == (5, 1, 0)
    assert (DEFAULTS.keep_heads, DEFAULTS.cache, DEFAULTS.match_ids) == (
        "folds",
        "digests",
        "exact",
    )


def test_the_sweep_of_the_paper_ships_and_has_its_twenty_tasks() -> None:
    settings = read_settings(Path("spade"))
    assert len(settings.tasks) == len(set(settings.tasks)) == 20
    kinds = [tasks.get(name).card.kind for name in settings.tasks]
    assert [kinds.count(kind) for kind in ("classification", "biomarker", "survival")] == [8, 6, 6]
    for head in settings.heads:
        assert head in heads.names()
    served = {kind for head in settings.heads for kind in heads.get(head).card.kinds}
    assert {"classification", "survival"} <= served
    with pytest.raises(ConfigError, match="Did you mean 'spade'"):
        read_settings(Path("spada"))
