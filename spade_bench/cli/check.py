"""`spade-bench check`: does an encoder keep the harness's contract?"""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import (
    DeviceOption,
    JsonOption,
    RevisionOption,
    SeedOption,
    TrustOption,
)

__all__ = ["check"]


class Checked(enum.StrEnum):
    """What can be checked."""

    encoder = "encoder"


WeightsOption = Annotated[
    Path | None, typer.Option(help="File or folder of weights. Default: the workspace's.")
]
PrecisionOption = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16. Default: the encoder's own.")
]


def check(
    what: Annotated[Checked, typer.Argument(help="encoder.")],
    name: Annotated[str, typer.Argument(help="Its name, as `list` prints it.")],
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    trust_remote_code: TrustOption = False,
    revision: RevisionOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Check shapes, determinism, batch independence, dtype, normalisation and the card."""
    from spade_bench import console, workspace
    from spade_bench.doctor import check_encoder
    from spade_bench.errors import UserError
    from spade_bench.types import LoadOptions

    if precision not in {None, "fp32", "bf16", "fp16"}:
        raise UserError(f"unknown precision '{precision}'", fix="Use fp32, bf16 or fp16")
    options: dict[str, object] = {}
    space = workspace.load()
    if space is not None:
        entry = space.encoders.get(name)
        weights = weights or (space.resolve(entry.weights) if entry else None)
        options.update(entry.options if entry else {})
        device = device or space.device
    if trust_remote_code:
        options["trust_remote_code"] = True
    findings = check_encoder(
        name,
        LoadOptions(
            weights=weights,
            device=device or "auto",
            precision=precision,
            seed=seed,
            options=options,
            revision=revision,
        ),
    )
    failed = [finding for finding in findings if finding.status == "fail"]
    if as_json:
        console.emit(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        rows = [[finding.status, finding.check, finding.detail] for finding in findings]
        console.table(f"{what.value} {name}", ["", "check", "detail"], rows)
        passed = sum(finding.status == "pass" for finding in findings)
        warned = len(findings) - passed - len(failed)
        look = f", {warned} to look at" if warned else ""
        console.emit(f"{name}: {passed} of {len(findings)} checks pass{look}, {len(failed)} fail")
    return 2 if failed else 0
