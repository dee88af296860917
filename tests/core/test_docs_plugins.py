"""The plugins of docs/PLUGINS.md are short, and `spade-bench check` passes every one of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_blocks import ROOT, blocks

PAGE = blocks([ROOT / "docs" / "PLUGINS.md"])
FILES = {
    found[1]: block.text
    for block in PAGE
    if (found := re.match(r"# (my_\w+\.(?:py|yaml))\n", block.text))
}
CHECKS = [
    words[1:]
    for block in PAGE
    if block.language == "bash"
    for words in block.commands()
    if words[:2] in (["spade-bench", "check"], ["spade-bench", "show"])
]
# One process for all: importing takes longer than checking.
SCRIPT = """
import contextlib, io, json, sys
from spade_bench.cli.main import main
codes = []
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        codes.append(ended.code)
print(json.dumps(codes))
"""


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_plugin_is_short(name: str) -> None:
    assert len(FILES[name].splitlines()) < 40


def test_every_kind_is_there_and_passes(tmp_path: Path) -> None:
    assert sorted(FILES) == [
        "my_control.py", "my_encoder.py", "my_head.py", "my_pool.py", "my_task.yaml"
    ]  # fmt: skip
    assert {Path(words[-1]).name for words in CHECKS} == set(FILES)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(CHECKS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [0] * len(CHECKS), done.stdout[-3000:]
