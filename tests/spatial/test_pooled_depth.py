"""Pooled Visium HD of HEST that kept one bin of each spot is named; whole sums are not."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import spade_bench as sb
from spade_bench.spatial import StSample
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.sectionchecks import check_sample


def pooled(path: Path, *, whole: bool) -> Path:
    """Bins of 16 µm with 300 counts each, pooled to 128 µm, rightly or by `total[rows] +=`."""
    rng = np.random.default_rng(0)
    bins = rng.poisson(3.0, (64 * 20, 100)).astype(np.float32)
    rows = np.repeat(np.arange(20), 64)
    total = np.zeros((20, 100), dtype=np.float32)
    if whole:
        np.add.at(total, rows, bins)
    else:
        total[rows] += bins
    place = np.stack(np.divmod(np.arange(20), 5), axis=1) * 256.0
    data = anndata.AnnData(
        total,
        obs=pd.DataFrame(index=[f"b{i}" for i in range(20)]),
        var=pd.DataFrame(index=[f"GENE{i}X" for i in range(100)]),
        obsm={"spatial": place},
    )
    data.write_h5ad(path)
    return path


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("technology", ["Visium HD", "Visium"])
def test_lost_writes_are_named(whole: bool, technology: str, tmp_path: Path) -> None:
    path = pooled(tmp_path / "x.h5ad", whole=whole)
    sample = StSample(
        "x", organ="Colon", patient="P", technology=technology, pixel_size_um=0.5, h5ad=path,
        spot_diameter_um=128, spot_pitch_um=128,
    )  # fmt: skip
    found = {f.kind: f for f in check_sample(sample, read_expression(sample)).findings}
    assert ("pooled-depth" in found) == (technology == "Visium HD" and not whole)
    (tmp_path / "st").mkdir()
    path.rename(tmp_path / "st" / "x.h5ad")
    (tmp_path / "HEST_v1.csv").write_text(f"id,st_technology,spot_diameter\nx,{technology},128\n")
    notes = sb.read_spots(tmp_path).uns["notes"]
    assert any("bins of 16" in note for note in notes) == ("pooled-depth" in found)
    if "pooled-depth" in found:
        finding = found["pooled-depth"]
        assert "5 for each of 64 bins of 16 µm" in finding.text
        assert not finding.fatal
