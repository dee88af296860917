"""Blocks of Python in the documentation, and the commands of the README, run in a demo's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import run_main
from page_blocks import ROOT, blocks
from toy_sections import write_bundle, write_visium_hd

pytestmark = pytest.mark.slow

PLUGINS = ROOT / "docs" / "PLUGINS.md"  # whose files `spade-bench check` runs
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block.text, id=block.name)
    for block in blocks([page for page in PAGES if page != PLUGINS])
    if block.language == "python" and not block.reason
]


@pytest.fixture(scope="module")
def demo_folder(
    study: tuple[Path, dict[str, Any]],
    chain: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """`data`, `features` and `spade`, as `make demo` leaves them, and what instruments write."""
    folder = tmp_path_factory.mktemp("demo")
    for name, target in (("data", study[0]), ("features", chain[0]), ("spade", chain[1])):
        (folder / name).symlink_to(target, target_is_directory=True)
    write_visium_hd(folder)
    write_bundle(folder / "bundle")
    return folder


@pytest.mark.parametrize("text", BLOCKS)
def test_a_block_of_the_documentation_runs(text: str, demo_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", text],
        cwd=demo_folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_commands_of_the_readme_run(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo_folder)
    shown = [b for b in blocks([ROOT / "README.md"]) if b.language == "bash" and not b.reason]
    commands = [words for block in shown for words in block.commands()]
    assert len(commands) > 4
    for program, *words in commands:
        assert program == "spade-bench"
        assert run_main(*words) == 0, (words, capsys.readouterr().err[-2000:])
    assert Path("my-report.html").stat().st_size > 10_000
    assert "permuted labels" in capsys.readouterr().out


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
