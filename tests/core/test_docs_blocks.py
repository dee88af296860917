"""Every block of the documentation says what it is, and every command in it is one.

Blocks of Python in docs/*.md are run by `tests/simulate/test_python_blocks.py`, tutorials by
`make docs`, plugins by `test_docs_plugins.py`. Commands are parsed here as the command line parses
them: names, options, arguments and choices.
"""

from __future__ import annotations

from itertools import dropwhile
from typing import Any

import pytest
import typer
from page_blocks import Block, blocks

from spade_bench.cli.main import _globals_first, app

LANGUAGES = {"bash", "python", "py", "yaml", "toml", "text", "json", ""}
OTHERS = {"cd", "find", "make", "pip", "python"}
BASH = [block for block in blocks() if block.language == "bash"]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name)
def test_a_block_is_of_a_known_language(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language == "py":  # what is no cell of a tutorial, and not run elsewhere
        assert block.reason


@pytest.mark.parametrize(
    "block", [b for b in blocks() if b.language in {"python", "py"}], ids=lambda b: b.name
)
def test_python_is_python(block: Block) -> None:
    compile(block.text, block.name, "exec")


def _parse(words: list[str]) -> None:
    """Parse a command as the command line would, without running it."""
    group: Any = typer.main.get_command(app)
    words = _globals_first(words)
    with group.make_context("spade-bench", list(words), resilient_parsing=False) as context:
        rest = [*context._protected_args, *context.args]
        name, command, arguments = group.resolve_command(context, rest)
        given = [word for word in arguments if word != "..."]
        assert name is not None
        command.make_context(name, given, parent=context).close()


@pytest.mark.parametrize("block", BASH, ids=lambda block: block.name)
def test_commands_are_commands(block: Block) -> None:
    for words in block.commands():
        program, *rest = dropwhile(lambda word: "=" in word, words)  # VARIABLE=value before it
        assert program in {"spade-bench", *OTHERS}, words
        if program == "spade-bench":
            _parse(rest)


@pytest.mark.parametrize(
    "words",
    ["run --encodr uni", "reprot runs/", "run --shots", "check decoder uni", "compare --draws 3"],
)
def test_what_is_no_command_is_noticed(words: str) -> None:
    with pytest.raises(
        Exception, match=r"(?i)no such|invalid|requires|missing|unexpected|not one of"
    ):
        _parse(words.split())
