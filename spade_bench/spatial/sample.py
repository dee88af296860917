"""What the toolkit knows about one paired H&E + spatial-transcriptomics sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spade_bench.spatial.instruments.pseudospots import Pooling

__all__ = ["StSample"]


@dataclass(frozen=True)
class StSample:
    """One sample: where its files lie and what its metadata say. Nothing is loaded.

    Exactly one of `h5ad`, `spaceranger`, `visium_hd` and `xenium` is set; at least one of `image`,
    `patches` and `features` is set when the sample is to be encoded.

    Attributes:
        sample_id: Name of the sample, unique in its cohort.
        organ: Organ as written in the metadata; `"unknown"` where it is blank.
        patient: Patient id, or None where unknown (the sample is then its own group).
        species: For example `"Homo sapiens"`, or None.
        technology: For example `"Visium"`, or None.
        pixel_size_um: Micrometres per pixel of the full-resolution image, or None.
        h5ad: Expression file: X (spots, genes), `obsm['spatial']` = spot CENTRE (x, y) in
            full-resolution px, barcodes in `obs_names`.
        spaceranger: A Space Ranger `outs/` folder, in place of `h5ad`.
        visium_hd: A Space Ranger `outs/` folder with binned outputs, in place of `h5ad`.
        xenium: A Xenium output bundle, in place of `h5ad`.
        pooling: How bins or transcripts become spots; None where spots have a size of their own.
        alignment: csv of the 3 x 3 matrix from pixels of `image` to those of Xenium's own image.
        image: Full-resolution image (pyramidal TIFF, or a plain JPEG / PNG / TIFF).
        patches: HEST patch file (`img`, `coords`, `barcode`).
        features: Precomputed per-spot features (HDF5 with `features` and `barcode`).
        spot_diameter_um: Diameter of a spot in µm, where known.
        spot_pitch_um: Distance between neighbouring spot centres in µm, where known.
        image_width: Width of the full-resolution image in px, where the metadata give it.
        image_height: Height of the full-resolution image in px, where the metadata give it.
        nb_genes: Number of genes that the metadata give, or None.
        metadata: Every metadata field as read.
        problem: Why its metadata cannot be used; the checks drop it for this. Empty when they can.
    """

    sample_id: str
    organ: str = "unknown"
    patient: str | None = None
    species: str | None = None
    technology: str | None = None
    pixel_size_um: float | None = None
    h5ad: Path | None = None
    spaceranger: Path | None = None
    image: Path | None = None
    patches: Path | None = None
    features: Path | None = None
    spot_diameter_um: float | None = None
    spot_pitch_um: float | None = None
    image_width: int | None = None
    image_height: int | None = None
    nb_genes: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    visium_hd: Path | None = None
    xenium: Path | None = None
    pooling: Pooling | None = None
    alignment: Path | None = None

    @property
    def has_pixels(self) -> bool:
        """Whether spot centres are pixels of an image; else they are µm."""
        return self.xenium is None or (self.image is not None and self.alignment is not None)
