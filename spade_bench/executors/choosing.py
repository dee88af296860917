"""Which executor, how many workers, and what each of them gets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spade_bench import config
from spade_bench.errors import ConfigError, UserError
from spade_bench.registry import suggest

__all__ = ["EXECUTORS", "ExecutorSettings", "cards", "check_sbatch", "cores",
           "executor_settings", "ray_resources"]  # fmt: skip

EXECUTORS = ("local", "ray", "slurm")
_MOST_BY_DEFAULT = 8  # processes on the cores of a machine
_MOST = 10_000  # workers
_MOST_PER_CORE = 64  # processes; a machine that has more to do than that does nothing
_RAY = ("gpus", "cpus", "memory")
_SMALLEST = 1e-4  # share of a card or core that Ray tells from none
_OURS = ("array", "chdir", "error", "job-name", "output", "parsable", "wrap")
"""Options of sbatch that are said by this program."""


@dataclass(frozen=True)
class ExecutorSettings:
    """Where a command runs.

    Attributes:
        name: `local`, `ray` or `slurm`.
        workers: How many; None leaves it to the machine.
        gpus: Numbers of the cards of this machine, each for one worker, or `all`.
        ray_address: Address of a Ray cluster; None starts one on this machine.
        ray: What a worker gets from Ray: `gpus`, `cpus`, `memory`.
        slurm: Options of sbatch, such as `partition`, `gpus`, `time`.
        script: Only write the script for sbatch.
    """

    name: str = "local"
    workers: int | None = None
    gpus: str | None = None
    ray_address: str | None = None
    ray: Mapping[str, Any] = field(default_factory=dict)
    slurm: Mapping[str, Any] = field(default_factory=dict)
    script: bool = False

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            UserError: Naming the option.
        """
        if self.name not in EXECUTORS:
            near = suggest(self.name, EXECUTORS)
            raise UserError(
                f"there is no executor '{self.name}'",
                where="--executor",
                fix=f"Did you mean {near}?" if near else f"Use {', '.join(EXECUTORS)}",
            )
        owners = {"gpus": "local", "ray_address": "ray", "ray": "ray", "slurm": "slurm",
                  "script": "slurm"}  # fmt: skip
        for option, owner in owners.items():
            if getattr(self, option) and owner != self.name:
                flag = option.replace("_", "-")
                raise UserError(
                    f"--{flag} is an option of --executor {owner}, not of {self.name}",
                    fix="Leave out one of the two",
                )
        if self.workers is not None:
            _check_workers(
                self.workers, _MOST_PER_CORE * cores() if self.name == "local" else _MOST
            )
        if self.name == "slurm" and self.workers is None:
            raise UserError(
                "it is not said how many jobs to submit", fix="Add --workers N, such as 40"
            )
        _check_names(self.ray, _RAY, "--ray")
        ray_resources(self.ray)
        for option, value in self.slurm.items():
            if option in _OURS or not re.fullmatch(r"[a-z][a-z0-9-]*", option):
                raise UserError(f"'{option}' is not for you to set", where="--slurm",
                                fix="Leave it out")  # fmt: skip
            check_sbatch(value, f"--slurm {option}")


