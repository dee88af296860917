"""Toy sections as the instruments write them: Xenium bundles and Visium HD outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

GENES = tuple(f"GENE{i}" for i in range(12))
CONTROLS = {
    "NegControlProbe_00042": "negative_control_probe",
    "NegControlCodeword_0510": "negative_control_codeword",
    "UnassignedCodeword_0012": "unassigned_codeword",
    "DeprecatedCodeword_0318": "deprecated_codeword",
    "Intergenic_Region_1": "genomic_control_probe",
    "BLANK_0013": "unassigned_codeword",
    "antisense_PROKR2": "negative_control_probe",
}


def transcripts(n: int = 4000, seed: int = 0, side: float = 900.0) -> pd.DataFrame:
    """Transcripts of a section, denser to the right, as XOA 3 names their columns."""
    rng = np.random.default_rng(seed)
    names = np.array([*GENES[:-1], *CONTROLS])  # the last gene of the panel is never seen
    feature = names[rng.integers(0, len(names), n)]
    category = np.array([CONTROLS.get(name, "predesigned_gene") for name in feature])
    category[feature == "GENE3"] = "custom_gene"
    cell = rng.integers(0, 40, n)
    return pd.DataFrame(
        {
            "transcript_id": np.arange(n, dtype=np.uint64),
            "cell_id": np.where(cell == 0, "UNASSIGNED", [f"cell{c}-1" for c in cell]),
            "feature_name": feature,
            "x_location": (side * rng.random(n) ** 0.5).astype(np.float32),
            "y_location": (side * rng.random(n)).astype(np.float32),
            "z_location": np.full(n, 10, dtype=np.float32),
            "qv": rng.choice([5.0, 19.9, 20.0, 40.0], n).astype(np.float32),
            "codeword_category": category,
            "is_gene": np.isin(feature, GENES),
        }
    )


def of_version(table: pd.DataFrame, version: int) -> pd.DataFrame:
    """The same transcripts as XOA 1, 2 or 3 would write them."""
    if version == 3:
        return table
    table = table.drop(columns=["codeword_category", "is_gene"])
    if version == 1:
        number = table["cell_id"].str.extract(r"(\d+)-1")[0].fillna(-1).astype(np.int32)
        names = [name.encode() for name in table["feature_name"]]
        return table.assign(cell_id=number, feature_name=names)
    return table


def write_bundle(
    folder: Path, table: pd.DataFrame | None = None, *, version: int = 3, matrix: bool = True
) -> Path:
    """Write a Xenium bundle whose summary and cell matrix agree with its transcripts."""
    table = transcripts() if table is None else table
    folder.mkdir(parents=True, exist_ok=True)
    of_version(table, version).to_parquet(folder / "transcripts.parquet", row_group_size=700)
    about = {"pixel_size": 0.2125, "panel_organism": "Human", "major_version": version}
    good = int((table["qv"] >= 20).sum())
    if version == 3:
        about["num_transcripts_high_quality"] = good
    else:
        summary = pd.DataFrame({"total_high_quality_decoded_transcripts": [good]})
        summary.to_csv(folder / "metrics_summary.csv", index=False)
    (folder / "experiment.xenium").write_text(json.dumps(about))
    if matrix:
        inside = table[(table["qv"] >= 20) & (table["cell_id"] != "UNASSIGNED")]
        names = [*GENES, *CONTROLS]
        kinds = ["Gene Expression"] * len(GENES) + ["Negative Control Probe"] * len(CONTROLS)
        cells = pd.crosstab(inside["cell_id"], inside["feature_name"]).reindex(
            columns=names, fill_value=0
        )
        counts = sp.csr_matrix(cells.to_numpy())
        write_tenx(folder / "cell_feature_matrix.h5", counts, names, list(cells.index), kinds)
    return folder


def write_tenx(
    path: Path, counts: Any, names: list[str], barcodes: list[str], kinds: list[str] | None = None
) -> None:
    """Write (barcodes, features) counts as 10x HDF5."""
    counts = sp.csr_matrix(counts)
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(counts, name)
        group["shape"] = [counts.shape[1], counts.shape[0]]
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["features/name"] = np.array(names, dtype="S")
        group["features/id"] = np.array([f"ENSG{i:011}" for i in range(len(names))], dtype="S")
        group["features/feature_type"] = np.array(
            kinds or ["Gene Expression"] * len(names), dtype="S"
        )


MPP, TURN = 0.27, 0.02  # µm per px and rotation of a Visium HD slide in its image


def place(um: np.ndarray) -> np.ndarray:
    """Pixels of the full-resolution image of a Visium HD section, from µm, (n, 2)."""
    c, s = np.cos(TURN), np.sin(TURN)
    return np.asarray(um @ np.array([[c, s], [-s, c]]) / MPP + [500.0, 900.0])


def write_visium_hd(root: Path, side: int = 56, *, positions: str = "parquet") -> Path:
    """Write `outs` with bins of 8 and 16 µm of the same counts; tissue is a disc."""
    rng = np.random.default_rng(3)
    fine = rng.poisson(0.7, (2 * side, 2 * side, 5)).astype(np.float32)
    y, x = np.mgrid[: 2 * side, : 2 * side] + 0.5
    fine[(x - side) ** 2 + (y - side) ** 2 > side**2] = 0
    coarse = fine.reshape(side, 2, side, 2, 5).sum(axis=(1, 3))
    outs = root / "outs"
    for size, counts in ((8, fine), (16, coarse)):
        folder = outs / "binned_outputs" / f"square_{size:03d}um"
        (folder / "spatial").mkdir(parents=True)
        n = len(counts)
        row, column = (v.ravel() for v in np.mgrid[:n, :n])
        names = [f"s_{size:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)]
        flat = counts.reshape(-1, 5)
        used = flat.sum(axis=1) > 0
        pixels = place(np.stack([column + 0.5, row + 0.5], axis=1) * size)
        table = pd.DataFrame(
            {
                "barcode": names, "in_tissue": used.astype(int), "array_row": row,
                "array_col": column, "pxl_row_in_fullres": pixels[:, 1],
                "pxl_col_in_fullres": pixels[:, 0],
            }
        )  # fmt: skip
        if positions == "parquet":
            table.to_parquet(folder / "spatial" / "tissue_positions.parquet")
        else:
            table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
        scale = {"microns_per_pixel": MPP, "bin_size_um": float(size)}
        (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(scale))
        kept = [name for name, there in zip(names, used, strict=True) if there]
        write_tenx(folder / "filtered_feature_bc_matrix.h5", flat[used], list("ABCDE"), kept)
    return outs


HE_UM = 4.1  # µm per px of the H&E image beside Xenium
MORPHOLOGY_UM = 0.2125  # and of Xenium's own image
_SIDE = 2400.0  # µm
SlideWriter = Callable[..., Path]


def in_tissue(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A lopsided piece of tissue with a hole, in µm."""
    body = ((x - 1100) / 800) ** 2 + ((y - 1300) / 600) ** 2 < 1
    arm = (abs(x - 600) < 150) & (y < 1500) & (y > 300)
    hole = (x - 1400) ** 2 + (y - 1200) ** 2 < 220**2
    return np.asarray((body | arm) & ~hole)


