"""Where prepared spots come from: the record inside `spots.h5ad` and the table of all samples."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.config import to_dict
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.files import atomic_path
from spade_bench.spatial.findings import Finding

if TYPE_CHECKING:
    from spade_bench.encoders.spade.pretraining.prepare.basefeatures import BaseEncoder
    from spade_bench.spatial import StSample

__all__ = ["SCHEMA", "plain_config", "provenance", "write_table"]

SCHEMA = "spade-bench/spots/1"
COLUMNS = (
    *("sample", "status", "split", "organ", "patient", "spots", "reason", "findings"),
    "technology",
)


def provenance(
    config: PretrainConfig,
    base: BaseEncoder,
    samples: Mapping[str, int],
    genes: Mapping[str, int],
    left_out: Mapping[str, str],
    *,
    findings: Mapping[str, Sequence[Finding]],
    simulated: bool,
) -> dict[str, Any]:
    """What `uns` of `spots.h5ad` says, as plain JSON values.

    Args:
        config: All settings.
        base: The base encoder.
        samples: Sample id -> spots kept.
        genes: Sizes of the panel and of what it was chosen from.
        left_out: Sample id -> reason.
        findings: Sample id -> what the checks found.
        simulated: Whether any sample says of itself that it is simulated.
    """
    from spade_bench.version import __version__

    return {
        "schema": SCHEMA,
        "encoder": base.name,
        "encoder_revision": base.revision,
        "expression": config.expression,
        "genes": dict(genes),
        "samples": dict(samples),
        "left_out": dict(left_out),
        "findings": {name: [f.to_dict() for f in fs] for name, fs in findings.items() if fs},
        "simulated": simulated,
        "config": plain_config(config),
        "spade_bench": __version__,
    }


def plain_config(config: PretrainConfig) -> dict[str, Any]:
    """All settings as JSON values; of paths only the last part, for they mean nothing elsewhere."""
    return {key: _plain(value) for key, value in to_dict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    return value.name if isinstance(value, Path) else value


def write_table(
    path: Path,
    kept: Mapping[str, tuple[str, StSample, int]],
    left_out: Mapping[str, str],
    findings: Mapping[str, Sequence[Finding]],
) -> None:
    """Writes `samples.csv`: every sample that was looked at, what became of it and why.

    Args:
        path: The csv.
        kept: Sample id -> split, sample and number of spots.
        left_out: Sample id -> reason, for all others.
        findings: Sample id -> what the checks found.
    """
    notes = {n: "; ".join(f.text for f in fs if not f.fatal) for n, fs in findings.items()}
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for name, (split, sample, spots) in kept.items():
            row = (name, "kept", split, sample.organ, sample.patient or "", spots, "")
            writer.writerow((*row, notes.get(name, ""), sample.technology or ""))
        for name, reason in left_out.items():
            row = (name, "dropped", "", "", "", 0, reason)
            writer.writerow((*row, notes.get(name, ""), ""))
