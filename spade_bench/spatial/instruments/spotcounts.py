"""Counts of spots as they come from the files of an instrument, before genes are merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from spade_bench.spatial.findings import Finding

__all__ = ["SpotCounts"]


@dataclass(frozen=True)
class SpotCounts:
    """Spots of one section that have both counts and a position.

    Attributes:
        counts: (spots, genes) CSR float32.
        genes: (genes,) names, duplicates possible.
        barcodes: (spots,).
        spatial: (spots, 2) float64, centre (x, y) in full-resolution px; in µm where the section
            has no image.
        array: (spots, 2) float64, array row and column.
        spot_diameter_px: Diameter of a spot in the unit of `spatial`, or None.
        findings: What was noticed, such as barcodes that only one of two files has.
    """

    counts: sp.csr_matrix
    genes: np.ndarray
    barcodes: np.ndarray
    spatial: np.ndarray
    array: np.ndarray
    spot_diameter_px: float | None
    findings: tuple[Finding, ...]
