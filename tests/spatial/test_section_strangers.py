"""Sections as strangers store them: genes, logarithms and positions mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from spade_bench.errors import DataError
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.instruments.spaceranger import _positions
from spade_bench.spatial.sample import StSample
from spade_bench.spatial.scales import lognorm, natural_logs, value_kind
from spade_bench.spatial.sectionchecks import check_sample

N, GENES = 20, 300
XY = np.stack([np.arange(N) % 5, np.arange(N) // 5], axis=1) * 200.0


def store(path: Path, var: pd.DataFrame, values: Any = None, spatial: Any = None) -> StSample:
    counts = np.tile(np.arange(1, GENES + 1, dtype=np.float32), (N, 1))
    obs = pd.DataFrame(index=[f"b{i}" for i in range(N)])
    data = anndata.AnnData(counts if values is None else values, obs=obs, var=var)
    data.obsm["spatial"] = XY if spatial is None else spatial
    data.write_h5ad(path)
    return StSample("s", h5ad=path)


@pytest.mark.parametrize("column", ["feature_name", "gene_symbols", "Symbol"])
@pytest.mark.parametrize("pattern", ["{}", "gene-{}", "row_{}"])
def test_row_numbers_give_way_to_symbols(column: str, pattern: str, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(GENES)
    symbols = np.array([f"SYM{i}" for i in range(GENES)])
    index = [pattern.format(i) for i in range(GENES)]
    sample = store(tmp_path / "a.h5ad", pd.DataFrame({column: symbols[order]}, index=index))
    np.testing.assert_array_equal(read_expression(sample).genes, symbols[order])


NUMBERINGS = [
    *("{}", "{}.0", "gene_{}", "gene-{}.0", "Gene {}", "Unnamed: {}", "feature.{:05d}", "probe_{}"),
    *("A_{}", "sample1-{}", "ENS_{}"),
]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("pattern", NUMBERINGS)
def test_row_numbers_without_symbols_are_refused(pattern: str, first: int, tmp_path: Path) -> None:
    index = [pattern.format(i) for i in np.random.default_rng(0).permutation(GENES) + first]
    sample = store(tmp_path / "a.h5ad", pd.DataFrame(index=index))
    with pytest.raises(DataError, match="gene names are row numbers"):
        read_expression(sample)


@pytest.mark.parametrize("pattern", NUMBERINGS)
@pytest.mark.parametrize("column", ["gene_symbols", "gene_ids"])
def test_columns_of_row_numbers_are_not_taken(column: str, pattern: str, tmp_path: Path) -> None:
    numbers = [pattern.format(i) for i in range(GENES)]
    index = [str(i) for i in range(GENES)]
    sample = store(tmp_path / "a.h5ad", pd.DataFrame({column: numbers}, index=index))
    with pytest.raises(DataError, match="gene names are row numbers"):
        read_expression(sample)
    right = [f"ENSG{i:011d}" for i in range(GENES)]
    table = pd.DataFrame({column: numbers, "Symbol": right}, index=index)
    assert list(read_expression(store(tmp_path / "b.h5ad", table)).genes) == right
    sample = store(tmp_path / "c.h5ad", pd.DataFrame({column: numbers}, index=right))
    assert list(read_expression(sample).genes) == right


@pytest.mark.parametrize("pattern", ["G{}", "GENE{}", "PA_{:04d}", "ENSG{:011d}", "LOC{}"])
def test_names_that_end_in_numbers_stay(pattern: str, tmp_path: Path) -> None:
    names = [pattern.format(i) for i in range(GENES)]
    assert list(read_expression(store(tmp_path / "a.h5ad", pd.DataFrame(index=names))).genes) == (
        names
    )


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("blank", ["", "nan", "NA", "-", "None"])
def test_blank_names_in_the_index_are_never_joined(blank: str, ids: bool, tmp_path: Path) -> None:
    ensembl = [f"ENSG{i:011d}" for i in range(GENES)]
    index = [blank if i % 5 == 0 else f"G{i}" for i in range(GENES)]
    var = pd.DataFrame({"gene_ids": ensembl} if ids else {}, index=index)
    found = [
        read_expression(replace(store(tmp_path / "a.h5ad", var), sample_id=name)).genes
        for name in ("s", "t")
    ]
    assert len(set(found[0])) == GENES
    shared = set(found[0]) & set(found[1])
    assert shared == {ensembl[i] if ids and i % 5 == 0 else f"G{i}" for i in range(GENES)
                      if ids or i % 5}  # fmt: skip


def test_no_name_at_all_is_refused(tmp_path: Path) -> None:
    var = pd.DataFrame(index=pd.Index(["nan"] * GENES))
    var.index = var.index + [" " * i for i in range(GENES)]
    with pytest.raises(DataError, match="no gene has a name"):
        read_expression(store(tmp_path / "a.h5ad", var))


@pytest.mark.parametrize("blank", [np.nan, "", "NA", "-", "None"])
def test_blank_symbols_keep_their_id(blank: Any, tmp_path: Path) -> None:
    ids = [f"ENSG{i:011d}" for i in range(GENES)]
    symbols = [blank if i % 5 == 0 else f"G{i}" for i in range(GENES)]
    sample = store(tmp_path / "a.h5ad", pd.DataFrame({"gene_symbols": symbols}, index=ids))
    genes = read_expression(sample).genes
    assert len(genes) == GENES
    assert list(genes[:2]) == [ids[0], "G1"]


def test_versions_of_ensembl_ids_are_joined(tmp_path: Path) -> None:
    ids = [f"ENSG{i:011d}.{i % 9 + 1}" for i in range(GENES)]
    found = read_expression(store(tmp_path / "a.h5ad", pd.DataFrame(index=ids)))
    assert list(found.genes) == [name.split(".")[0] for name in ids]
    assert any("without their versions" in finding.text for finding in found.findings)


COUNTS = np.random.default_rng(0).poisson(1.5, (60, 300)).astype(np.float64)
NORMED = COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4


@pytest.mark.parametrize("base", [np.e, 2.0, 10.0])
@pytest.mark.parametrize("kind", ["counts", "normalised", "subset"])
def test_every_base_of_logarithm_ends_at_the_same_values(base: float, kind: str) -> None:
    linear = {"counts": COUNTS, "normalised": NORMED, "subset": NORMED[:, ::7]}[kind]
    stored = sp.csr_matrix((np.log1p(linear) / np.log(base)).astype(np.float32))
    natural, found = natural_logs(stored, "f")
    want = np.log1p(linear) if kind == "subset" else np.log1p(NORMED)
    got = lognorm(natural, value_kind(natural)).toarray()
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    assert bool(found) == (base != np.e)


STRONG = np.random.default_rng(1).poisson(60, (60, 40)) + 2.0  # no gene has a count of one
SIZES = np.random.default_rng(2).uniform(0.3, 3, (60, 1))  # spots do not share a total


@pytest.mark.parametrize("base", [np.e, 2.0, 10.0])
@pytest.mark.parametrize("linear", [COUNTS / SIZES, STRONG / SIZES, NORMED[:, :40]])
def test_bases_are_told_without_a_shared_total(linear: np.ndarray, base: float) -> None:
    stored = sp.csr_matrix((np.log1p(linear) / np.log(base)).astype(np.float32))
    natural, found = natural_logs(stored, "f")
    np.testing.assert_allclose(natural.toarray(), np.log1p(linear), rtol=1e-4, atol=1e-5)
    assert [f.kind for f in found] == ([] if base == np.e else ["log-base"])


ROOTS = {
    "square roots": np.sqrt,
    "Anscombe transforms": lambda x: 2 * np.sqrt(x + 3 / 8),
    "Anscombe transforms shifted to zero": lambda x: 2 * np.sqrt(x + 3 / 8) - 2 * np.sqrt(3 / 8),
    "Freeman-Tukey transforms": lambda x: np.sqrt(x) + np.sqrt(x + 1),
    "Freeman-Tukey transforms shifted to zero": lambda x: np.sqrt(x) + np.sqrt(x + 1) - 1,
    "arcsinh transforms": np.arcsinh,
    "arcsinh transforms of square roots": lambda x: np.arcsinh(np.sqrt(x)),
}
MANY = np.random.default_rng(4).poisson(np.random.default_rng(5).gamma(0.3, 1.0, 9000), (60, 9000))


@pytest.mark.parametrize("linear", ["counts", "normalised", "subset", "many genes"])
@pytest.mark.parametrize("name", ROOTS)
def test_roots_of_counts_are_refused_by_name(name: str, linear: str) -> None:
    many = MANY / MANY.sum(axis=1, keepdims=True) * 1e4
    values = {
        "counts": COUNTS, "normalised": NORMED, "subset": NORMED[:, ::7], "many genes": many
    }[linear]  # fmt: skip
    with pytest.raises(DataError, match=f"expression values are {name} of counts"):
        natural_logs(sp.csr_matrix(ROOTS[name](values).astype(np.float32)), "f")


def test_square_roots_are_refused_and_counts_left_alone() -> None:
    with pytest.raises(DataError, match="square roots"):
        natural_logs(sp.csr_matrix(np.sqrt(COUNTS).astype(np.float32)), "f")
    matrix = sp.csr_matrix(COUNTS.astype(np.float32))
    assert natural_logs(matrix, "f") == (matrix, [])


VAR = pd.DataFrame(index=[f"G{i}" for i in range(GENES)])


@pytest.mark.parametrize(
    "names", [("x", "y"), ("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow")]
)
def test_positions_go_by_their_header(names: tuple[str, str], tmp_path: Path) -> None:
    index = [f"b{i}" for i in range(N)]
    table = pd.DataFrame({names[1]: XY[:, 1], names[0]: XY[:, 0]}, index=index)
    np.testing.assert_array_equal(
        read_expression(store(tmp_path / "a.h5ad", VAR, spatial=table)).spatial, XY
    )
    table.columns = ["first", "second"]
    with pytest.raises(DataError, match="has the columns first, second"):
        read_expression(store(tmp_path / "b.h5ad", VAR, spatial=table))


@pytest.mark.parametrize(
    "names",
    [
        ("pxl_col_in_fullres", "pxl_row_in_fullres"),
        *(("pxl_col", "pxl_row"), ("imagecol", "imagerow"), ("pixel_x", "pixel_y")),
        *(("x", "y"), ("X", "Y")),
    ],
)
def test_positions_in_obs_are_used_by_their_names(names: tuple[str, str], tmp_path: Path) -> None:
    table = {names[1]: XY[:, 1], names[0]: XY[:, 0]}
    if names[0].lower() != "x":  # numbers of the array beside pixels
        table |= {"x": np.arange(N), "y": np.arange(N)}
    assert found_positions(tmp_path / "a.h5ad", table) == XY.tolist()
    assert found_positions(tmp_path / "b.h5ad", {**table, "array_row": 1, "array_col": 2}) == (
        XY.tolist()
    )
    with pytest.raises(DataError, match="1 spots have no finite position"):
        holes = np.where(np.arange(N) == 3, np.nan, XY[:, 0])
        found_positions(tmp_path / "c.h5ad", table | {names[0]: holes})


def found_positions(path: Path, table: dict[str, Any]) -> list[list[float]]:
    """Positions of a file without obsm['spatial'] and with these columns in obs."""
    store(path, VAR)
    data = anndata.read_h5ad(path)
    del data.obsm["spatial"]
    for name, values in table.items():
        data.obs[name] = values
    data.write_h5ad(path)
    found = read_expression(StSample("s", h5ad=path))
    assert any("positions taken from obs" in finding.text for finding in found.findings)
    spatial: list[list[float]] = found.spatial.tolist()
    return spatial


@pytest.mark.parametrize("table", [{}, {"array_row": 3, "array_col": 4}, {"x": 1.0}])
def test_without_positions_the_remedy_is_named(table: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no obsm\['spatial'\].*columns x and y of obs") as found:
        found_positions(tmp_path / "a.h5ad", table)
    assert ("count spots, not pixels" in str(found.value)) == ("array_row" in table)


@pytest.mark.parametrize("scale", [0.01, 1e-3, 100.0])
def test_positions_that_are_no_pixels_drop_their_section(scale: float, tmp_path: Path) -> None:
    sample = store(tmp_path / "a.h5ad", VAR, spatial=XY * scale)
    sample = replace(sample, organ="Lung", technology="Visium")
    found = check_sample(sample, read_expression(sample)).findings
    assert any("not in pixels" in f.text and f.fatal for f in found)


def test_broken_positions_and_empty_values_are_refused(tmp_path: Path) -> None:
    holes = XY.copy()
    holes[3, 0] = np.nan
    with pytest.raises(DataError, match="1 spots have no finite position"):
        read_expression(store(tmp_path / "a.h5ad", VAR, spatial=holes))
    with pytest.raises(DataError, match="one \\(x, y\\) per spot"):
        read_expression(store(tmp_path / "b.h5ad", VAR, spatial=XY[:, :1]))
    (tmp_path / "c.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n junk")
    with pytest.raises(DataError, match="cannot read it as h5ad"):
        read_expression(StSample("s", h5ad=tmp_path / "c.h5ad"))


@pytest.mark.parametrize("place", ["layer", "raw"])
def test_counts_elsewhere_are_pointed_to(place: str, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(2, (N, GENES)).astype(np.float32)
    data = anndata.AnnData(counts, obs=pd.DataFrame(index=[f"b{i}" for i in range(N)]), var=VAR)
    data.obsm["spatial"] = XY
    if place == "layer":
        data.layers["counts"] = counts.copy()
    else:
        data.raw = data.copy()
    data.X = (counts - counts.mean(axis=0)).astype(np.float32)
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match=r"counts are in (layers|raw)"):
        read_expression(StSample("s", h5ad=tmp_path / "a.h5ad"))


NAMES = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres"]
NAMES.append("pxl_col_in_fullres")
ROW = dict(zip(NAMES, ["AC-1", "1", "3", "4", "100", "2000"], strict=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 5, 4), (4, 5, 1, 2, 3, 0)])
def test_tables_of_positions_go_by_their_header(
    order: tuple[int, ...], separator: str, encoding: str, tmp_path: Path
) -> None:
    names = [NAMES[i] for i in order]
    lines = [separator.join(names), separator.join(ROW[name] for name in names)]
    (tmp_path / "spatial").mkdir()
    path = tmp_path / "spatial" / "tissue_positions.csv"
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    assert _positions(tmp_path) == {"AC-1": (1.0, 3.0, 4.0, 100.0, 2000.0)}


def test_positions_without_a_header_or_with_half_of_one(tmp_path: Path) -> None:
    (tmp_path / "spatial").mkdir()
    path = tmp_path / "spatial" / "tissue_positions_list.csv"
    path.write_text("AC-1,1,3,4,100,2000\n")
    assert _positions(tmp_path) == {"AC-1": (1.0, 3.0, 4.0, 100.0, 2000.0)}
    path.write_text("barcode,in_tissue,array_row,x,y\nAC-1,1,3,4,100\n")
    with pytest.raises(DataError, match="no column array_col"):
        _positions(tmp_path)


def section(total: float, seed: int, lonely: bool = False) -> sp.csr_matrix:
    """Counts of a section scaled to a total; the last spot may have a single gene."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.3, 3.0, 400), (80, 400)).astype(np.float64)
    counts[:, 0] += 3
    if lonely:
        counts[-1] = 0
        counts[-1, 5] = 7
    return sp.csr_matrix(counts / counts.sum(axis=1, keepdims=True) * total)


