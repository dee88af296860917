"""A Slurm of one node on the loopback, started for a test as an ordinary process and stopped again.

Its configuration, state, keys, sockets and ports are its own: nothing of the system's is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")


class CannotStartError(RuntimeError):
    """Why there can be no Slurm here."""


@dataclass
class SmallSlurm:
    """A running Slurm.

    Attributes:
        folder: Its files.
        environment: What the environment of its commands says.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True,
            check=False, timeout=30,
        )  # fmt: skip
        return done.stdout + done.stderr

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs.

        Raises:
            CannotStartError: With what they say.
        """
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise CannotStartError(
                f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
            )
        if sys.platform != "linux" or os.getuid() != 0:
            raise CannotStartError("slurmd needs Linux and root")
        self._write()
        key, munge = self.folder / "munge.key", str(self.folder / "munge.socket")
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}",
                     f"--socket={munge}", f"--pid-file={self.folder / 'munge.pid'}",
                     f"--log-file={self.folder / 'munged.log'}",
                     f"--seed-file={self.folder / 'munge.seed'}")  # fmt: skip
        self._until("munged", lambda: Path(munge).exists())
        conf = str(self.folder / "slurm.conf")
        self._daemon("slurmctld", "-D", "-c", "-f", conf)
        self._daemon("slurmd", "-D", "-f", conf)
        self._until("slurmd", lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"))

    def stop(self) -> None:
        """Stop the daemons, the last one first."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        for name in ("state", "spool"):
            (self.folder / name).mkdir(exist_ok=True)
        host, cpus = socket.gethostname().split(".")[0], os.cpu_count() or 1
        controller, node = _free_port(), _free_port()
        lines = {
            "ClusterName": "small",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": "root",
            "SlurmctldPort": controller,
            "SlurmdPort": node,
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.folder / 'munge.socket'}",
            "CredType": "cred/munge",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "slurmd.pid",
            "SlurmctldLogFile": self.folder / "slurmctld.log",
            "SlurmdLogFile": self.folder / "slurmd.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "SchedulerParameters": "sched_interval=1,batch_sched_delay=0",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "MpiDefault": "none",
            "SwitchType": "switch/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "KillWait": 3,
            "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={max(cpus, 4)} RealMemory=4000 "
                        "State=UNKNOWN",
            "PartitionName": f"quick Nodes={host} Default=YES MaxTime=INFINITE State=UP "
                             "OverSubscribe=FORCE:4",
        }  # fmt: skip
        text = "\n".join(f"{name}={value}" for name, value in lines.items())
        (self.folder / "slurm.conf").write_text(f"{text}\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env={**os.environ, **self.environment},
                )
            )  # fmt: skip

    def _until(self, name: str, there: object, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not there():  # type: ignore[operator]
            if self._daemons[-1].poll() is not None or time.monotonic() > end:
                said = [path.read_text(errors="replace")[-1500:]
                        for path in sorted(self.folder.glob("*.out")) + sorted(
                            self.folder.glob("slurm*.log"))]  # fmt: skip
                raise CannotStartError(f"{name} does not start: {' '.join(' '.join(said).split())}")
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def small_slurm(folder: Path) -> Iterator[SmallSlurm]:
    """Run a Slurm of one node while the block lasts.

    Raises:
        CannotStartError: When it cannot be started here.
    """
    slurm = SmallSlurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
