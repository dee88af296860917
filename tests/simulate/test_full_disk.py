"""A study that cannot be written ends in one line; nothing is left, and nothing crashes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spade_bench.errors import DataError
from spade_bench.simulate import simulate

# Files above this size fail to be written, as on a disk that is full.
_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from spade_bench.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("size", [0, 20_000, 300_000])
def test_a_full_disk_ends_in_one_line_and_exit_2(size: int, tmp_path: Path) -> None:
    code = _LIMITED.format(size=size)
    ended = subprocess.run(
        [sys.executable, "-c", code, "simulate", str(tmp_path / "study"), "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {tmp_path / 'study'}: cannot be written (")
    assert "Free some space" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"below: cannot be written .*choose a folder"):
        simulate(tmp_path / "file" / "below", 1)
