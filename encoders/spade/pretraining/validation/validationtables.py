"""The validation as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spade_bench import console
from spade_bench.encoders.spade.pretraining.validation.partnerranks import DIRECTIONS, METRICS

__all__ = ["caption", "print_report", "verdict"]

_NAMES = {"spade": "SPADE", "k1": "K = 1", "untrained": "untrained heads", "chance": "chance"}


def caption(report: Mapping[str, Any], split: str) -> str:
    """Return one line that says what a split's figures stand on."""
    part = report["splits"][split]
    samples = (
        ", ".join(part["samples"]) if part["n_samples"] <= 4 else f"{part['n_samples']} samples"
    )
    chose = "; val also chose the epochs" if split == "val" else ""
    return (
        f"{split}: {part['n_spots']:,} held-out spots of {samples}{_blocks(part)} "
        f"(K = {report['n_experts']}, tau = {report['tau']:g}{chose})"
    )


_WAYS = {
    "image_to_expression": "from image to expression",
    "expression_to_image": "from expression to image",
}


def verdict(report: Mapping[str, Any]) -> str:
    """Say in a sentence what the held-out samples tell of a model.

    The test split counts where there is one, because it chose nothing; else the validation split.
    Better than chance means that the 95% interval of the mean percentile of the right partner lies
    below that of guessing, and better than untrained heads that the paired one does.

    Args:
        report: What `validation.json` holds.
    """
    scored = {name: part for name, part in report["splits"].items() if "methods" in part}
    if not scored:
        why = report.get("not_scored", "there are no held-out samples")
        return f"Held-out retrieval says nothing: {why}."
    split = "test" if "test" in scored else next(iter(scored))
    part = scored[split]
    words, better, untrained, single = [], [], [], []
    for direction, way in _WAYS.items():
        figure = part["methods"]["spade"][direction]["mean_percentile"]
        chance = part["methods"]["chance"][direction]["mean_percentile"]["value"]
        better.append(figure["high"] < chance)
        words.append(
            f"{way} the right partner lies at percentile {figure['value']:.3f} "
            f"[{figure['low']:.3f}, {figure['high']:.3f}] (0 is best, chance is {chance:.3f})"
        )
        if gap := part["differences"].get("spade - untrained"):
            untrained.append(gap[direction]["mean_percentile"]["high"] < 0)
        if gap := part["differences"].get("spade - k1"):
            single.append(gap[direction]["mean_percentile"])
    lead = "better than chance" if all(better) else "not better than chance"
    if any(better) and not all(better):
        lead = "better than chance in one direction only"
    beside = ""
    if untrained:
        there = "better" if all(untrained) else "in part better" if any(untrained) else "not better"
        beside = f" It is {there} than with untrained heads."
    if single:
        beside += f" {_beside_one(single)}"
    chose = "; this split also chose the epochs" if split == "val" else ""
    if where := _blocks(part):
        chose += f"; {where.strip()}: nothing is said of other patients"
    return (
        f"Held-out retrieval is {lead}: {', and '.join(words)}, over "
        f"{part['n_spots']:,} {split} spots of {part['n_samples']} sample"
        f"{'' if part['n_samples'] == 1 else 's'}{chose}.{beside}"
    )


def _beside_one(gaps: Sequence[Mapping[str, float]]) -> str:
    """Say whether several experts retrieve better than one, from the paired differences."""
    if all(gap["low"] == gap["high"] == 0 for gap in gaps):
        return "The experts kept the heads of the single expert (K = 1) and add nothing to it."
    better, worse = [gap["high"] < 0 for gap in gaps], [gap["low"] > 0 for gap in gaps]
    if any(better) and any(worse):
        return "The experts are better than a single one (K = 1) in one direction, worse in one."
    if any(better):
        part = "" if all(better) else " in one direction"
        return f"The experts are better than a single one (K = 1){part}."
    if any(worse):
        part = "" if all(worse) else " in one direction"
        return f"The experts are worse than a single one (K = 1){part}."
    return "The experts and a single one (K = 1) cannot be told apart."


def _blocks(part: Mapping[str, Any]) -> str:
    """Say that sections are held out in part; nothing where whole samples are."""
    return " in blocks of sections that train" if part.get("blocks") else ""


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
            _print_technologies(split, part.get("technologies", {}))
    _print_experts(report)
    for split, routing in report["routing"].items():
        console.paragraph(
            f"routing, {split}: entropy {routing['entropy_mean']:.3f} nats "
            f"({routing['entropy_share_of_log_k']:.1%} of log K), "
            f"{routing['experts_per_patch']:.2f} experts a patch"
        )
    targets = report["soft_targets"]
    console.paragraph(
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
    console.table(title, columns, rows, keys=2)


def _print_technologies(split: str, rows: Mapping[str, Any]) -> None:
    """Mean percentile of each technology apart: 0 is best, chance 0.5."""
    table: list[list[object]] = []
    for name, row in rows.items():
        cells: list[object] = [name, row["n_samples"], row["n_spots"]]
        for method in ("spade", "k1", "chance"):
            figures = row.get(method)
            for direction in DIRECTIONS if figures is not None else ():
                cells.append(f"{figures[direction]['mean_percentile']['value']:.3f}")
        table.append(cells)
    if not table:
        return
    methods = [m for m in ("spade", "k1", "chance") if all(m in row for row in rows.values())]
    columns = [f"{_NAMES[m]}, {d.replace('_', ' ')}" for m in methods for d in DIRECTIONS]
    title = f"{split}: mean percentile by technology (0 is best)"
    console.table(title, ["technology", "samples", "spots", *columns], table)


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
