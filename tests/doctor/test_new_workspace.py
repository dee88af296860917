"""`init` writes a workspace that runs with what the user has."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from command_line import run_main

from spade_bench import workspace
from spade_bench.doctor.newworkspace import Belongings, write_workspace
from spade_bench.errors import DataError, PluginError, UserError


@pytest.fixture
def had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table, features and slides, as the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [f"c{i},s{i},{'ab'[i % 2]}" for i in range(12)]
    Path("cases.csv").write_text("\n".join(["case_id,slide_id,label", *rows]) + "\n")
    for name in ("features", "slides", "hest"):
        Path(name).mkdir()
    return tmp_path


@pytest.mark.parametrize("task", ["mine", "crc_braf", "yes", "my task: no. 1"])
@pytest.mark.parametrize("folder", [".", "study"])
def test_what_is_written_is_read_back(had: Path, task: str, folder: str) -> None:
    has = Belongings(task, Path("cases.csv"), Path("features"), "uni", Path("slides"))
    commands = write_workspace(Path(folder), has, example="")
    read = workspace.load(Path(folder) / workspace.FILE_NAME)
    assert read is not None
    (entry,) = read.cohorts.values()
    for named, meant in (
        (entry.tables[task], "cases.csv"),
        (entry.features["uni"], "features"),
        (entry.slides, "slides"),
    ):
        assert read.resolve(named).resolve() == had / meant
    assert commands[0].startswith("spade-bench run --encoder uni --task ")


def test_a_far_place_is_written_without_steps_back(had: Path) -> None:
    Path("a/b/study").mkdir(parents=True)
    has = Belongings("mine", Path("a/../cases.csv"), Path("features"), "uni")
    write_workspace(Path("a/b/study"), has, example="")
    written = Path("a/b/study", workspace.FILE_NAME).read_text()
    assert f"mine: {had / 'cases.csv'}" in written.replace('"', "")


def test_steps_back_from_a_linked_folder_lead_where_they_led(had: Path) -> None:
    Path("disk/study/sub").mkdir(parents=True)
    Path("disk/study/cases.csv").write_text(Path("cases.csv").read_text())
    Path("link").symlink_to(Path("disk/study/sub").absolute())
    has = Belongings("mine", Path("link/../cases.csv"), Path("features"), "uni")
    write_workspace(Path(), has, example="")
    (line,) = [one for one in Path(workspace.FILE_NAME).read_text().split("\n") if "mine: " in one]
    written = line.split("mine: ")[1].strip('"')
    assert Path(written).samefile("disk/study/cases.csv"), written


def test_sections_bring_spade(had: Path) -> None:
    has = Belongings("crc_braf", Path("cases.csv"), slides=Path("slides"), hest=Path("hest"))
    commands = write_workspace(Path(), has, example="")
    assert [command.split()[1] for command in commands] == ["extract", "pretrain", "run", "report"]
    assert "--encoder spade" in commands[2]
    read = workspace.load()
    assert read is not None
    assert read.encoders["spade"].weights == read.pretrain.out


def test_a_task_of_ones_own_runs_from_the_workspace_alone(had: Path) -> None:
    from spade_bench.evaluation.request import resolve_task

    write_workspace(
        Path(), Belongings("mine", Path("cases.csv"), Path("features"), "uni"), example=""
    )
    read = workspace.load()
    assert resolve_task("mine", None, read).table == Path("cases.csv")
    with pytest.raises(PluginError, match="mime"):
        resolve_task("mime", None, read)


@pytest.mark.parametrize(
    ("has", "error", "message"),
    [
        (Belongings(table=Path("cases.csv"), features=Path("features")), UserError, "go together"),
        (Belongings("mine", features=Path("features")), UserError, "go together"),
        (Belongings("mine", Path("cases.csv")), UserError, "--features or --slides"),
        (Belongings(features=Path("features")), UserError, "what made them"),
        (Belongings(features=Path("nowhere"), encoder="uni"), DataError, "nowhere"),
        (Belongings(slides=Path("slides"), encoder="unii"), PluginError, "'uni'"),
        (
            Belongings("mine", Path("no.csv"), Path("features"), "uni"),
            DataError,
            "no.csv",
        ),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_written(
    had: Path, has: Belongings, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_workspace(Path(), has, example="")
    assert not Path(workspace.FILE_NAME).exists()


def test_it_asks_in_a_terminal(
    had: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("features\n\n\ncases.csv\nmine\nuni\n"))
    assert run_main("init") == 0
    assert "spade-bench run --encoder uni --task mine" in capsys.readouterr().out
    read = workspace.load()
    assert read is not None
    assert read.cohorts["mine"].features == {"uni": Path("features")}


def test_without_a_terminal_it_writes_the_example(
    had: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run_main("init") == 0
    assert "edit its paths" in capsys.readouterr().out
