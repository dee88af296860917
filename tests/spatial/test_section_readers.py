"""HEST folders, manifests and Space Ranger output: everything read, nothing guessed silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from spade_bench.errors import ConfigError, DataError
from spade_bench.spatial import load_expression, read_hest, read_manifest, read_spaceranger
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.sample import StSample
from spade_bench.spatial.samplechoice import filter_samples

GENES = ["A", "B", "C", "B"]


def h5ad(path: Path, *, x: Any = None, spatial: Any = "grid", genes: Any = GENES) -> Path:
    values = np.array([[1, 2, 0, 3], [0, 5, 1, 0], [2, 0, 0, 0]], np.float32) if x is None else x
    data = anndata.AnnData(
        sp.csr_matrix(values),
        obs=pd.DataFrame(index=["s1", "s2", "s3"]),
        var=pd.DataFrame(index=list(genes)),
    )
    if spatial is not None:
        data.obsm["spatial"] = np.arange(6.0).reshape(3, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_h5ad(path)
    return path


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_duplicate_genes_are_added_up_in_linear_space(tmp_path: Path) -> None:
    sample = StSample("x", h5ad=h5ad(tmp_path / "x.h5ad"))
    data = read_expression(sample)
    assert data.genes.tolist() == ["A", "B", "C"]
    np.testing.assert_array_equal(data.values.toarray(), [[1, 5, 0], [0, 5, 1], [2, 0, 0]])
    assert [(f.kind, f.count) for f in data.findings] == [("duplicate-genes", 1)]
    logs = h5ad(tmp_path / "y.h5ad", x=np.log1p([[1.0, 2, 0, 3], [0, 5, 1, 0], [2, 0, 0, 0]]))
    values = read_expression(StSample("y", h5ad=logs)).values.toarray()
    np.testing.assert_allclose(np.expm1(values), data.values.toarray(), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_expression_as_anndata_keeps_barcodes_and_centres(tmp_path: Path) -> None:
    loaded = load_expression(StSample("x", h5ad=h5ad(tmp_path / "x.h5ad")))
    assert loaded.obs_names.tolist() == ["s1", "s2", "s3"]
    np.testing.assert_array_equal(loaded.obsm["spatial"], np.arange(6.0).reshape(3, 2))
    assert sp.issparse(loaded.X)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_unusable_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spatial"):
        read_expression(StSample("x", h5ad=h5ad(tmp_path / "a.h5ad", spatial=None)))
    broken = np.array([[1, np.nan, 0, 3], [0, 5, 1, 0], [2, 0, 0, 0]])
    with pytest.raises(DataError, match="1 expression values"):
        read_expression(StSample("x", h5ad=h5ad(tmp_path / "b.h5ad", x=broken)))
    (tmp_path / "c.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"c\.h5ad"):
        read_expression(StSample("x", h5ad=tmp_path / "c.h5ad"))
    with pytest.raises(DataError, match="no such file"):
        read_expression(StSample("x", h5ad=tmp_path / "d.h5ad"))


def test_ensembl_ids_give_way_to_symbols(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "x.h5ad", genes=[f"ENSG0000000000{i}" for i in range(4)])
    data = anndata.read_h5ad(path)
    data.var["gene_name"] = ["A", "B", "C", "D"]
    data.write_h5ad(path)
    read = read_expression(StSample("x", h5ad=path))
    assert read.genes.tolist() == ["A", "B", "C", "D"]
    assert [f.kind for f in read.findings] == ["gene-ids"]


def hest_folder(root: Path) -> Path:
    genes = ["A", "B", "C", "D"]
    for name in ("S1", "S2"):
        h5ad(root / "st" / f"{name}.h5ad", genes=genes)
    old = "id,organ,patient\nS1,Skin,\n"
    new = (
        "id,organ,patient,species,st_technology,pixel_size_um_estimated,inter_spot_dist,nb_genes\n"
        "S2,Breast,P1,Homo sapiens,Visium,0.5,100,20000\n"
        "S9,Breast,P2,Homo sapiens,Visium,0.5,100,20000\n"
        "S1,Brain,,Mus musculus,Visium,0.5,100,9000\n"
    )
    (root / "HEST_v1_0_0.csv").write_text(old)
    (root / "HEST_v1_10_0.csv").write_text(new)
    return root


def test_hest_takes_the_newest_csv_and_only_what_is_there(tmp_path: Path) -> None:
    samples = read_hest(hest_folder(tmp_path))
    assert [s.sample_id for s in samples] == ["S2", "S1"]
    assert [s.organ for s in samples] == ["Breast", "Brain"]
    assert [s.patient for s in samples] == ["P1", None]
    assert samples[0].spot_pitch_um == 100
    assert samples[0].image is None


def test_hest_without_metadata_or_files_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such HEST folder"):
        read_hest(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no expression files"):
        read_hest(tmp_path)
    h5ad(tmp_path / "st" / "S1.h5ad", genes=["A", "B", "C", "D"])
    with pytest.raises(DataError, match="no metadata"):
        read_hest(tmp_path)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "S1.json").write_text(json.dumps({"organ": "Lung"}))
    assert read_hest(tmp_path)[0].organ == "Lung"


def test_filter_gives_a_reason_for_every_sample(tmp_path: Path) -> None:
    samples = read_hest(hest_folder(tmp_path))
    kept, dropped = filter_samples(samples, include={"species": "Homo sapiens"})
    assert [s.sample_id for s in kept] == ["S2"]
    assert dropped == {"S1": "species is Mus musculus"}
    assert filter_samples(samples, min_genes=10_000)[1] == {
        "S1": "nb_genes is 9,000, not above 10,000"
    }
    assert filter_samples(samples, exclude={"organ": ["brain"]})[1] == {"S1": "organ is Brain"}
    assert filter_samples(samples, exclude_ids=["S2"])[1] == {"S2": "in samples.exclude_ids"}
    assert [s.sample_id for s in filter_samples(samples, ids=["S1"])[0]] == ["S1"]
    with pytest.raises(ConfigError, match="specis"):
        filter_samples(samples, include={"specis": "Homo sapiens"})
    with pytest.raises(ConfigError, match="S7"):
        filter_samples(samples, ids=["S7"])


def test_manifest_paths_are_relative_to_the_csv(tmp_path: Path) -> None:
    h5ad(tmp_path / "in" / "x.h5ad", genes=list("ABCD"))
    (tmp_path / "m.csv").write_text("sample_id,h5ad,pixel_size_um,organ,patient\nx,in/x.h5ad,,,\n")
    (sample,) = read_manifest(tmp_path / "m.csv")
    assert sample.h5ad == tmp_path / "in" / "x.h5ad"
    assert (sample.organ, sample.patient, sample.pixel_size_um) == ("unknown", None, None)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sample_id,organ\nx,Lung\n", "no column 'h5ad'"),
        ("sample_id,h5ad,pixel_size\nx,x.h5ad,1\n", "Did you mean 'pixel_size_um'"),
        ("sample_id,h5ad\nx,gone.h5ad\n", "no such file"),
        ("sample_id,h5ad\nx,x.h5ad\nx,x.h5ad\n", "given twice"),
        ("sample_id,h5ad,pixel_size_um\nx,x.h5ad,-1\n", "pixel_size_um is '-1'"),
        ("sample_id,h5ad\n", "no rows"),
        ("sample_id,h5ad\na/b,x.h5ad\n", "slash"),
    ],
)
def test_manifest_errors_say_what_to_do(tmp_path: Path, text: str, match: str) -> None:
    h5ad(tmp_path / "x.h5ad", genes=list("ABCD"))
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=match):
        read_manifest(tmp_path / "m.csv")


def outs_folder(root: Path, *, header: bool) -> Path:
    """A Space Ranger run: 12 lattice spots 200 px apart, of which one has no counts."""
    outs = root / "run7" / "outs"
    (outs / "spatial").mkdir(parents=True)
    rows = []
    for row in range(3):
        for i in range(4):
            col = 2 * i + row % 2
            y, x = 1000 + row * 173.2, 500 + col * 100
            rows.append((f"BC{row}{i}-1", 1, row, col, y, x))
    names = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row", "pxl_col"]
    table = pd.DataFrame(rows, columns=names)
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    table.to_csv(outs / "spatial" / name, index=False, header=header)
    factors = {"spot_diameter_fullres": 130.0}
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    barcodes = [r[0] for r in rows[1:]] + ["LOST-1"]
    counts = sp.csr_matrix(np.arange(12 * 3).reshape(12, 3) % 5)
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as handle:
        group = handle.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = (
            counts.data,
            counts.indices,
            counts.indptr,
        )
        group["shape"], group["barcodes"] = [3, 12], np.array(barcodes, dtype="S")
        group["features/name"] = np.array(["A", "B", "tag"], dtype="S")
        kinds = ["Gene Expression", "Gene Expression", "Antibody Capture"]
        group["features/feature_type"] = np.array(kinds, dtype="S")
    return outs


@pytest.mark.parametrize("header", [True, False])
def test_spaceranger_joins_by_barcode_and_knows_its_scale(tmp_path: Path, header: bool) -> None:
    outs = outs_folder(tmp_path, header=header)
    (sample,) = read_spaceranger(outs.parent)
    assert sample.sample_id == "run7"
    assert sample.pixel_size_um == pytest.approx(0.5)
    data = read_expression(sample)
    assert data.genes.tolist() == ["A", "B"]
    assert data.barcodes[0] == "BC01-1"
    np.testing.assert_allclose(data.spatial[0], [700, 1000])  # x is the column
    assert {f.kind: f.count for f in data.findings} == {
        "barcodes-no-position": 1,
        "barcodes-no-counts": 1,
    }


def test_spaceranger_names_the_missing_file(tmp_path: Path) -> None:
    outs = outs_folder(tmp_path, header=True)
    (outs / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(DataError, match="tissue_positions"):
        read_spaceranger(outs)
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(DataError, match="filtered_feature_bc_matrix"):
        read_spaceranger(outs)


def test_spaceranger_finds_the_one_image_beside_it(tmp_path: Path) -> None:
    outs = outs_folder(tmp_path, header=True)
    (outs / "spatial" / "tissue_hires_image.png").write_bytes(b"")
    assert read_spaceranger(outs)[0].image is None
    (outs.parent / "V1_image.tif").write_bytes(b"")
    assert read_spaceranger(outs)[0].image == outs.resolve().parent / "V1_image.tif"
    (outs / "other_fullres.jpg").write_bytes(b"")
    assert read_spaceranger(outs)[0].image is None
