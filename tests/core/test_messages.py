"""Errors and help texts are sentences."""

from __future__ import annotations

import pytest
import typer

from spade_bench.cli.main import app
from spade_bench.errors import DataError, UserError


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("the disk is full", "The disk is full."),
        ("no task given", "No task given."),
        ("nobody's table", "Nobody's table."),
        # Names, paths, options, numbers and code keep their spelling.
        ("results.jsonl is damaged", "results.jsonl is damaged."),
        ("efficientnet-lite0 is not here", "efficientnet-lite0 is not here."),
        ("case_id is missing", "case_id is missing."),
        ("--out is missing", "--out is missing."),
        ("3 slides are missing", "3 slides are missing."),
        ("'x' is unknown", "'x' is unknown."),
        ("", "."),
    ],
)
def test_a_message_begins_with_a_capital_letter(what: str, said: str) -> None:
    assert str(UserError(what)) == said


def test_a_message_with_a_place_begins_with_the_place() -> None:
    error = DataError("no column 'label'", where="t.csv", fix="rename the column")
    assert str(error) == "t.csv: no column 'label'. Rename the column."
    assert error.clause == "no column 'label'; rename the column"


def test_a_list_gives_errors_without_a_place_its_own() -> None:
    small = DataError("is too small", fix="Leave it out")
    assert small.at("s1") == "s1: is too small. Leave it out."
    assert DataError("is too small", where="s2").at("s1") == "s2: is too small."


def commands() -> dict[str, object]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(commands()))
def test_a_command_is_described_in_a_sentence(name: str) -> None:
    text = str(commands()[name].help).split("\n\n")[0].strip()  # type: ignore[attr-defined]
    assert text[0].isupper()
    assert text.endswith(".")


@pytest.mark.parametrize("name", sorted(commands()))
def test_options_are_described_in_sentences(name: str) -> None:
    for parameter in commands()[name].params:  # type: ignore[attr-defined]
        text = str(getattr(parameter, "help", None) or "")
        if text:
            assert text.endswith("."), f"{name} {parameter.name}: {text}"
