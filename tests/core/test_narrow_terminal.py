"""What is left of bars and tables on a narrow terminal."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from spade_bench import console


def _bar(width: int, description: str, total: float, done: float, unit: str, note: str) -> str:
    out = io.StringIO()
    screen = Console(file=out, width=width, force_terminal=True, color_system=None)
    bars = console.rich_bars(screen)
    task = bars.add_task(description, total=total, unit=unit, note=note)
    with bars:
        for _ in range(5):
            bars.update(task, advance=done / 5)
            time.sleep(0.02)
    return [line for line in re.sub(r"\x1b\[[0-9;?]*\w", "", out.getvalue()).splitlines() if line][
        -1
    ].strip("\r")


@pytest.mark.parametrize(
    ("description", "unit"),
    [
        ("Extracting efficientnet-lite0", "patches"),
        ("training experts", "steps"),
        ("Training patch-transformer (160 models)", "steps"),
    ],
)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_keeps_count_rate_and_time_left(description: str, unit: str, width: int) -> None:
    note = "(12/84 slides, TCGA-XX-0000-01Z-00-DX1, and a long name behind it)"
    line = _bar(width, description, 123456, 61728, unit, note)
    assert cell_len(line) <= width
    assert f"61728/123456 {unit}" in line
    assert re.search(r"\d+/s", line)
    assert re.search(r"\d:\d\d left", line)
    assert description[:5] in line


def test_a_total_can_be_corrected_on_the_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.0)
    with console.progress("Extracting e", None, "patches") as bar:
        bar.advance(3)
        bar.expect(8)
        bar.advance(1)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Extracting e: 3 patches in")
    assert said[1].startswith("Extracting e: 4/8 patches in")
    monkeypatch.setattr(console, "fancy", lambda: True)
    with console.progress("Extracting e", None, "patches") as bar:
        assert isinstance(bar, console._RichProgress)
        bar.expect(8)
        assert [task.total for task in bar._bars.tasks] == [8]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_wide_table_becomes_several_and_breaks_no_number(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["encoder", *(f"k={k}" for k in range(8))]
    rows = [[f"encoder-{i}", *(f"0.{i}{k}0 [0.{i}{k}1, 0.{i}{k}9]" for k in range(8))]
            for i in range(3)]  # fmt: skip
    console.table("", columns, rows, keys=1)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert all(text.count(cell) == 1 for row in rows for cell in row[1:])
    assert all(text.count(name) == 1 for name in columns[1:])
    assert text.count("encoder-0") == text.count("┏")


def test_paragraphs_fold_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = "word " * 60
    console.paragraph(text)
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setenv("COLUMNS", "80")
    console.paragraph(text, indent=4)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == text.strip()
    assert all(line.startswith("    ") for line in lines[1:])
