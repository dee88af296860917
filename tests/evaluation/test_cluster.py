"""Ray and Slurm for real, on this machine: workers are killed, and the bits are the same."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_runs import assert_same, settings_of, written
from small_slurm import CannotStartError, SmallSlurm, small_slurm
from small_studies import Study, write_study

from spade_bench import evaluation, spreading
from spade_bench.errors import UserError
from spade_bench.evaluation.runcontext import LEASES
from spade_bench.executors import ExecutorSettings
from spade_bench.executors.raytasks import RayTasks
from spade_bench.executors.slurmjobs import SlurmJobs

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def plain(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one process."""
    out = tmp_path_factory.mktemp("plain")
    evaluation.run_settings(settings_of(study, out))
    return out


@pytest.fixture(scope="module")
def slurm() -> Iterator[SmallSlurm]:
    with contextlib.ExitStack() as stack:
        # Not below pytest's folder: the path of a socket has 108 bytes.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        try:
            running = stack.enter_context(small_slurm(Path(folder)))
        except CannotStartError as error:
            pytest.skip(f"Slurm cannot be started here: {error}")
        for name, value in running.environment.items():
            patch.setenv(name, value)
        patch.setattr(SlurmJobs, "interval", 0.5)
        yield running


def workers_of(out: Path) -> list[int]:
    """Process ids of the workers of a folder, whose units lie below it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"spade_bench.unitworker" in words and any(str(out).encode() in w for w in words):
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def killing(out: Path, victim: Any) -> Iterator[list[int]]:
    """Kill one process, once work has begun; the list names it."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not killed:
            if list(out.glob(f"{LEASES}/*.lease")):
                for pid in workers_of(out)[:1]:
                    killed.append(victim(pid))
                    os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found by /proc")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_ray_loses_a_worker_in_the_middle(study: Study, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with killing(out, parent_of) as killed:  # the process of Ray itself
        summary = spreading.run_spread(
            settings_of(study, out), None, ExecutorSettings("ray", workers=2)
        )
    assert killed
    assert summary.failed == 0
    assert_same(plain, out)
    assert set(written(out).values()) == {1}
    assert not (out / "jobs").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_ray_without_room_says_so(study: Study, tmp_path: Path) -> None:
    asked = ExecutorSettings("ray", workers=1, ray={"gpus": 64})
    with pytest.raises(UserError, match="no node has room for a worker"):
        spreading.run_spread(settings_of(study, tmp_path / "out"), None, asked)
    import ray

    ray.shutdown()


def test_slurm_loses_a_job_in_the_middle(
    study: Study,
    plain: Path,
    slurm: SmallSlurm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with killing(out, int) as killed:
        summary = spreading.run_spread(
            settings_of(study, out), None, ExecutorSettings("slurm", workers=2)
        )
    assert killed
    assert summary.failed == 0
    assert_same(plain, out)
    assert set(written(out).values()) == {1}
    assert "job(s) submitted to Slurm as" in capsys.readouterr().err


def test_slurm_jobs_that_run_out_of_time_are_submitted_again(
    study: Study, plain: Path, slurm: SmallSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both jobs are ended by the controller, as at the end of their time."""
    out, over = tmp_path / "out", threading.Event()

    def end() -> None:
        while not over.is_set():
            jobs = slurm.ask("squeue", "--noheader", "--states=RUNNING", "--format=%A").split()
            if jobs and list(out.glob("jobs/*/unit-*.status.json")):
                slurm.ask("scancel", *jobs)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        spreading.run_spread(settings_of(study, out), None, ExecutorSettings("slurm", workers=2))
    finally:
        over.set()
        thread.join()
    assert_same(plain, out)
    assert set(written(out).values()) == {1}
    assert "is started again" in capsys.readouterr().err


def test_what_sbatch_refuses_is_said(study: Study, slurm: SmallSlurm, tmp_path: Path) -> None:
    asked = ExecutorSettings("slurm", workers=1, slurm={"partition": "nowhere"})
    with pytest.raises(UserError, match=r"sbatch refuses.*invalid partition"):
        spreading.run_spread(settings_of(study, tmp_path / "out"), None, asked)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_nothing_is_left_of_an_interruption(
    name: str,
    study: Study,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers end before the command does: what they hold is free, and none writes any more."""
    if name == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    else:
        request.getfixturevalue("slurm")
    out = tmp_path / "out"

    def interrupt(self: object) -> dict[Path, str]:
        if list(out.glob(f"{LEASES}/*.lease")):
            raise KeyboardInterrupt
        return {}

    executor = SlurmJobs if name == "slurm" else RayTasks
    monkeypatch.setattr(executor, "collect", interrupt)
    settings = settings_of(study, out, set={"mean-mlp": {"min_steps": 50000}})
    with pytest.raises(KeyboardInterrupt):
        spreading.run_spread(settings, None, ExecutorSettings(name, workers=2))
    assert not workers_of(out)
    assert not list(out.glob(f"{LEASES}/*"))
    assert not (out / "jobs").exists()
