"""`spade-bench doctor`: what works on this machine, and what to type where it does not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from spade_bench.cli.options import DeviceOption, JsonOption

if TYPE_CHECKING:
    from spade_bench.doctor import Diagnosis, EncoderState

__all__ = ["doctor"]

NamesArgument = Annotated[
    list[str] | None, typer.Argument(help="Encoders to look at. Default: all.")
]


def doctor(
    names: NamesArgument = None, device: DeviceOption = None, as_json: JsonOption = False
) -> None:
    """Say for each encoder what is installed, on disk and licensed, and what to type to fix it."""
    from spade_bench import console, registry, workspace
    from spade_bench.doctor import diagnose

    space = workspace.load()
    weights = {}
    if space is not None:
        device = device or space.device
        for name, entry in space.encoders.items():
            if (path := space.resolve(entry.weights)) is not None:
                weights[name] = path
    diagnosis = diagnose(device or "auto", weights, tuple(names or ()))
    if as_json:
        console.emit_json("doctor", dataclasses.asdict(diagnosis))
        return
    for line in _lines(diagnosis):
        console.emit(line)
    columns = ["name", "ready", "installed", "on disk", "licence", "runs on", "what to type or do"]
    console.table("encoders", columns, [_row(state) for state in diagnosis.encoders])
    for name, problem in registry.encoders.broken.items():
        console.warn(f"plugin '{name}' does not load ({problem})")


def _lines(diagnosis: Diagnosis) -> list[str]:
    ready = sum(state.ready for state in diagnosis.encoders)
    versions = ", ".join(f"{name} {version}" for name, version in diagnosis.versions.items())
    folder = diagnosis.weights_folder or "not set"
    return [
        versions,
        f"device: {diagnosis.device}; SPADE_BENCH_WEIGHTS: {folder}",
        *([diagnosis.kernels] if diagnosis.device.startswith("cuda") else []),
        diagnosis.hub.line(),
        f"{ready} of {len(diagnosis.encoders)} encoders are ready",
    ]


def _row(state: EncoderState) -> list[str]:
    todo = "; ".join(part for part in (state.fix, state.notes) if part)
    return [
        state.name,
        "yes" if state.ready else "no",
        f"without {', '.join(state.missing)}" if state.missing else "yes",
        state.on_disk or "-",
        "gated, unknown" if state.licence == "unknown" else state.licence,
        f"{state.device}, {state.precision}",
        todo or "-",
    ]
