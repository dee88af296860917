"""Write what was simulated: HEST-1k files, slides and cohort tables."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench.files import atomic_hdf5, write_json, write_text
from spade_bench.simulate.spotgrid import SPOT_DISTANCE_UM, SPOT_UM, Spots
from spade_bench.simulate.studysettings import Organ
from spade_bench.simulate.tiff import write_pyramid

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HEST_COLUMNS", "hest_row", "reuse_slide", "write_rows", "write_sample", "write_slide"]

HEST_COLUMNS = (
    "dataset_title",
    "id",
    "image_filename",
    "organ",
    "disease_state",
    "oncotree_code",
    "species",
    "patient",
    "st_technology",
    "data_publication_date",
    "license",
    "study_link",
    "download_page_link1",
    "inter_spot_dist",
    "spot_diameter",
    "spots_under_tissue",
    "preservation_method",
    "nb_genes",
    "treatment_comment",
    "pixel_size_um_embedded",
    "pixel_size_um_estimated",
    "magnification",
    "fullres_px_width",
    "fullres_px_height",
    "tissue",
    "disease_comment",
    "subseries",
    "hest_version_added",
)
"""Columns of HEST-1k's ``HEST_v1_1_0.csv``, in its order."""


def hest_row(
    sample_id: str,
    patient: str,
    organ: Organ,
    *,
    mpp: float,
    side_px: int,
    shape: tuple[int, ...],
) -> dict[str, Any]:
    """Return one row of the metadata table; columns that do not apply stay empty."""
    return dict.fromkeys(HEST_COLUMNS, "") | {
        "dataset_title": "Simulated by spade-bench: not data from any patient",
        "id": sample_id,
        "image_filename": f"{sample_id}.tif",
        "organ": organ.name,
        "disease_state": "Cancer",
        "oncotree_code": organ.oncotree,
        "species": "Homo sapiens",
        "patient": patient,
        "st_technology": "Visium",
        "inter_spot_dist": int(SPOT_DISTANCE_UM),
        "spot_diameter": int(SPOT_UM),
        "spots_under_tissue": shape[0],
        "nb_genes": shape[1],
        "pixel_size_um_embedded": mpp,
        "pixel_size_um_estimated": mpp,
        "magnification": "20x",
        "fullres_px_width": side_px,
        "fullres_px_height": side_px,
        "tissue": organ.name,
        "disease_comment": "simulated",
    }


def write_sample(
    folder: Path,
    row: dict[str, Any],
    *,
    spots: Spots,
    counts: NDArray[np.int32],
    genes: Sequence[str],
) -> None:
    """Write expression and metadata of one sample of the HEST-1k layout below ``folder``.

    Args:
        folder: Holds ``st`` and ``metadata``.
        row: The sample's row of the metadata table.
        spots: Places and barcodes.
        counts: (n_spots, n_genes) raw counts.
        genes: (n_genes,) names.
    """
    import anndata
    import pandas as pd
    from anndata.io import write_elem
    from scipy import sparse

    sample_id, mpp = row["id"], row["pixel_size_um_estimated"]
    pixels = spots.centre_um / mpp
    obs = pd.DataFrame(
        {
            "in_tissue": np.ones(len(pixels), np.int64),
            "array_row": spots.array[:, 0],
            "array_col": spots.array[:, 1],
            "pxl_col_in_fullres": pixels[:, 0],
            "pxl_row_in_fullres": pixels[:, 1],
        },
        index=pd.Index(spots.barcodes),
    )
    data = anndata.AnnData(
        X=sparse.csr_matrix(counts.astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(list(genes))),
        obsm={"spatial": pixels.astype(np.float32)},
        uns={"simulated": True},
    )
    with atomic_hdf5(folder / "st" / f"{sample_id}.h5ad") as file:
        write_elem(file, "/", data)
    keys = ("id", "organ", "species", "patient", "st_technology", "pixel_size_um_estimated")
    write_json(
        folder / "metadata" / f"{sample_id}.json",
        {key: row[key] for key in keys} | {"simulated": True},
    )


def write_slide(path: Path, image: NDArray[np.uint8], mpp: float, quality: int) -> None:
    """Write one whole-slide image that says of itself that it is simulated."""
    write_pyramid(path, image, mpp, quality=quality, description="simulated by spade-bench")


def reuse_slide(path: Path, drawn: Path) -> None:
    """Put an image that another study has drawn at ``path``: a hard link where that is possible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.hardlink_to(drawn)
    except OSError:  # another file system, or one without links
        shutil.copyfile(drawn, path)


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file with exactly these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