def executor_settings(value: Any, **options: Any) -> ExecutorSettings | None:
    """Return where a command runs; None for this process.

    Args:
        value: Name of an executor, a mapping of `name` and fields of `ExecutorSettings`, or such
            settings; None for this process, or for local workers where options ask for them.
        **options: Other fields that are said; None says nothing. `ray` and `slurm` may be text,
            such as `partition=gpu,time=4:00:00`.

    Raises:
        UserError: When something is unknown or does not fit together.
    """
    silent = (None, False, "")  # 0 equals False, and says something
    given = {n: option for n, option in options.items() if not any(option is s for s in silent)}
    if isinstance(value, ExecutorSettings):
        settings = value
    else:
        if value is None and not given:
            return None
        named = {"name": value} if isinstance(value, str) else dict(value or {})
        for name in ("ray", "slurm"):
            if isinstance(given.get(name), str):
                given[name] = _pairs(given[name], f"--{name}")
        if isinstance(named.get("gpus"), Sequence) and not isinstance(named["gpus"], str):
            named["gpus"] = ",".join(map(str, named["gpus"]))
        settings = config.build(ExecutorSettings, {**named, **given}, "executor")
    settings.check()
    return settings


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cards(wanted: str | None) -> list[str]:
    """Return the cards of this machine, in the words of `CUDA_VISIBLE_DEVICES`.

    Args:
        wanted: `all`, or their numbers: `0,2`; None takes all that there are.

    Raises:
        UserError: When one is not there.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or wanted not in (None, "all"):
        import torch

        there = torch.cuda.device_count()
        names = [str(i) for i in range(there)] if visible is None else visible.split(",")[:there]
    else:
        names = [name for name in visible.split(",") if name and visible.strip() != "-1"]
    if wanted in (None, "all"):
        if wanted == "all" and not names:
            raise UserError("this machine has no card", where="--gpus",
                            fix="Leave it out, or use --workers N")  # fmt: skip
        return names
    chosen = [part.strip() for part in str(wanted).split(",")]
    numbers = {str(i) for i in range(len(names))}
    for part in chosen:
        if part not in numbers or chosen.count(part) > 1:
            raise UserError(
                f"'{part}' is no card of this machine, or is named twice; it has {len(names)}",
                where="--gpus",
                fix="Use all, or numbers such as 0,1",
            )
    return [names[int(part)] for part in chosen]


def local_workers(settings: ExecutorSettings) -> list[dict[str, str]]:
    """Return what the environment of each worker on this machine says more than its own.

    Raises:
        UserError: When a card is not there.
    """
    there = cards(settings.gpus) if settings.gpus or settings.workers is None else []
    n = settings.workers or len(there) or min(_MOST_BY_DEFAULT, cores())
    threads = str(max(1, cores() // n))
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        threads = min(given, threads, key=int)
    shared: dict[str, str] = {"OMP_NUM_THREADS": threads}
    if not there:
        return [dict(shared) for _ in range(n)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": there[i % len(there)]} for i in range(n)]


def ray_resources(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a worker asks of Ray.

    Args:
        given: Amounts of `gpus`, `cpus` and `memory`.

    Raises:
        UserError: When an amount cannot be read, or Ray knows no such amount.
    """
    asked: dict[str, Any] = {"num_cpus": 1}
    for name in ("gpus", "cpus"):
        if name in given:
            asked[f"num_{name}"] = _amount(str(given[name]), f"--ray {name}")
    if "memory" in given:
        try:
            asked["memory"] = config.parse_memory(given["memory"])
        except ConfigError as error:
            raise UserError(error.what, where="--ray memory", fix=error.fix) from error
    return asked


def check_sbatch(value: Any, where: str) -> None:
    """Refuse text that cannot stand in the head of a script for sbatch.

    Args:
        value: The text, or True for an option without a value.
        where: What it is.

    Raises:
        UserError: Naming it.
    """
    if isinstance(value, bool):
        wrong = not value
    else:
        wrong = value is None or any(char == '"' or not char.isprintable() for char in str(value))
    if wrong:
        raise UserError(f"sbatch cannot read {value!r}", where=where,
                        fix="Leave it out, or write it without quotes and line breaks")  # fmt: skip


def _check_workers(workers: int, most: int) -> None:
    if workers < 1:
        raise UserError(f"{workers} workers do nothing", where="--workers", fix="Use 1 or more")
    if workers > most:
        raise UserError(f"{workers} workers are too many", where="--workers",
                        fix=f"Use {most} at most")  # fmt: skip


def _amount(text: str, where: str) -> float:
    """Read how many cards or cores a worker gets: a share of one, or whole ones."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    whole = number >= 1 and number.is_integer()
    if not (number == 0 or _SMALLEST <= number <= 1 or whole):
        raise UserError(f"'{text}' is no amount", where=where, fix="Write gpus=1 or gpus=0.5")
    return number


def _pairs(text: str, where: str) -> dict[str, str]:
    """Read `a=1,b=2`; a part without `=` belongs to the value before it, such as in a list."""
    pairs: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals and name.strip():
            last = name.strip().lstrip("-")
            if last in pairs:
                raise UserError(
                    f"'{last}' is said twice", where=where, fix="Leave out one of the two"
                )
            pairs[last] = value.strip()
        elif last and part.strip():
            pairs[last] += f",{part.strip()}"
        else:
            raise UserError(f"cannot read '{text}'", where=where, fix="Write name=value,name=value")
    return pairs


def _check_names(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            near = suggest(name, known)
            raise UserError(
                f"there is no '{name}'",
                where=where,
                fix=f"Did you mean {near}?" if near else f"Use {', '.join(known)}",
            )
