"""A picture is the same file, whichever process saves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from spade_bench.features.otherprocesses import OtherProcess
from spade_bench.report.drawing import savedbeside
from spade_bench.report.pictures import Drawn, Picture, draw_pictures, print_figure

FORMATS = ("png", "pdf")


def _pictures(count: int, mark: object = None) -> list[Picture]:
    def make(number: int) -> Drawn:
        figure = print_figure(85.0, 60.0)
        axes = figure.add_subplot()
        axes.plot([0, 1], [number, 2.5], label=f"line {number} of 50% & µm")
        axes.set_title("What it shows")
        figure.legend(loc="outside lower center")
        figure.spade_bench_mark = mark  # type: ignore[attr-defined]
        return Drawn(figure, [{"number": number}])

    return [Picture("line", ("line", str(i)), lambda i=i: make(i)) for i in range(count)]  # type: ignore[misc]


@pytest.fixture(params=[1, 2])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many processes, whatever the machine has."""
    monkeypatch.setattr(savedbeside, "processes_for", lambda _, __: request.param)
    return int(request.param)


def _drawn(folder: Path, *args: Any) -> dict[str, bytes]:
    draw_pictures(_pictures(*args), folder, FORMATS)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _alone(folder: Path, *args: Any) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(savedbeside, "processes_for", lambda _, __: 1)
        return _drawn(folder, *args)


def test_files_do_not_tell_which_process_saved_them(tmp_path: Path, processes: int) -> None:
    found = _drawn(tmp_path / "found", 3)
    assert len(found) == 3 * (len(FORMATS) + 1)
    assert found == _alone(tmp_path / "alone", 3)


def test_settings_of_a_notebook_reach_the_other_process(tmp_path: Path, processes: int) -> None:
    with mpl.rc_context({"savefig.facecolor": "yellow", "lines.linewidth": 9.0}):
        found = _drawn(tmp_path / "found", 3)
        alone = _alone(tmp_path / "alone", 3)
    assert found == alone
    assert found["line-0.png"] != _drawn(tmp_path / "plain", 1)["line-0.png"]


def test_what_cannot_be_sent_is_saved_here(tmp_path: Path, processes: int) -> None:
    found = _drawn(tmp_path / "found", 3, lambda: None)
    assert found == _alone(tmp_path / "alone", 3)


def test_a_process_that_dies_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(OtherProcess):
        def give(self, work: Any, jobs: Any) -> None:
            super().give(os._exit, [1])

    monkeypatch.setattr(savedbeside, "processes_for", lambda _, __: 2)
    monkeypatch.setattr(savedbeside, "OtherProcess", Dying)
    found = _drawn(tmp_path / "found", 3)
    assert found == _alone(tmp_path / "alone", 3)


def test_a_fault_of_the_disk_is_met_as_it_would_be_alone(tmp_path: Path, processes: int) -> None:
    folder = tmp_path / "found"
    (folder / "line-1.png").mkdir(parents=True)
    with pytest.raises(OSError, match=r"line-1\.png"):
        draw_pictures(_pictures(3), folder, FORMATS)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
