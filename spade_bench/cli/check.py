"""`spade-bench check`: does an encoder or a head keep the harness's contract?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spade_bench.cli.options import (
    DeviceOption,
    JsonOption,
    RevisionOption,
    SeedOption,
    TrustOption,
    load_options,
)

if TYPE_CHECKING:
    from spade_bench.doctor import Finding

__all__ = ["check"]


WeightsOption = Annotated[
    Path | None, typer.Option(help="File or folder of weights. Default: the workspace's.")
]
PrecisionOption = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16. Default: the encoder's own.")
]


def _known(what: str) -> str:
    """What is to be checked, in the singular; refuse what cannot be.

    Raises:
        UserError: With the command that is meant.
    """
    from spade_bench.errors import UserError

    word = what.removesuffix("s")
    if word == "task":
        raise UserError(
            "a task is a card, of which nothing runs",
            where=what,
            fix="`spade-bench show task NAME` checks it, --plugin FILE where it is your own",
        )
    if word not in ("encoder", "head"):
        raise UserError(f"'{what}' is not one of encoder, head", fix="Use `check encoder NAME`")
    return word


def check(
    what: Annotated[str, typer.Argument(help="encoder or head.", callback=_known)],
    name: Annotated[str, typer.Argument(help="Its name, as `list` prints it.")],
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    trust_remote_code: TrustOption = False,
    revision: RevisionOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Check that an encoder or a head keeps the contract that the harness relies on.

    Of an encoder: shapes, determinism, batch independence, dtype, normalisation and the card. Of a
    head: shapes, probabilities, determinism, order of patches, its fitted object, saved and loaded.
    """
    if what == "head":
        findings = _check_head(name, device, weights, precision)
    else:
        findings = _check_encoder(
            name, weights, device, precision, trust_remote_code, seed, revision
        )
    return _show(what, name, findings, as_json)


def _check_head(
    name: str, device: str | None, weights: Path | None, precision: str | None
) -> list[Finding]:
    from spade_bench.doctor import check_head, check_spot_head
    from spade_bench.errors import UserError
    from spade_bench.registry import head_registries, heads

    for option, given in (("--weights", weights), ("--precision", precision)):
        if given is not None:
            raise UserError("goes with `check encoder` only", where=option)
    findings: list[Finding] = []
    for registry in head_registries(name):  # one of cases and one of spots may share a name
        of_cases = registry is heads
        findings += check_head(name, device or "cpu") if of_cases else check_spot_head(name)
    return findings


def _check_encoder(
    name: str,
    weights: Path | None,
    device: str | None,
    precision: str | None,
    trust_remote_code: bool,
    seed: int,
    revision: str | None,
) -> list[Finding]:
    from spade_bench.doctor import check_encoder

    options = load_options(
        name,
        weights,
        device,
        precision=precision,
        seed=seed,
        revision=revision,
        options={"trust_remote_code": True} if trust_remote_code else {},
    )
    return check_encoder(name, options)


def _show(what: str, name: str, findings: list[Finding], as_json: bool) -> int:
    """Print the findings; the exit code."""
    from spade_bench import console

    failed = [finding for finding in findings if finding.status == "fail"]
    if as_json:
        console.emit_json("check", {"rows": [dataclasses.asdict(finding) for finding in findings]})
    else:
        rows = [[finding.status, finding.check, finding.detail] for finding in findings]
        console.table(f"{what} {name}", ["", "check", "detail"], rows)
        passed = sum(finding.status == "pass" for finding in findings)
        warned = len(findings) - passed - len(failed)
        look = f", {warned} to look at" if warned else ""
        console.emit(f"{name}: {passed} of {len(findings)} checks pass{look}, {len(failed)} fail")
    return 2 if failed else 0