@pytest.mark.parametrize("lonely", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_large_values_excuse_no_others(seed: int, lonely: bool) -> None:
    for total in (1e4, 1e5, 1e6):  # linear: whatever its size, no root and no logarithm
        linear = section(total, seed, lonely).astype(np.float32)
        same, found = natural_logs(linear, "f")
        assert same is linear
        assert not found
        assert value_kind(linear) == "normalised"
    want = np.log1p(section(1e4, seed, lonely).toarray())
    for base in (np.e, 2.0, 10.0):
        stored = section(1e4, seed, lonely)
        stored.data = np.log1p(stored.data) / np.log(base)
        natural, found = natural_logs(stored.astype(np.float32), "f")
        assert bool(found) == (base != np.e)
        assert value_kind(natural) == "log-normalised"
        np.testing.assert_allclose(natural.toarray(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("peak", np.linspace(5.6, 6.2, 13))
def test_a_natural_logarithm_of_any_height_stays_one(peak: float) -> None:
    values = section(1e4, 3)
    values.data = np.log1p(values.data)
    values.data *= peak / values.data.max()  # totals differ then, as in a subset of genes
    stored = values.astype(np.float32)
    same, found = natural_logs(stored, "f")
    assert same is stored
    assert [f.kind for f in found] == ["log-base-unknown"]  # said, since nothing proves it
    assert value_kind(same) == "log-normalised"


@pytest.mark.parametrize("stated", [0.5, None])
@pytest.mark.parametrize("places", [XY * 0, np.repeat(XY[:4], 5, axis=0)])
def test_spots_on_top_of_each_other_drop_their_section(
    places: np.ndarray, stated: float | None, tmp_path: Path
) -> None:
    sample = store(tmp_path / "a.h5ad", VAR, spatial=places)
    sample = replace(sample, organ="Lung", technology="Visium", pixel_size_um=stated)
    found = check_sample(sample, read_expression(sample)).findings
    assert any(f.kind == "positions-equal" and f.fatal for f in found)


@pytest.mark.parametrize("content", [b"half a download", b"", b"\x89HDF\r\n\x1a\n" + bytes(40)])
def test_a_broken_patch_file_drops_its_section(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.h5").write_bytes(content)
    sample = replace(store(tmp_path / "a.h5ad", VAR), patches=tmp_path / "p.h5", organ="Lung")
    found = check_sample(sample, read_expression(sample)).findings
    assert any(f.kind == "patches-unreadable" and f.fatal for f in found)
