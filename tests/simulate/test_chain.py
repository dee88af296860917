"""The whole chain on a simulated study: with permuted labels it must say nothing."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench.cli.run import run

BASE = "efficientnet-lite0"


def _run(chain: tuple[Path, Path], table: Path, out: Path, draws: int) -> list[dict[str, Any]]:
    with contextlib.chdir(out.parent):
        run(
            encoder=[BASE, "spade"],
            task=["crc_braf"],
            table=[str(table)],
            features=[str(chain[0])],
            weights=[str(chain[1])],
            shots="3",
            draws=draws,
            controls=False,
            device="cpu",
            out=out,
        )
    lines = (out / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_row_says_that_it_is_simulated(
    study: tuple[Path, dict[str, Any]], chain: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = _run(chain, study[0] / "tables" / "crc_braf.csv", tmp_path / "runs", 2)
    assert {row["encoder"] for row in rows} == {BASE, "spade"}
    assert all("simulated" in row["flags"] for row in rows)


def test_permuted_labels_give_chance(
    study: tuple[Path, dict[str, Any]], chain: tuple[Path, Path], tmp_path: Path
) -> None:
    with (study[0] / "tables" / "crc_braf.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    label = {row["case_id"]: row["label"] for row in rows}
    means: dict[str, list[float]] = {BASE: [], "spade": []}
    for permutation in range(16):
        rng = np.random.default_rng(permutation)
        mixed = dict(zip(label, rng.permutation(list(label.values())), strict=True))
        table = tmp_path / f"table{permutation}.csv"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**row, "label": mixed[row["case_id"]]} for row in rows)
        found = _run(chain, table, tmp_path / f"runs{permutation}", 4)
        for encoder, values in means.items():
            own = [r["metrics"]["auroc"] for r in found if r["encoder"] == encoder]
            assert len(own) == 4
            values.append(float(np.mean(own)))
    for encoder, values in means.items():
        # Permutations are independent, draws within one are not: the interval is over the former.
        half = 2.95 * np.std(values, ddof=1) / np.sqrt(len(values))  # t, 15 df, 99%
        assert half < 0.15, encoder
        assert abs(np.mean(values) - 0.5) < half, (encoder, np.mean(values), half)
