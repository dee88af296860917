"""Workers as tasks of Ray, on a cluster that is there or one that starts on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spade_bench.errors import SystemFaultError, UserError
from spade_bench.executors.choosing import ExecutorSettings, ray_resources
from spade_bench.executors.localprocesses import command_of, ended
from spade_bench.executors.workunits import log_of

__all__ = ["RayTasks", "ray_seats"]

_RETRIES = 3  # of a task whose worker or node dies, by Ray itself
_LOOK = 0.5  # seconds between two looks at a worker
_PATIENCE = 30.0  # seconds that a worker may take to stop, as long as Slurm lets it
# Of this process; those of the nodes are theirs.
_PASSED_ON = ("PYTHONPATH", "SPADE_BENCH_CACHE", "SPADE_BENCH_WORKSPACE", "HF_HUB_OFFLINE")


_started = {"here": False}  # whether this process is connected by this module


def _ray() -> Any:
    """The module.

    Raises:
        UserError: When it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "Ray is not installed",
            where="--executor ray",
            fix="Run pip install 'spade-bench[ray]', or use --executor local",
        ) from error
    return ray


def _connect(settings: ExecutorSettings) -> Any:
    """Ray, connected to its cluster.

    Raises:
        SystemFaultError: When the cluster does not answer.
    """
    ray = _ray()
    if not ray.is_initialized():
        address = settings.ray_address
        own: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
            _started["here"] = True
        except Exception as error:
            raise SystemFaultError(
                f"Ray does not start ({error})" if address is None else f"no answer ({error})",
                where="--ray-address" if address else "--executor ray",
                fix="See `ray status`",
            ) from error
    return ray


def ray_seats(settings: ExecutorSettings) -> int:
    """Return how many workers the cluster has room for at once, or how many are asked for.

    Raises:
        UserError: When it has no room for one, which would wait for ever.
    """
    ray, wanted = _connect(settings), ray_resources(settings.ray)
    there = ray.cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    fits = [int(there.get(names[n], 0) / amount) for n, amount in wanted.items() if amount]
    room = min(fits, default=1)
    if room < 1:
        has = ", ".join(f"{name} {there.get(name, 0):g}" for name in names.values())
        raise UserError(f"no node has room for a worker; the cluster has {has}", where="--ray",
                        fix="Ask for less")  # fmt: skip
    return settings.workers or room


def _run_unit(command: Sequence[str], log: str, environment: Mapping[str, str]) -> int:
    """Run a worker in a process of its own, so that tasks share nothing; its exit code."""
    with Path(log).open("ab") as file:
        process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **environment},
        )
        try:
            while True:  # Ray cancels a task between two steps of Python, and never inside a wait
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_LOOK)
        finally:
            process.terminate()  # the task was cancelled
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)


class RayTasks:
    """Workers as tasks of Ray, which starts them again where a worker or a node of it dies.

    Args:
        settings: The cluster, and what each worker gets.
    """

    interval = 0.5
    said = "on Ray"

    def __init__(self, settings: ExecutorSettings) -> None:
        self._ray = _connect(settings)
        asked = ray_resources(settings.ray)
        self._task = self._ray.remote(**asked, max_retries=_RETRIES)(_run_unit)
        self._running: dict[Any, Path] = {}
        self._environment = {n: os.environ[n] for n in _PASSED_ON if n in os.environ}
        cpus = int(asked["num_cpus"]) or 1
        self._environment["OMP_NUM_THREADS"] = str(cpus)

    def submit(self, units: Sequence[Path]) -> None:
        """See `Executor`."""
        for unit in units:
            given = command_of(unit), str(log_of(unit).resolve()), self._environment
            self._running[self._task.remote(*given)] = unit

    def collect(self) -> Mapping[Path, str]:
        """See `Executor`."""
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        over: dict[Path, str] = {}
        for task in ready:
            unit = self._running.pop(task)
            try:
                over[unit] = ended(self._ray.get(task))
            except Exception as error:  # its worker or node died too often, or could not begin
                over[unit] = " ".join(str(error).split())[:200]
        return over

    def cancel(self) -> None:
        """See `Executor`."""
        for task in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(task, force=False)
        with contextlib.suppress(Exception):
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_PATIENCE)
        self._running.clear()

    def close(self) -> None:
        """See `Executor`."""
        if _started["here"]:
            self._ray.shutdown()
            _started["here"] = False
