"""Space Ranger files under the names that repositories give them, whole and damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from spade_bench.errors import DataError
from spade_bench.spatial import read_spaceranger
from spade_bench.spatial.expression import read_expression

MATRIX = "filtered_feature_bc_matrix.h5"
SCALE = "scalefactors_json.json"
LIST, TABLE = "tissue_positions_list.csv", "tissue_positions.csv"


def write_matrix(path: Path, n: int = 12) -> None:
    counts = sp.csr_matrix(np.arange(n * 3).reshape(n, 3) % 5)
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(counts, name)
        group["shape"] = [3, n]
        group["barcodes"] = np.array([f"B{i}-1" for i in range(n)], dtype="S")
        group["features/name"] = np.array(["A", "B", "C"], dtype="S")
        group["features/feature_type"] = np.array(["Gene Expression"] * 3, dtype="S")


def write_outs(
    folder: Path, prefix: str = "", *, spatial: str = "spatial", positions: str = LIST
) -> Path:
    """A section of twelve spots; names ending in .gz are compressed."""
    (folder / spatial).mkdir(parents=True, exist_ok=True)
    write_matrix(folder / f"{prefix}{MATRIX}")
    rows = [f"B{i}-1,1,{i // 4},{2 * (i % 4)},{1000 + 173 * (i // 4)},{500 + 200 * (i % 4)}"
            for i in range(12)]  # fmt: skip
    text = ("\n".join(rows) + "\n").encode()
    packed = gzip.compress(text) if positions.endswith(".gz") else text
    (folder / spatial / f"{prefix}{positions}").write_bytes(packed)
    (folder / spatial / f"{prefix}{SCALE}").write_text('{"spot_diameter_fullres": 130.0}')
    return folder


@pytest.mark.parametrize("prefix", ["", "GSM123_LUNG1_", "lung.", "V1_Lung-"])
@pytest.mark.parametrize("spatial", ["spatial", "."])
@pytest.mark.parametrize("positions", [LIST, TABLE, f"{LIST}.gz", f"{TABLE}.gz"])
def test_one_set_of_files_is_found(
    prefix: str, spatial: str, positions: str, tmp_path: Path
) -> None:
    write_outs(tmp_path / "lung", prefix, spatial=spatial, positions=positions)
    (sample,) = read_spaceranger(tmp_path / "lung")
    assert (sample.sample_id, sample.pixel_size_um) == ("lung", 0.5)
    data = read_expression(sample)
    assert (len(data.barcodes), data.spot_diameter_px) == (12, 130.0)
    np.testing.assert_array_equal(data.spatial[1], [700, 1000])


@pytest.mark.parametrize("name", [MATRIX, SCALE])
def test_other_files_may_be_compressed_too(name: str, tmp_path: Path) -> None:
    path = next(write_outs(tmp_path, "GSM1_").rglob(f"GSM1_{name}"))
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    data = read_expression(read_spaceranger(tmp_path)[0])
    assert (len(data.barcodes), data.spot_diameter_px) == (12, 130.0)


@pytest.mark.parametrize("name", [MATRIX, f"spatial/{LIST}", f"spatial/{SCALE}"])
def test_two_candidates_are_refused_by_their_names(name: str, tmp_path: Path) -> None:
    write_outs(tmp_path, "GSM1_A_")
    first = (tmp_path / name).with_name(f"GSM1_A_{Path(name).name}")
    second = first.with_name(f"GSM2_B_{Path(name).name}")
    second.write_bytes(first.read_bytes())
    with pytest.raises(DataError) as found:
        read_spaceranger(tmp_path)
    assert f"{first.name} and " in str(found.value)
    assert second.name in str(found.value)
    (tmp_path / name).write_bytes(first.read_bytes())  # Space Ranger's own name is none of two
    read_spaceranger(tmp_path)


@pytest.mark.parametrize("name", [MATRIX, f"spatial/{LIST}", f"spatial/{SCALE}"])
def test_files_of_two_sections_are_never_joined(name: str, tmp_path: Path) -> None:
    write_outs(tmp_path, "GSM1_A_")
    path = (tmp_path / name).with_name(f"GSM1_A_{Path(name).name}")
    path.rename(path.with_name(f"GSM2_B_{Path(name).name}"))
    with pytest.raises(DataError, match="are named after different sections"):
        read_spaceranger(tmp_path)


@pytest.mark.parametrize(
    ("name", "other"),
    [(MATRIX, "filtered_gene_bc_matrices.h5"), (f"spatial/{LIST}", "spatial/spots.csv")],
)
def test_other_names_come_with_the_remedy(name: str, other: str, tmp_path: Path) -> None:
    write_outs(tmp_path).joinpath(name).rename(tmp_path / other)
    with pytest.raises(DataError) as found:
        read_spaceranger(tmp_path)
    assert f"only {Path(other).name}" in str(found.value)
    assert f"rename it so that its name ends in {Path(name).name}." in str(found.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damage(kind: str, folder: Path) -> None:
    matrix, table, scale = folder / MATRIX, folder / "spatial" / LIST, folder / "spatial" / SCALE
    if kind.startswith("matrix"):
        if kind == "matrix cut":
            return _cut(matrix)
        with h5py.File(matrix, "r+") as handle:
            group = handle["matrix"]
            if kind == "matrix place":
                group["indices"][0] = 99
            elif kind == "matrix starts":
                group["indptr"][3] = 10**6
            elif kind == "matrix shape":
                group["shape"][:] = [3, 11]
            elif kind == "matrix names":
                del group["features/name"]
                group["features/name"] = np.array([b"A", b"\xff\xfe", b"C"])
            elif kind == "matrix group":
                del group["barcodes"]
                group.create_group("barcodes")
            elif kind == "matrix short":
                del group["barcodes"]
                group["barcodes"] = np.array([b"B0-1"])
        return None
    texts = {
        "positions nan": "B0-1,1,0,0,nan,5\n",
        "positions comma": "B0-1;1;0;0;1000,5;500,5\n",
        "positions twice": "B0-1,1,0,0,1,5\n" * 2,
        "positions empty": "",
        "positions workbook": "PK\x03\x04",
        "positions gzip": "",
        "scale list": "[1]",
        "scale text": '{"spot_diameter_fullres": "n/a"}',
        "scale cut": '{"spot_diameter',
    }
    (table if kind.startswith("positions") else scale).write_text(texts[kind])
    if kind == "positions gzip":
        table.write_bytes(gzip.compress(b"B0-1,1,0,0,1,5\n" * 99)[:-12] + b"x" * 12)
    return None


@pytest.mark.parametrize(
    "kind",
    [
        *("matrix cut", "matrix place", "matrix starts", "matrix shape", "matrix names"),
        *("matrix group", "matrix short", "positions nan", "positions comma", "positions twice"),
        *("positions empty", "positions workbook", "positions gzip"),
        *("scale list", "scale text", "scale cut"),
    ],
)
def test_damage_names_the_file(kind: str, tmp_path: Path) -> None:
    _damage(kind, write_outs(tmp_path))
    (sample,) = read_spaceranger(tmp_path)  # one damaged section does not end the list
    with pytest.raises(DataError) as found:
        read_expression(sample)
    names = {"matrix": MATRIX, "positions": LIST, "scale": SCALE}
    assert names[kind.split(maxsplit=1)[0]] in str(found.value)


def test_genes_of_a_matrix_follow_the_same_rule(tmp_path: Path) -> None:
    (sample,) = read_spaceranger(write_outs(tmp_path, "A_"))
    with h5py.File(tmp_path / f"A_{MATRIX}", "r+") as handle:
        features = handle["matrix/features"]
        features["name"][:] = np.array([b"0", b"1", b"2"])
    with pytest.raises(DataError, match="gene names are row numbers"):
        read_expression(sample)
    with h5py.File(tmp_path / f"A_{MATRIX}", "r+") as handle:
        features = handle["matrix/features"]
        features["name"][:] = np.array([b"A", b"", b""])
        features["id"] = np.array([b"ENSG1", b"ENSG2", b"ENSG3"])
    assert list(read_expression(sample).genes) == ["A", "ENSG2", "ENSG3"]
