"""Workers as the jobs of an array of Slurm: sbatch submits, squeue follows, scancel stops them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from spade_bench import console
from spade_bench.errors import SystemFaultError, UserError
from spade_bench.executors.choosing import ExecutorSettings, check_sbatch
from spade_bench.executors.workunits import SCRIPT
from spade_bench.files import write_text

__all__ = ["SlurmJobs", "write_script"]

_PATIENCE = 60  # looks in a row that the controller may leave without an answer
_LAST_STEPS = 60  # seconds that cancelled jobs may take: KillWait of Slurm is 30 by default
_OVER = re.compile(r"invalid job id", re.IGNORECASE)


def write_script(folder: Path, units: Sequence[Path], settings: ExecutorSettings) -> Path:
    """Write the script of an array of jobs, one for each unit.

    Args:
        folder: Folder of the units.
        units: Their files, `unit-0001.json` and on.
        settings: Options of sbatch.

    Raises:
        UserError: When a path cannot be written so that sbatch reads it.
    """
    place, here = folder.resolve(), Path.cwd()
    check_sbatch(place, "--out")
    check_sbatch(here, "the working folder")
    options = {
        "job-name": "spade-bench",
        "array": f"1-{len(units)}",
        "output": str(place).replace("%", "%%") + "/slurm-%a.out",
        "chdir": str(here),
        **{name: "" if value is True else str(value) for name, value in settings.slurm.items()},
    }
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}={_quoted(value)}" if value else f"#SBATCH --{name}"
          for name, value in options.items()),
        "# Each job is a worker; what one does not do, others do. Submit it again to continue.",
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
        f'unit=$(printf "%s/unit-%04d.json" {shlex.quote(str(place))} "$SLURM_ARRAY_TASK_ID")',
        f'exec {shlex.quote(sys.executable)} -m spade_bench.unitworker "$unit" '
        '>>"${unit%.json}.log" 2>&1',
    ]  # fmt: skip
    path = folder / SCRIPT
    write_text(path, "\n".join(lines) + "\n")
    return path


def _quoted(value: str) -> str:
    """A value as sbatch reads it: it takes quotes, and ends at a space without."""
    return f'"{value}"' if re.search(r"\s", value) else value


class SlurmJobs:
    """Workers as the jobs of an array of Slurm.

    Args:
        settings: Options of sbatch.
        folder: Folder of the units.

    Raises:
        UserError: When there is no Slurm here.
    """

    interval = 5.0

    def __init__(self, settings: ExecutorSettings, folder: Path) -> None:
        if shutil.which("sbatch") is None:
            raise UserError(
                "there is no sbatch on this machine",
                where="--executor slurm",
                fix="Run it where jobs are submitted, or add --script and submit it there",
            )
        self._settings, self._folder = settings, folder
        self._script: Path | None = None
        self._jobs: dict[Path, str] = {}  # unit -> JOB_TASK
        self._silent = 0

    @property
    def said(self) -> str:
        """See `Executor`."""
        jobs = dict.fromkeys(name.partition("_")[0] for name in self._jobs.values())
        return f"Slurm job {', '.join(jobs)}" if jobs else ""

    def submit(self, units: Sequence[Path]) -> None:
        """See `Executor`.

        Raises:
            UserError: What sbatch answers.
        """
        if self._script is None:
            self._script = write_script(self._folder, units, self._settings)
        numbers = [int(unit.stem.rpartition("-")[2]) for unit in units]
        wanted = ",".join(map(str, numbers))
        done = _ask("sbatch", "--parsable", f"--array={wanted}", str(self._script))
        if done.returncode:
            raise UserError(
                f"sbatch refuses: {done.stderr.strip()}", where="--slurm", fix="Change the options"
            )
        job = done.stdout.strip().partition(";")[0]
        console.say(f"{len(units)} job(s) submitted to Slurm as {job}; {self._script}")
        for unit, number in zip(units, numbers, strict=True):
            self._jobs[unit] = f"{job}_{number}"

    def collect(self) -> Mapping[Path, str]:
        """See `Executor`.

        Raises:
            SystemFaultError: When the controller does not answer for minutes.
        """
        jobs = sorted({name.partition("_")[0] for name in self._jobs.values()})
        there: set[str] = set()
        for job in jobs:
            done = _ask("squeue", "--noheader", "--array", "--format=%i", f"--jobs={job}")
            if done.returncode and not _OVER.search(done.stderr):
                self._silent += 1
                if self._silent > _PATIENCE:
                    raise SystemFaultError(
                        f"squeue does not answer: {done.stderr.strip()}", where=f"job {job}",
                        fix="Run the same command again when Slurm does",
                    )  # fmt: skip
                return {}
            there |= set(done.stdout.split())
        self._silent = 0
        over = {unit: name for unit, name in self._jobs.items() if name not in there}
        for unit in over:
            del self._jobs[unit]
        return {unit: _state(name) for unit, name in over.items()}

    def cancel(self) -> None:
        """See `Executor`."""
        if self._jobs:
            jobs = sorted({name.partition("_")[0] for name in self._jobs.values()})
            _ask("scancel", *jobs)
            console.say(f"the {self.said} is cancelled")
            self._wait_for_the_end(jobs)
        self._jobs.clear()

    def _wait_for_the_end(self, jobs: Sequence[str]) -> None:
        """Wait until cancelled jobs are gone: until then they write to the folder of the units."""
        end = time.monotonic() + _LAST_STEPS
        while time.monotonic() < end:
            left = _ask("squeue", "--noheader", "--format=%i", f"--jobs={','.join(jobs)}")
            if not left.stdout.strip():
                return
            time.sleep(min(self.interval, 1.0))

    def close(self) -> None:
        """See `Executor`."""


def _state(name: str) -> str:
    """How a job ended, in Slurm's words."""
    shown = _ask("scontrol", "--oneliner", "show", "job", name)
    found = re.search(r"JobState=(\w+)", shown.stdout)
    if found is None and shutil.which("sacct"):  # the controller forgets jobs after minutes
        kept = _ask("sacct", "-X", "--noheader", "--parsable2", "--format=State", f"--jobs={name}")
        found = re.search(r"([A-Z_]+)", kept.stdout)
    return f"Slurm job {name}: {found[1] if found else 'gone'}"


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