def write_he_section(
    folder: Path, write_slide: SlideWriter, turn: float, shift: float = 0.0
) -> Path:
    """A bundle and its image, turned, with the tissue drawn ``shift`` µm to the right of it."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, _SIDE, (2, 90_000))
    inside = in_tissue(x, y)
    x, y = x[inside], y[inside]
    table = pd.DataFrame(
        {
            "cell_id": "a-1",
            "feature_name": rng.choice(GENES, len(x)),
            "x_location": x.astype(np.float32),
            "y_location": y.astype(np.float32),
            "qv": np.float32(40),
        }
    )
    write_bundle(folder, table.assign(codeword_category="predesigned_gene", is_gene=True))
    c, s = np.cos(turn), np.sin(turn)
    to_um = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([HE_UM, HE_UM, 1])
    n = int(1.5 * _SIDE / HE_UM)
    corner = np.linalg.inv(to_um)[:2, :2] @ [_SIDE / 2, _SIDE / 2] - n / 2
    to_um[:2, 2] = to_um[:2, :2] @ corner
    column, row = np.meshgrid(np.arange(n) + 0.5, np.arange(n) + 0.5)
    um = np.stack([column, row, np.ones_like(row)], axis=-1) @ to_um.T
    pixels = np.full((n, n, 3), 240, dtype=np.uint8)
    pixels[in_tissue(um[..., 0] - shift, um[..., 1])] = (190, 110, 170)
    noise = rng.normal(0, 6, pixels.shape)
    write_slide(folder / "A_he_image.ome.tif", (pixels + noise).clip(0, 255).astype(np.uint8), None)
    matrix = np.diag([1 / MORPHOLOGY_UM, 1 / MORPHOLOGY_UM, 1]) @ to_um
    np.savetxt(folder / "A_he_imagealignment.csv", matrix, delimiter=",")
    return folder
