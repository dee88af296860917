"""Commands spread over workers: what goes into their units, what they do, and what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import UserError
from spade_bench.executors import ExecutorSettings, spread

if TYPE_CHECKING:
    from spade_bench.evaluation import EvaluationSettings, RunSummary
    from spade_bench.extraction import Summary
    from spade_bench.extraction.folders import EncodedFolder
    from spade_bench.types import LoadOptions
    from spade_bench.workspace import Workspace

__all__ = [
    "check_named",
    "encode_spread",
    "extract_spread",
    "run_spread",
]


def run_spread(
    settings: EvaluationSettings,
    workspace: Workspace | None,
    executor: ExecutorSettings,
    *,
    shard: tuple[int, int] = (0, 1),
) -> RunSummary:
    """Run encoders on tasks, the cells shared by workers; see `evaluation.run_settings`.

    Args:
        settings: What flags, a YAML file or keywords say.
        workspace: Fills in what they leave out.
        executor: Where it runs.
        shard: Run every n-th row of the table from the i-th on, as (i, n), i from 0.

    Raises:
        UserError: As `evaluation.run_settings`, or when workers die again and again.
    """
    from spade_bench.evaluation import RunSummary, resolve
    from spade_bench.evaluation.keptheads import say_kept
    from spade_bench.evaluation.settingchecks import check_request

    request = resolve(settings, workspace, shard=shard)
    check_request(request)  # before anything waits in a queue
    _check_device(request.settings.device, executor)
    said = {name: getattr(settings, name) for name in sorted(settings.said())}
    arguments = {
        "settings": said,
        "workspace": None if workspace is None else str(workspace.path),
        "shard": shard,
    }
    results = spread("run", arguments, request.out, executor)
    summary = RunSummary()
    for result in results:
        summary.done += result["done"]
        summary.failed += result["failed"]
        summary.first_error = summary.first_error or result["first_error"]
    if results:
        # Cells that one worker did are there before, or done meanwhile, for another.
        summary.skipped = min(result["skipped"] for result in results)
        # A worker that died said nothing of what it did; those that ended well have seen it.
        seen = ("done", "skipped", "elsewhere", "failed", "failed_meanwhile")
        cells = max(sum(result[name] for name in seen) for result in results)
        summary.elsewhere = max(0, cells - summary.done - summary.skipped - summary.failed)
    if any(result["kept"] for result in results):
        say_kept(request.out)
    return summary


def extract_spread(
    given: Mapping[str, Any],
    encoder: Any,
    load: LoadOptions | None,
    out: Path,
    executor: ExecutorSettings,
) -> Summary:
    """Extract features, the slides shared by workers; see `api.extract`.

    Args:
        given: The input and the settings, as plain values.
        encoder: Name of the encoder.
        load: How it is loaded.
        out: Folder to write.
        executor: Where it runs.

    Raises:
        UserError: As `api.extract`, or when workers die again and again.
    """
    from spade_bench.extraction import Summary

    name = check_named(encoder)
    _check_device("auto" if load is None else load.device, executor)
    arguments = {**given, "encoder": name, "load": _plain_load(load), "out": str(out)}
    results = spread("extract", arguments, out, executor)
    if not results:
        return Summary(out, {}, (), {}, 0.0)
    done = {name: n for result in results for name, n in result["done"].items()}
    failed = {name: why for result in results for name, why in result["failed"].items()}
    there = dict.fromkeys(name for result in results for name in result["skipped"])
    skipped = tuple(name for name in there if name not in done and name not in failed)
    seconds = max(result["seconds"] for result in results)
    return Summary(Path(results[0]["folder"]), done, skipped, failed, seconds)


def encode_spread(
    features: Path,
    encoder: Any,
    out: Path,
    executor: ExecutorSettings,
    *,
    with_routing: bool,
    load: Mapping[str, Any],
) -> EncodedFolder:
    """Encode a folder of features, the slides shared by workers; see `api.encode`.

    Raises:
        UserError: As `api.encode`, or when workers die again and again.
    """
    from spade_bench.extraction.folders import EncodedFolder

    _check_device(str(load.get("device") or "auto"), executor)
    arguments = {
        "features": str(features),
        "encoder": check_named(encoder),
        "out": str(out),
        "with_routing": with_routing,
        "load": {name: str(v) if isinstance(v, Path) else v for name, v in load.items()},
    }
    results = spread("encode", arguments, out, executor)
    written = {k: Path(v) for result in results for k, v in result["written"].items()}
    failed = dict.fromkeys(line for result in results for line in result["failed"])
    there = {k: Path(v) for result in results for k, v in result["skipped"].items()}
    skipped = {name: path for name, path in there.items() if name not in written}
    return EncodedFolder(written, skipped, tuple(failed))


def check_named(encoder: Any) -> str:
    """Return the name of an encoder.

    Raises:
        UserError: When it is an object, which stays in this process.
    """
    if not isinstance(encoder, str):
        raise UserError(
            "an encoder that is loaded here is not at hand in other processes",
            where="--executor",
            fix="Give its name, and its weights and options",
        )
    return encoder


def _check_device(device: str, executor: ExecutorSettings) -> None:
    """Refuse a card by its number where each worker sees its own alone.

    Raises:
        UserError: Naming both options.
    """
    if ":" in device:
        raise UserError(
            f"'{device}' is one card, and each worker has its own",
            where="--device",
            fix="Use auto or cuda, and choose cards with --gpus 0,1",
        )
    if device == "cpu" and executor.gpus:
        raise UserError("--gpus and --device cpu contradict each other",
                        fix="Leave out one of the two")  # fmt: skip


def _plain_load(load: LoadOptions | None) -> dict[str, Any] | None:
    if load is None:
        return None
    plain = dataclasses.asdict(load)
    return {**plain, "weights": None if load.weights is None else str(load.weights)}
