"""Train the experts: choose a layout, continue what is there, collect the best weights."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spade_bench import console
from spade_bench.config import to_dict
from spade_bench.device import resolve_device, setup_numerics
from spade_bench.encoders.common.sealedfolder import write_tensors
from spade_bench.encoders.spade.numerics import one_thread
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig, settled
from spade_bench.encoders.spade.pretraining.settingrules import training_key
from spade_bench.encoders.spade.pretraining.training.job import CHECKPOINT_SECONDS, Job, Keeper
from spade_bench.encoders.spade.pretraining.training.schedule import MIN_VALIDATION, Schedule
from spade_bench.encoders.spade.pretraining.training.single import train_in_turn
from spade_bench.encoders.spade.pretraining.training.state import (
    START_MARGIN,
    ExpertState,
    checkpoint_path,
)
from spade_bench.encoders.spade.pretraining.training.trainingdata import TrainingData
from spade_bench.errors import ConfigError, SpadeBenchError
from spade_bench.files import hash_array, hash_obj, write_json

__all__ = ["TrainResult", "TrainingStopped", "arithmetic_of", "train_experts"]

_INITIAL = "initial.safetensors"
_PROCESSES_FROM = 5e11  # multiply-adds from which starting processes pays


class TrainingStopped(SpadeBenchError):  # noqa: N818 - it is no error of anybody
    """Another thread asked training to end."""


@dataclass(frozen=True)
class TrainResult:
    """What training leaves behind.

    Attributes:
        weights: Best parameters of each finished expert, by `image.*` and `spot.*` names. Experts
            finished by an earlier call with the same data and settings are included.
        history: Rows of `training.csv`, by expert and epoch.
        best_epoch: Epoch whose parameters were kept, from 1; 0 for an expert without training
            spots, and for one that no epoch made better than the heads it started from.
        notes: What a reader must know, one sentence each.
        seconds: Seconds this call took.
    """

    weights: dict[int, dict[str, Tensor]]
    history: list[dict[str, Any]]
    best_epoch: dict[int, int]
    notes: tuple[str, ...]
    seconds: float


def train_experts(
    data: TrainingData,
    config: TrainingConfig,
    out_dir: str | Path,
    *,
    experts: Sequence[int] | None = None,
    seed: int = 0,
    device: str = "auto",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    initial: Mapping[str, Tensor] | None = None,
    stop: threading.Event | None = None,
    arithmetic: str | None = None,
) -> TrainResult:
    """Train data experts.

    Every expert keeps its own order, initial weights, dropout and schedule, keyed by (seed,
    expert): which other experts train beside it changes nothing, to the bit where they train one by
    one or in processes, up to the rounding of products of several experts where they train as a
    group (on a GPU). Checkpoints under
    ``out_dir/checkpoints`` let the same call continue after it was killed.

    Args:
        data: The spots.
        config: Training settings.
        out_dir: Output folder of the pretraining run.
        experts: Which experts; all when None.
        seed: Seed.
        device: `auto`, `cpu` or `cuda[:n]`.
        checkpoint_seconds: Seconds between checkpoints.
        initial: Parameters that every expert starts from, by `image.*` and `spot.*` names; these
            heads stand for the choice of the epoch too. None draws each expert's own.
        stop: Set by another thread, it ends training after an epoch; for training in a thread.
        arithmetic: By what arithmetic others have trained them, see `arithmetic_of`; their
            checkpoints are then taken as they are. None for that of this device.

    Raises:
        TrainingStopped: When ``stop`` was set.
        WeightsError: When ``initial`` does not fit the data.
        ConfigError: When an expert is asked for that does not exist.
    """
    start = time.monotonic()
    out_dir = Path(out_dir)
    where = resolve_device(device)
    wanted = sorted(set(range(data.n_experts) if experts is None else experts))
    if not wanted or wanted[0] < 0 or wanted[-1] >= data.n_experts:
        raise ConfigError(
            f"experts {wanted} asked for; there are 0..{data.n_experts - 1}", where="--experts"
        )
    layout = _layout(config, where)
    prints = _fingerprints(data, config, seed, arithmetic or arithmetic_of(config, where), initial)
    keeper = Keeper(out_dir, prints, checkpoint_seconds)
    states = {e: keeper.load(e) for e in wanted}
    pending = [e for e, state in states.items() if state is None or not state.done]
    _announce(data, states, pending)
    if pending:
        sizes = {e: len(data.rows(e, "train")) for e in pending}
        pending.sort(key=lambda e: (-sizes[e], e))  # largest first, so that the end is short
        steps = {e: Schedule(seed, e, sizes[e], 0, config).steps_per_epoch for e in pending}
        total = sum(_epochs_left(states[e], sizes[e], config) * steps[e] for e in pending)
        with console.progress("training experts", total, "steps") as bar:

            def report(row: dict[str, Any]) -> None:
                val = "" if row["val_loss"] is None else f", validation {row['val_loss']:.3f}"
                note = f"expert {row['expert']}: loss {row['train_loss']:.3f}{val}"
                bar.advance(steps[row["expert"]], note)
                if stop is not None and stop.is_set():
                    raise TrainingStopped("training was stopped after an epoch")

            setup_numerics(where)
            with one_thread():
                _train(Job(data, config, seed, where, keeper, report, initial), pending, layout)
    return _collect(data, wanted, keeper, initial is not None, time.monotonic() - start)


def _train(job: Job, pending: list[int], layout: str) -> None:
    config, data = job.config, job.data
    if layout == "auto":
        width = data.features.shape[1] + data.expression.shape[1]
        spots = sum(len(data.rows(e, "train")) for e in pending)
        work = spots * settled(config.epochs, "training.epochs") * width * config.proj_dim * 2
        layout = "processes" if work > _PROCESSES_FROM else "sequential"
    workers = min(config.workers or _cores(), len(pending))
    if layout == "grouped":
        from spade_bench.encoders.spade.pretraining.training.grouped import train_together

        train_together(job, pending)
    elif layout == "processes" and workers > 1:
        _in_processes(job, pending, workers)
    else:
        train_in_turn(job, pending)


def _in_processes(job: Job, pending: Sequence[int], workers: int) -> None:
    from spade_bench.encoders.spade.pretraining.training.pool import run_pool
    from spade_bench.encoders.spade.pretraining.training.sharedarrays import share

    folder = job.keeper.out_dir / "checkpoints" / "shared"
    try:
        content = {
            "data": share(job.data, folder),
            "initial": None if job.initial is None else str(folder.resolve() / _INITIAL),
            "config": to_dict(job.config),
            "seed": job.seed,
            "out_dir": str(job.keeper.out_dir.resolve()),
            "fingerprints": dict(job.keeper.fingerprints),
            "checkpoint_seconds": job.keeper.every,
        }
        if job.initial is not None:
            write_tensors(folder / _INITIAL, job.initial)
        write_json(folder / "job.json", content)
        run_pool(folder / "job.json", job, pending, workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _collect(
    data: TrainingData, wanted: Sequence[int], keeper: Keeper, started: bool, seconds: float
) -> TrainResult:
    weights: dict[int, dict[str, Tensor]] = {}
    history: list[dict[str, Any]] = []
    best: dict[int, int] = {}
    notes: list[str] = []
    for expert in range(data.n_experts):
        if expert not in wanted and not checkpoint_path(keeper.out_dir, expert).is_file():
            continue
        state = keeper.load(expert)
        if state is None or not state.done:
            continue
        weights[expert], best[expert] = state.params, state.best_epoch
        history += state.history
        if not len(data.rows(expert, "train")):
            heads = "those it started from" if started else "untrained"
            notes.append(f"expert {expert} has no training spots: its heads stay {heads}")
        elif (n_val := len(data.rows(expert, "val"))) < MIN_VALIDATION:
            count = "one validation spot" if n_val else "no validation spots"
            notes.append(f"expert {expert} has {count}: its last epoch is kept")
    if stayed := [e for e in best if started and not best[e] and len(data.rows(e, "train"))]:
        notes.append(
            f"{len(stayed)} of {data.n_experts} experts keep the heads they started from, which no "
            f"epoch bettered by {START_MARGIN:.0%}: {', '.join(map(str, stayed))}"
        )
    for note in notes:
        console.say(note)
    return TrainResult(weights, history, best, tuple(notes), seconds)


def _announce(
    data: TrainingData, states: Mapping[int, ExpertState | None], pending: Sequence[int]
) -> None:
    train = sum(len(data.rows(e, "train")) for e in states)
    val = sum(len(data.rows(e, "val")) for e in states)
    begun = [e for e in pending if states[e] is not None]
    text = f"{len(states)} experts, {train:,} training and {val:,} validation spots"
    if len(pending) < len(states):
        text += f"; {len(states) - len(pending)} finished earlier"
    if begun:
        text += f"; continuing {', '.join(map(str, begun))} from checkpoints"
    console.say(text)


def _epochs_left(state: ExpertState | None, n_train: int, config: TrainingConfig) -> int:
    epochs = settled(config.epochs, "training.epochs")
    return 0 if not n_train else epochs - (state.epochs_done if state else 0)


def arithmetic_of(config: TrainingConfig, device: torch.device) -> str:
    """Name what decides the last digits of the weights: the kind of device, and the layout."""
    return f"{device.type}/{_layout(config, device) == 'grouped'}"


def _layout(config: TrainingConfig, device: torch.device) -> str:
    if config.layout == "auto" and device.type == "cuda":
        return "grouped"
    if config.layout == "processes" and device.type == "cuda":
        raise ConfigError("layout 'processes' is for the CPU", where="training.layout")
    return config.layout


def _fingerprints(
    data: TrainingData,
    config: TrainingConfig,
    seed: int,
    arithmetic: str,
    initial: Mapping[str, Tensor] | None,
) -> dict[str, str]:
    """Return a hash, by expert, of all that its weights depend on."""
    shared: list[Any] = [data.content_hash(), training_key(config), seed, arithmetic]
    if initial is not None:
        shared.append({k: hash_array(v.cpu().numpy()) for k, v in sorted(initial.items())})
    return {
        str(e): hash_obj([*shared, e, *(hash_array(data.rows(e, s)) for s in ("train", "val"))])
        for e in range(data.n_experts)
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
