"""Without a GPU: the tests that want one, in a process where CUDA is pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pretence() -> dict[str, str]:
    """The environment in which CUDA can be pretended."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device, on which these tests run by themselves")
    data = os.environ.get("SPADE_BENCH_TEST_DATA")
    places = [Path(data).parent / "tools"] if data else []
    folder = next(
        (p for p in [*places, ROOT.parent / "shared" / "tools"] if (p / "pretend_cuda").is_dir()),
        None,
    )
    if folder is None:
        pytest.skip("no pretend_cuda beside the test data (docs/GPU.md)")
    path = os.pathsep.join([str(folder / "pretend_cuda"), str(ROOT), str(ROOT / "tests/helpers")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-c", "import pretend_cuda; print(pretend_cuda.why_not())"]
    answer = subprocess.run(asked, env=env, capture_output=True, text=True, check=False)
    if answer.returncode or answer.stdout.strip():
        pytest.skip(f"CUDA cannot be pretended: {(answer.stdout or answer.stderr).strip()[-300:]}")
    return env


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("test_counts.py", marks=pytest.mark.slow),
        "test_cpu_and_cuda_agree.py",
        pytest.param("test_commands.py", marks=pytest.mark.slow),
    ],
)
def test_the_tests_of_cuda_pass_where_it_is_pretended(
    module: str, pretence: dict[str, str]
) -> None:
    here = str(Path(__file__).with_name(module))
    plugin = ["-p", "pretend_cuda", "--pretend-cuda", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-m", "cuda", *plugin, here]
    run = subprocess.run(
        command, env=pretence, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout.splitlines()[-1], run.stdout[-3000:]
