"""The validation as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spade_bench import console
from spade_bench.encoders.spade.pretraining.validation.partnerranks import DIRECTIONS, METRICS

__all__ = ["caption", "print_report"]

_NAMES = {"spade": "SPADE", "k1": "K = 1", "untrained": "untrained heads", "chance": "chance"}


def caption(report: Mapping[str, Any], split: str) -> str:
    """Return one line that says what a split's figures stand on."""
    part = report["splits"][split]
    samples = (
        ", ".join(part["samples"]) if part["n_samples"] <= 4 else f"{part['n_samples']} samples"
    )
    chose = "; val also chose the epochs" if split == "val" else ""
    return (
        f"{split}: {part['n_spots']:,} held-out spots of {samples} "
        f"(K = {report['n_experts']}, tau = {report['tau']:g}{chose})"
    )


def print_report(report: Mapping[str, Any]) -> None:
    """Print retrieval, paired differences, experts, routing and soft targets."""
    if "not_scored" in report:
        console.warn(f"retrieval is not scored: {report['not_scored']}")
    elif not report["splits"]:
        console.warn("no held-out samples: nothing to validate on")
    for split, part in report["splits"].items():
        for sample in part["left_out"]:
            console.warn(f"{split}: sample '{sample}' has a single spot and cannot be scored")
        for sample, (before, after) in part["drawn_down"].items():
            console.say(f"{split}: {after:,} of {before:,} spots of '{sample}' are scored")
        if "methods" in part:
            _print_retrieval(caption(report, split), part)
    _print_experts(report)
    for split, routing in report["routing"].items():
        console.emit(
            f"routing, {split}: entropy {routing['entropy_mean']:.3f} nats "
            f"({routing['entropy_share_of_log_k']:.1%} of log K), "
            f"{routing['experts_per_patch']:.2f} experts a patch"
        )
    targets = report["soft_targets"]
    console.emit(
        f"soft targets: median largest probability {_plain(targets['median_largest_probability'])}"
        f", above 0.99 in {targets['share_above_0.99']:.1%} of rows"
    )


def _print_retrieval(title: str, part: Mapping[str, Any]) -> None:
    columns = ["direction", "model", *METRICS]
    rows: list[list[object]] = []
    for direction in DIRECTIONS:
        for name, figures in {**part["methods"], **part["differences"]}.items():
            cells = [_cell(figures[direction][metric]) for metric in METRICS]
            rows.append([direction.replace("_", " "), _NAMES.get(name, name), *cells])
    console.table(title, columns, rows)


def _print_experts(report: Mapping[str, Any]) -> None:
    rows: list[list[object]] = []
    for expert in report["experts"]:
        sizes = [expert["n"].get(split, 0) for split in ("train", "val", "test")]
        organs = ", ".join(f"{organ} {n}" for organ, n in list(expert["organs"].items())[:4])
        best = "-" if expert["best_epoch"] is None else expert["best_epoch"]
        rows.append([expert["expert"], *sizes, organs, best, _plain(expert["best_val_loss"])])
    columns = ["expert", "train", "val", "test", "organs (train)", "best epoch", "val loss"]
    console.table("Experts", columns, rows)


def _cell(figure: Mapping[str, Any]) -> str:
    if "sd" in figure:
        return f"{figure['value']:.3f} (sd {figure['sd']:.3f} over {figure['seeds']} seeds)"
    if "low" in figure:
        return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f}"


def _plain(number: float | None) -> str:
    return "-" if number is None or math.isnan(number) else f"{number:.4f}"
