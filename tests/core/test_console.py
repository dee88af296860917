"""Progress displays: bars on a terminal, lines elsewhere, one inside another."""

from __future__ import annotations

import pytest

from spade_bench import console


def test_lines_say_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.0)
    with console.progress("Running t", 4, "cells") as bar:
        bar.advance(1, "abmil")
    assert capsys.readouterr().err.startswith("Running t: 1/4 cells in 0 s, abmil")


def test_a_part_of_something_larger_has_no_closing_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 1e9)
    with console.progress("Running t", 1, "cells"):
        with console.progress("Training", 2, "steps") as inner:
            inner.advance(2)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err.startswith("Running t: 0/1 cells")


def test_a_bar_inside_another_is_shown_below_it_and_taken_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "fancy", lambda: True)
    with console.progress("Running t", 1, "cells") as outer:
        assert isinstance(outer, console._RichProgress)
        with console.progress("Training", 2, "steps") as inner:
            inner.advance(1)
            shown = [(task.description, task.completed) for task in outer._bars.tasks]
            assert shown == [("Running t", 0), ("Training", 1)]
        assert [task.description for task in outer._bars.tasks] == ["Running t"]
    assert console._open == []


def test_millions_have_no_exponent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.0)
    with console.progress("Counting", 12_500_000, "transcripts") as bar:
        bar.advance(2_500_000)
    assert "Counting: 2500000/12500000 transcripts" in capsys.readouterr().err


def test_a_count_that_was_said_is_not_said_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 30.0, 30.0, 30.0, 31.0, 31.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(console, "fancy", lambda: False)
    with console.progress("Mapping", 1, "cases") as bar:
        bar.advance()
    assert capsys.readouterr().err == "Mapping: 1/1 cases in 30 s\n"


def test_what_cannot_be_counted_says_how_long_it_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter((0.0, 3.0, 3.0))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with console.progress("Timing small fits"):
        pass
    assert capsys.readouterr().err == "Timing small fits: 3 s\n"
