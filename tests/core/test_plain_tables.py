"""Tables in a pipe are printed without rich's layout engine, line for line as it prints them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from spade_bench import console

TABLES = {
    "plain": (["a", "bb"], [["x", "1"], ["", "long text"]]),
    "wide letters": (["ünï", "b"], [["漢字 x", "é"], ["y", "½ µm"]]),
    "no rows": (["only"], []),
    "markup": (["[b]"], [["[red]x[/red]"], ["a\\b"]]),
    "brackets": (["mean [95% interval]", "[]", "a [ b"], [["0.5 [0.4, 0.6]", "1", "[x]"]]),
    "too wide": (["a", "b"], [["word " * 60, "x"]]),
    "two lines": (["a"], [["x\ny"]]),
}


@pytest.mark.parametrize("name", TABLES)
def test_lines_are_those_of_rich(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    heads, cells = TABLES[name]
    console.table("", heads, cells)
    printed = capsys.readouterr().out
    screen = Console(file=io.StringIO(), width=200, highlight=False)
    screen.print(console._grid(heads, [list(map(console.printable, row)) for row in cells]))
    assert printed == screen.file.getvalue()  # type: ignore[attr-defined]


def test_brackets_that_are_no_markup_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_grid", lambda *_: pytest.fail("laid out by rich"))
    console.table("", *TABLES["brackets"])
