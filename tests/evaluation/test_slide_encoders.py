"""Slide encoders in `run`: from their own vectors, and from patch features on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_bench.cli.encode import encode
from spade_bench.cli.main import main
from spade_bench.errors import DataError
from spade_bench.features.bags import find_bags, read_bag, write_features
from spade_bench.features.casebags import CaseBags


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _main(*argv: str) -> int:
    """Run the command line; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


def _run(study: Any, out: Path, features: Path, *more: str) -> list[dict[str, Any]]:
    argv = ["run", "--encoder", "mean-pool", "--task", "tissue", "--table", str(study.table),
            "--features", str(features), "--shots", "2", "--draws", "3", "--head", "logistic",
            "--out", str(out), *more]  # fmt: skip
    assert _main(*argv) == 0
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_vectors_made_before_and_on_the_way_give_the_same_numbers(
    study: Any, tmp_path: Path
) -> None:
    encode(study.features, tmp_path / "slides", encoder="mean-pool", device="cpu")
    before = _run(study, tmp_path / "a", tmp_path / "slides", "--no-controls")
    during = _run(study, tmp_path / "b", study.features, "--no-controls")
    scores = [[row["metrics"]["auroc"] for row in rows] for rows in (before, during)]
    assert len(scores[0]) == 3
    assert scores[0] == pytest.approx(scores[1])
    assert {row["encoder"] for row in during} == {"mean-pool"}


def test_a_slide_encoder_gets_its_controls(study: Any, tmp_path: Path) -> None:
    rows = _run(study, tmp_path / "a", study.features)
    flags = {flag for row in rows for flag in row["flags"] if flag.startswith("control:")}
    assert {"control:base", "control:pca", "control:permuted-labels"} <= flags
    assert not flags & {"control:k1", "control:random-routing"}


def test_a_case_has_a_row_for_each_slide(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "features_e" / f"s{i}.h5" for i in range(3)]
    for i, path in enumerate(paths):
        write_features(path, rng.normal(size=(i + 2, 4)), slide_id=path.stem, encoder="e")
    bags = CaseBags.from_files([paths[:2], paths[2:]], 4)
    vectors = bags.map_slides(lambda path: read_bag(path).features.mean(axis=0), 4)
    assert vectors[0].shape == (2, 4)
    np.testing.assert_allclose(vectors[1][0], bags[1].mean(axis=0), atol=1e-6)
    with pytest.raises(DataError, match="no slides"):
        vectors.map_slides(lambda path: np.ones(4), 4)
    assert set(find_bags(tmp_path)) == {"s0", "s1", "s2"}
