"""Bins of Visium HD pooled into spots: nothing lost, everything in its place."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from toy_sections import MPP, place, write_visium_hd

import spade_bench as sb
from spade_bench.spatial import read_section
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.instruments import visiumhd
from spade_bench.spatial.instruments.pseudospots import Pooling
from spade_bench.spatial.instruments.tenxmatrix import read_matrix, sum_matrix
from spade_bench.spatial.instruments.visiumhd import find_bins


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_visium_hd(tmp_path_factory.mktemp("hd") / "run5")


def bins_of(outs: Path, size: int) -> Path:
    return outs / "binned_outputs" / f"square_{size:03d}um"


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize(
    "grid", [(112, "square"), (100, "square"), (55, "hexagonal"), (128, "hexagonal")]
)
def test_every_bin_counts_once(outs: Path, size: int, grid: tuple[float, str]) -> None:
    spots = sb.read_spots(outs, spot_um=grid[0], spot_grid=grid[1], bin_um=size)
    whole = read_matrix(bins_of(outs, size) / "filtered_feature_bc_matrix.h5")[0]
    np.testing.assert_array_equal(spots.X.sum(axis=0), whole.sum(axis=0))
    assert spots.X.sum(axis=1).min() > 0


def test_bins_of_both_sizes_give_the_same_spots(outs: Path) -> None:
    fine, coarse = (sb.read_spots(outs, spot_um=112, bin_um=size) for size in (8, 16))
    assert list(fine.obs_names) == list(coarse.obs_names)
    assert (fine.X != coarse.X).nnz == 0
    np.testing.assert_allclose(fine.obsm["spatial"], coarse.obsm["spatial"], atol=1e-6)


def test_spots_lie_where_their_bins_lie(outs: Path) -> None:
    spots = sb.read_spots(outs, spot_um=112)
    row, column = (np.array([int(name.split("_")[i]) for name in spots.obs_names]) for i in (2, 3))
    wanted = place(np.stack([column + 0.5, row + 0.5], axis=1) * 112)
    np.testing.assert_allclose(spots.obsm["spatial"], wanted, atol=1e-6)
    assert spots.uns["technology"] == "Visium HD"
    assert spots.uns["spatial_unit"] == "px"
    assert (spots.uns["pixel_size_um"], spots.uns["spot_um"]) == (MPP, 112)


def test_the_public_pooling_would_lose_nearly_all(outs: Path) -> None:
    spots = sb.read_spots(outs, spot_um=128, bin_um=16)
    inner = np.asarray(spots.X.sum(axis=1)).max()
    whole = read_matrix(bins_of(outs, 16) / "filtered_feature_bc_matrix.h5")[0]
    assert inner > 40 * np.asarray(whole.sum(axis=1)).mean()  # 64 bins, not one of them


def test_positions_may_be_csv(outs: Path, tmp_path: Path) -> None:
    other = write_visium_hd(tmp_path, positions="csv")
    a, b = sb.read_spots(outs), sb.read_spots(other)
    assert (a.X != b.X).nnz == 0
    np.testing.assert_allclose(a.obsm["spatial"], b.obsm["spatial"])


@pytest.mark.parametrize("part", [".", "outs", "outs/binned_outputs",
                                  "outs/binned_outputs/square_016um"])  # fmt: skip
def test_any_folder_around_the_bins_will_do(outs: Path, part: str) -> None:
    sample = read_section(outs.parent / part)
    assert (sample.sample_id, sample.technology) == ("run5", "Visium HD")
    assert len(read_expression(sample).barcodes) == len(sb.read_spots(outs, bin_um=16).obs_names)


def test_the_coarsest_bins_that_divide_a_spot_are_taken(outs: Path) -> None:
    def said(spot_um: float) -> str:
        sample = read_section(outs, pooling=Pooling(spot_um=spot_um))
        return read_expression(sample).findings[0].text

    assert "bins of 16 µm" in said(112)
    assert "bins of 8 µm" in said(88)
    assert "bins of 8 µm" in said(100)
    assert set(find_bins(outs)) == {8, 16}


def test_blocks_sum_to_the_whole(outs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = read_section(outs, pooling=Pooling(spot_um=100))
    whole = read_expression(sample)
    monkeypatch.setattr(visiumhd, "sum_matrix", partial(sum_matrix, block=300))
    pieces = read_expression(sample)
    assert (whole.values != pieces.values).nnz == 0
    assert whole.values.has_sorted_indices == pieces.values.has_sorted_indices


def test_what_is_wrong_is_named(outs: Path, tmp_path: Path) -> None:
    with pytest.raises(sb.UserError, match=r"no bins of 2 µm .* There are 8, 16"):
        sb.read_spots(outs, bin_um=2)
    with pytest.raises(sb.UserError, match="wider than spots of 10 µm"):
        sb.read_spots(outs, spot_um=10, bin_um=16)
    with pytest.raises(sb.UserError, match=r"min_qv.* belongs to xenium, and this is visium-hd"):
        sb.read_spots(outs, min_qv=20)
    broken = write_visium_hd(tmp_path)
    folder = bins_of(broken, 16)
    (folder / "spatial" / "scalefactors_json.json").write_text('{"microns_per_pixel": 2.7}')
    with pytest.raises(sb.SpadeBenchError, match="160 µm apart by their positions"):
        sb.read_spots(broken)
    (folder / "spatial" / "scalefactors_json.json").write_text("{}")
    with pytest.raises(sb.SpadeBenchError, match="no microns_per_pixel"):
        sb.read_spots(broken)
    (bins_of(broken, 8) / "spatial" / "tissue_positions.parquet").write_bytes(b"nothing")
    with pytest.raises(sb.SpadeBenchError, match="positions cannot be read"):
        sb.read_spots(broken, bin_um=8)


def test_the_pixel_size_is_checked_against_the_lattice(outs: Path) -> None:
    from spade_bench.spatial.sectionchecks import check_sample

    sample = replace(read_section(outs), organ="Lung", patient="P")
    data = read_expression(sample)
    kinds = {finding.kind for finding in check_sample(sample, data).findings}
    assert kinds == {"pseudo-spots"}
    wrong = check_sample(replace(sample, pixel_size_um=0.5), data)
    assert any(f.kind == "pixel-size-wrong" and f.fatal for f in wrong.findings)
