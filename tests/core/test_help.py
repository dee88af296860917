"""Help that teaches: groups, examples that parse, and a first screen that says what to do."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from command_line import run_main

from spade_bench.cli.help.commandhelp import examples_of
from spade_bench.cli.help.helptexts import START, TEXTS
from spade_bench.cli.main import app

GROUP = typer.main.get_command(app)
COMMANDS = dict(GROUP.commands)  # type: ignore[attr-defined]
EXAMPLES = [(name, example) for name, text in TEXTS.items() for example in text.examples]


def parse(line: str) -> None:
    """Parse a command line without running it; what does not parse raises."""
    words = shlex.split(line.replace("\\\n", " "))
    assert words.pop(0) == "spade-bench"
    name = words.pop(0)
    plugin = words.index("--plugin") if "--plugin" in words else None
    if plugin is not None:  # of the program itself, taken behind the command too
        del words[plugin : plugin + 2]
    COMMANDS[name].make_context(name, words)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_command_has_a_text() -> None:
    assert set(TEXTS) == set(COMMANDS)
    for text in TEXTS.values():
        assert len(text.line) <= 62
        assert len(text.examples) >= 2
        assert not text.line.endswith(".")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_stands_in_one_group(name: str) -> None:
    flags = [p.opts[0] for p in COMMANDS[name].params if p.opts[0].startswith("-")]
    grouped = [flag for group in TEXTS[name].groups.values() for flag in group]
    assert len(grouped) == len(set(grouped))
    if len(flags) > 11:
        assert grouped, f"{name} has {len(flags)} options"
    if grouped:
        assert set(grouped) == set(flags)


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[e for _, e in EXAMPLES])
def test_examples_parse(name: str, example: str) -> None:
    assert example.split()[:2] == ["spade-bench", name]
    parse(example)
    assert shlex.split(" ".join(examples_of((example,))).replace("\\", "")) == example.split()


def test_a_wrong_example_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse("spade-bench run --encodr uni")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_shows_groups_and_examples(
    flag: str, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("run", flag) == 0
    shown = capsys.readouterr().out
    for title in TEXTS["run"].groups:
        assert f"\n{title}:\n" in shown
    assert "\nExamples:\n  spade-bench run" in shown
    assert "list[str]" not in shown
    assert "Every command also takes --plugin FILE" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_alone_it_says_what_to_do_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main() == 0
    shown = capsys.readouterr().out
    assert shown == START
    assert max(map(len, shown.splitlines())) <= 100
    lines = shown.replace("\\\n", " ").splitlines()
    found = [line[line.index("spade-bench ") :] for line in lines if "spade-bench " in line]
    for command in found[:5]:
        parse(command)


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(flag) == 0
    assert re.fullmatch(r"spade-bench [0-9.]+\n", capsys.readouterr().out)


def test_mistakes_lead_to_the_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("report", "--jsn") == 2
    assert "`spade-bench report --help`" in capsys.readouterr().err
    assert run_main("raport") == 2
    assert "`spade-bench --help`" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["encoder", "task", "head"])
def test_singular_and_plural_are_one(
    what: str, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("list", what) == 0
    one = capsys.readouterr()
    assert run_main("list", f"{what}s") == 0
    assert capsys.readouterr().out == one.out
    assert max(map(len, one.out.splitlines())) <= 80
    assert f"show {what} NAME" in one.err
    name = {"encoder": "uni", "task": "crc_braf", "head": "abmil"}[what]
    assert run_main("show", f"{what}s", name) == 0
    shown = capsys.readouterr().out
    assert run_main("show", what, name) == 0
    assert capsys.readouterr().out == shown
    assert run_main("show", name) == 0  # what it is need not be said
    assert capsys.readouterr().out == shown


def test_what_is_shown_of_an_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("show", "encoder", "uni") == 0
    shown = capsys.readouterr().out
    for line in (
        "licence: ",
        "gated: yes",
        "pretrained on: ",
        "get weights: accept the licence at",
    ):
        assert line in shown


def test_narrow_lists_break_no_name(wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    from spade_bench.registry import encoders, heads, tasks

    for kind, registry in (("encoders", encoders), ("heads", heads), ("tasks", tasks)):
        assert run_main("list", kind) == 0
        shown = capsys.readouterr().out
        assert all(f"│ {name} " in shown for name in registry.names())
