"""A worker's share of each command: from the arguments of its unit to what it has done.

`spade_bench.spreading` writes the arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spade_bench.types import LoadOptions

__all__ = ["encode_share", "experts_share", "extract_share", "run_share"]

Seat = tuple[int, int]


def run_share(arguments: Mapping[str, Any], seat: Seat) -> dict[str, Any]:
    """Do a worker's share of `run_spread`."""
    from spade_bench import console, evaluation, workspace

    path = arguments["workspace"]
    summary = evaluation.run_settings(
        evaluation.EvaluationSettings.of(arguments["settings"], "unit"),
        None if path is None else workspace.load(Path(path)),
        shard=tuple(arguments["shard"]),
        seat=seat,
    )
    # In brackets: for the log, where it tells that nothing is left; see `following`.
    console.say(
        f"[{summary.done} cells done, {summary.elsewhere} by others meanwhile, "
        f"{summary.skipped} finished before, {summary.failed} failed]"
    )
    if summary.keeper is not None:
        summary.keeper.check()
    return {
        "done": summary.done,
        "skipped": summary.skipped,
        "elsewhere": summary.elsewhere,
        "failed": summary.failed - summary.failed_meanwhile,
        "failed_meanwhile": summary.failed_meanwhile,
        "first_error": summary.first_error,
        "kept": seat[1] > 1 and summary.keeper is not None and summary.keeper.kept > 0,
    }


def extract_share(arguments: Mapping[str, Any], seat: Seat) -> dict[str, Any]:
    """Do a worker's share of `extract_spread`."""
    from spade_bench import api

    given = dict(arguments)
    sharing = {"seat": seat, "notes": given.pop("notes")}
    settings = {**given.pop("settings"), "sharing": sharing}
    done = api.extract(encoder=given.pop("encoder"), load=_load(given.pop("load")), **given,
                       **settings)  # fmt: skip
    return {**dataclasses.asdict(done), "folder": str(done.folder)}


def encode_share(arguments: Mapping[str, Any], seat: Seat) -> dict[str, Any]:
    """Do a worker's share of `encode_spread`."""
    from spade_bench import api
    from spade_bench.extraction.inmemory import encode_folder
    from spade_bench.extraction.sharing import Sharing

    encoder = api.load_encoder(arguments["encoder"], **arguments["load"])
    done = encode_folder(
        Path(arguments["features"]),
        encoder,
        Path(arguments["out"]),
        with_routing=arguments["with_routing"],
        sharing=Sharing(seat, Path(arguments["notes"])),
    )
    return {
        "written": {name: str(path) for name, path in done.written.items()},
        "skipped": {name: str(path) for name, path in done.skipped.items()},
        "failed": list(done.failed),
    }


def experts_share(arguments: Mapping[str, Any], seat: Seat) -> dict[str, Any]:
    """Train a worker's experts of `pretrain`."""
    from spade_bench.encoders.spade.pretraining.expertunits import train_share

    return train_share(arguments, seat)


def _load(plain: Mapping[str, Any] | None) -> LoadOptions | None:
    from spade_bench.types import LoadOptions

    if plain is None:
        return None
    weights = plain["weights"]
    return LoadOptions(**{**plain, "weights": None if weights is None else Path(weights)})
