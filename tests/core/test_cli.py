"""The command line: help for every option, one clear line for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from spade_bench import config, workspace
from spade_bench.cli.init import TEMPLATE
from spade_bench.cli.main import app
from spade_bench.cli.options import parse_named_paths, parse_shard
from spade_bench.errors import ConfigError, UserError, WorkspaceError

CONTRACT = {
    "list", "show", "init", "simulate", "extract", "pretrain", "import-spade", "encode", "run",
    "report", "compare", "demo", "cohort", "validate", "doctor", "pack", "check", "fit", "predict",
}  # fmt: skip


def spade_bench(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spade_bench.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
    )


def commands() -> dict[str, object]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_all_commands_are_there() -> None:
    assert set(commands()) >= CONTRACT


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_every_option_has_a_help_text(name: str) -> None:
    command = commands()[name]
    assert command.help  # type: ignore[attr-defined]
    for parameter in command.params:  # type: ignore[attr-defined]
        if parameter.name not in {"help"}:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lsit"], "Did you mean 'list'"),
        (["list", "encodres"], "Did you mean 'encoders'"),
        (["show", "encoder", "unii"], "Did you mean 'uni'"),
        (["show", "unii"], "Did you mean 'uni'"),
        (["show", "tasks"], "`spade-bench list tasks` prints them all"),
        (["list", "--jsn"], "--jsn"),
        (["list", "--plugin", "nowhere.py"], "nowhere.py: no such plugin file"),
    ],
)
def test_mistakes_are_one_line_and_code_2(arguments: list[str], message: str) -> None:
    done = spade_bench(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["pretrain"], ["run", "--encoder", "spade", "--task", "crc_braf"]]
)
def test_without_workspace_and_flags_one_line_says_what_to_do(
    command: list[str], tmp_path: Path
) -> None:
    done = spade_bench(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "make demo" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = spade_bench("show", "encoder", "unii", "--debug", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_init_writes_a_workspace_that_loads(tmp_path: Path) -> None:
    done = spade_bench("init", str(tmp_path))
    assert done.returncode == 0, done.stderr
    loaded = workspace.load(tmp_path / workspace.FILE_NAME)
    assert loaded is not None
    assert loaded.encoders["spade"].weights == Path("spade")
    assert loaded.resolve(Path("x")) == tmp_path / "x"
    again = spade_bench("init", str(tmp_path))
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_every_key_of_the_template_is_commented() -> None:
    lines = TEMPLATE.splitlines()
    tops = [i for i, line in enumerate(lines) if line[:1].isalpha()]
    assert all(lines[i - 1].startswith("#") for i in tops)


def test_workspace_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert workspace.load() is None
    with pytest.raises(WorkspaceError, match="no such workspace"):
        workspace.load("x.yaml")
    Path("w.yaml").write_text("cohorst: {}\n")
    with pytest.raises(ConfigError, match="Did you mean 'cohorts'"):
        workspace.load("w.yaml")
    Path("w.yaml").write_text("cohorts: {tcga_crc: {tables: {crc_braf: a.csv}}}\n")
    loaded = workspace.load("w.yaml")
    assert loaded is not None
    with pytest.raises(WorkspaceError, match="Did you mean 'tcga_crc'"):
        loaded.cohort("tcga_crd")


def test_shards_and_named_paths() -> None:
    assert parse_shard(None) is None
    assert parse_shard("2/4") == (1, 4)
    for bad in ("0/4", "5/4", "a/b", "3"):
        with pytest.raises(UserError, match="i/n"):
            parse_shard(bad)
    assert parse_named_paths(["a=x/y", "z"], "--features") == ({"a": Path("x/y")}, Path("z"))
    with pytest.raises(UserError, match="two paths without a name"):
        parse_named_paths(["x", "y"], "--features")
    with pytest.raises(UserError, match="given twice"):
        parse_named_paths(["a=x", "a=y"], "--features")


def test_console_falls_back_to_plain_lines() -> None:
    code = (
        "from spade_bench import console\n"
        "console._PLAIN_INTERVAL = 0.0\n"
        "for _ in console.track(range(2), 'reading', unit='files'): pass\n"
        "console.table('t', ['a'], [[1], [None]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert "reading: 2/2 files in 0 s" in done.stderr
    assert "│ 1 │" in done.stdout
    assert "\x1b" not in done.stderr + done.stdout


def test_named_config_paths(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("seed: 3\n")
    assert config.named_config("pretrain", str(tmp_path / "x.yaml")) == {"seed": 3}


@pytest.mark.parametrize(
    "arguments",
    [
        *(["list", what] for what in ("encoders", "tasks", "heads")),
        *(["show", *what] for what in (("encoder", "uni"), ("task", "crc_braf"), ("head", "cox"))),
        ["doctor", "uni"],
        ["check", "head", "prototype"],
        ["cohort"],
    ],
    ids=" ".join,
)
def test_json_outputs_name_their_schema(arguments: list[str]) -> None:
    done = spade_bench(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    schema = json.loads(done.stdout)["schema"]
    assert re.fullmatch(r"spade-bench/[a-z]+/[0-9]+", schema)
