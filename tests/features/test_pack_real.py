"""Real features with known answers, read from packs: classic bags and UNI patches."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.features.bags import find_bags
from spade_bench.features.casebags import CaseBags
from spade_bench.features.packing import pack_features
from spade_bench.heads import Fit, HeadOptions
from spade_bench.registry import heads


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_uni_features_of_colorectal_tissue(shared_data: Path, tmp_path: Path, dtype: str) -> None:
    """Nine tissue classes from ten patches each: the published answer is 44 of 45."""
    file = shared_data / "uni_crc100k_rois" / "uni_crc100k.npz"
    with np.load(file, allow_pickle=False) as data:
        x = np.concatenate([data["X_train"], data["X_test"]])
        names, y = np.unique(np.concatenate([data["y_train"], data["y_test"]]), return_inverse=True)
    (tmp_path / "bags").mkdir()
    for i, row in enumerate(x):
        np.save(tmp_path / "bags" / f"p{i:03d}.npy", row[None])
    pack = pack_features(tmp_path / "bags", tmp_path, dtype=dtype)
    bags = CaseBags.from_files([[path] for path in find_bags(pack.path).values()], x.shape[1])
    # One number scales all features; a scale for each of them would lose one patch.
    fits = [Fit(np.arange(90), y[:90], np.arange(90, 135), params={"C": c}) for c in (1.0, 0.1)]
    scores = heads.get("logistic").load(HeadOptions()).fit_predict(bags, fits, len(names))
    assert [int((s.argmax(axis=1) == y[90:]).sum()) for s in scores] == [44, 44]


def _classic(source: Path, folder: Path) -> tuple[Path, Path]:
    """One `.npy` a bag and a table, from a csv of bag label, bag id and features."""
    with gzip.open(source, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    (folder / "bags").mkdir()
    lines = ["case_id,slide_id,label"]
    for bag in np.unique(table[:, 1]):
        rows = table[table[:, 1] == bag]
        np.save(folder / "bags" / f"b{int(bag)}.npy", rows[:, 2:])
        label = "positive" if rows[0, 0] > 0 else "negative"
        lines.append(f"b{int(bag)},b{int(bag)},{label}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv", folder / "bags"


# Ten-fold accuracies published for attention pooling: musk1 0.89 and elephant 0.87, each +- 0.04
# (Ilse et al. 2018); for UCSB breast the published areas lie between 0.8 and 0.95. Mean pooling is
# somewhat below on the first two.
@pytest.mark.parametrize(
    ("name", "n", "low", "high"),
    [
        ("musk1", 92, 0.80, 0.97),
        ("elephant", 200, 0.85, 0.97),
        ("ucsb_breast_cancer", 58, 0.8, 1.0),
    ],
)
def test_classic_bags(
    shared_data: Path, tmp_path: Path, name: str, n: int, low: float, high: float
) -> None:
    table, features = _classic(shared_data / "ucsb_mil" / f"{name}.csv.gz", tmp_path)
    words = ["run", "--encoder", "classic", "--task", name, "--table", table, "--features",
             features, "--protocol", "cv", "--folds", "10", "--head", "logistic", "--device",
             "cpu", "--no-controls", "--out", tmp_path / "out"]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    rows = [json.loads(s) for s in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert sum(row["n"]["test"] for row in rows) == n
    assert low < np.mean([row["metrics"]["auroc"] for row in rows]) < high
