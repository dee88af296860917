"""Text, names and YAML of strangers: never a path, never a terminal command, never a memory hog."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from command_line import run_main

from spade_bench import console
from spade_bench.config import load_yaml, parse_set, read_yaml
from spade_bench.errors import ConfigError, DataError, UserError, machine_fault, printable
from spade_bench.escaping import csv_cell, markdown_cell
from spade_bench.features.bags import features_folder
from spade_bench.features.slidevectors import slide_vector_path
from spade_bench.files import (
    atomic_dir,
    atomic_path,
    file_name,
    read_sealed,
    remove_leftovers,
    write_json,
    write_sealed,
)
from spade_bench.results.predictionstore import predictions_path

NAMES = [
    *("../../x", "/abs", "x/../y", "..", ".", "", "C:\\x", "a" * 300, "é" * 200, "a\nb"),
    *("a\x1b[2J", "\x00", "con", "NUL.txt", ".hidden", "ends.", "ends ", "a\u202eb", "\ud800"),
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leaves_its_folder(name: str, tmp_path: Path) -> None:
    made = file_name(name)
    path = tmp_path / f"{made}.csv"
    path.write_text("x", encoding="utf-8")
    assert path.resolve().parent == tmp_path.resolve()
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{made}.csv"]
    assert len(made.encode()) <= 200
    assert not made.startswith(".")
    assert made == printable(made)


def test_a_warning_of_a_library_does_not_steer_the_terminal(monkeypatch) -> None:
    """Matplotlib quotes a letter that its fonts lack, which may be a control character."""
    said: list[str] = []

    def command(*_: object, **__: object) -> int:
        said.append(warnings.formatwarning("Glyph \x1b[31m missing", UserWarning, "a.py", 1))
        return 0

    plain = warnings.formatwarning
    monkeypatch.setattr("spade_bench.cli.main._parser", lambda: command)
    assert run_main("list", "heads") == 0
    assert r"\x1b[31m" in said[0]
    assert "\x1b" not in said[0]
    assert warnings.formatwarning is plain


def test_different_names_get_different_files_and_ordinary_ones_stay() -> None:
    assert len({file_name(name) for name in NAMES}) == len(NAMES)
    for name in ("crc_braf", "TCGA-A6-2671-01Z", "hf:owner-x"[3:], "été 2", "a.b", "k=4"):
        assert file_name(name) == name


@pytest.mark.parametrize("text", ["\x1b]0;x\x07", "a\x9bb", "a\rb", "\u202eevil", "\ud800"])
def test_control_characters_never_reach_the_terminal(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.say(text)
    console.emit(text)
    console.table(text, [text], [[text]])
    shown = "".join(capsys.readouterr())
    assert text not in shown
    assert not any(char in shown for char in "\x1b\x07\x9b\r\u202e\ud800")
    assert text not in str(UserError(f"bad {text}", where=text))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "stand for more than"),
        ("[" * 3000 + "]" * 3000, "nested deeper"),
        ("a: &a [*a]", "contains itself"),
        ("x:\n  a: 1\n  a: 2", "is given twice"),
        ("a: 1\nb: 2\na: 1", r"lines 1 and 3"),
    ],
)
def test_yaml_that_grows_or_contradicts_itself_is_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")  # no such module on Windows
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=said):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=said):
        parse_set([f"key={text}"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("value", ["2020-13-45", "1" * 5000, "!!int x", "!!float x"], ids=len)
def test_a_value_that_yaml_cannot_make_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {value}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x\.yaml: a value cannot be read"):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="--set: a value cannot be read"):
        parse_set([f"a={value}"])


def test_ordinary_aliases_and_merges_still_work() -> None:
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: [*b, *b]"
    assert load_yaml(text, "f")["one"] == {"x": 1, "y": 3}


def test_a_sealed_file_says_when_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"x": (1, 0.1), "y": {"z": None}})
    assert read_sealed(path) == {"x": [1, 0.1], "y": {"z": None}}
    path.write_text(path.read_text(encoding="utf-8").replace("0.1", "0.2"), encoding="utf-8")
    with pytest.raises(DataError, match="damaged or edited"):
        read_sealed(path)
    write_json(path, {"x": 1})  # of an older version
    assert read_sealed(path) == {"x": 1}


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom spade_bench.files import atomic_path, atomic_dir\n"
        f"with atomic_path({str(tmp_path / 'a.h5')!r}) as p, atomic_dir({str(tmp_path / 'd')!r}):\n"
        "    p.write_text('half'); os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".mine.tmp").write_text("a user's own", encoding="utf-8")
    with atomic_path(tmp_path / "b.txt") as alive:
        alive.write_text("x", encoding="utf-8")
        remove_leftovers(tmp_path)
        assert alive.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.tmp", "b.txt"]


def test_long_names_are_written_and_content_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle)))
    with atomic_path(tmp_path / ("a" * 250 + ".txt")) as path:
        path.write_text("x", encoding="utf-8")
        assert not synced
    assert len(synced) == 2  # the file before its rename, the folder after
    with atomic_dir(tmp_path / "folder") as folder:
        (folder / "x").write_text("x", encoding="utf-8")
    assert len(synced) == 4


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x", "/data/out.h5"), "/data/out.h5: the disk is full"),
        (PermissionError(errno.EACCES, "x", "/root"), "/root: permission denied"),
        (OSError(errno.EROFS, "x"), "read-only"),
        (FileExistsError(errno.EEXIST, "x", "/out"), "/out: a file is where a folder is needed"),
        (OSError(errno.ENAMETOOLONG, "x", "a"), "too long"),
        (OSError("Unable to create file (name = '/x/y.h5', errno = 28, error message = 'No')"),
         "/x/y.h5: the disk is full"),
        (MemoryError(), "Out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                      "allocate memory: you tried to allocate 4 bytes. Error code 12 (Cannot "
                      "allocate memory)"), "Out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "The GPU is out of"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), "The GPU is out of"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
         "The GPU is out of memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "The GPU is out"),
    ],
)  # fmt: skip
def test_what_a_machine_refuses_is_said_in_words(error: Exception, said: str) -> None:
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("a library's own words") from inner
    except RuntimeError as wrapped:
        fault = machine_fault(wrapped)
    assert fault is not None
    assert said in str(fault)
    assert str(fault).endswith(".")
    assert machine_fault(ValueError("a bug")) is None


@pytest.mark.parametrize("fix", ["Do it", "Do it.", "Did you mean 'x'?", "Do it. "])
def test_a_message_ends_in_one_stop(fix: str) -> None:
    text = str(UserError("wrong.", fix=fix))
    assert text.startswith("Wrong. D")
    assert text.endswith(("it.", "'x'?"))


@pytest.mark.parametrize("text", ["=1+1", "+cmd|'/c calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_never_runs_a_cell(text: str) -> None:
    assert csv_cell(text).startswith(("'", " "))
    assert csv_cell(text).endswith(text.strip())
    for number in ("-0.5", "+1e-3", "0", -0.25, 3):
        assert csv_cell(number) == str(number)
    assert csv_cell(None) == ""


def test_markdown_cells_end_where_they_should() -> None:
    cell = markdown_cell("a|b\nc <script>x</script> [l](u) `q`")
    assert cell == "a\\|b c &lt;script>x&lt;/script> \\[l\\](u) \\`q\\`"


@pytest.mark.parametrize("name", ["../../x", "/abs", "..", "x/../y", "n" * 400])
def test_stored_names_never_become_paths(name: str, tmp_path: Path) -> None:
    out = (tmp_path / "out").resolve()
    for path in (
        predictions_path(out, name),
        features_folder(out, name, 0.5, 224),
        slide_vector_path(out, name, name),
    ):
        assert out in path.resolve().parents
        assert all(len(part.encode()) <= 255 for part in path.parts)
