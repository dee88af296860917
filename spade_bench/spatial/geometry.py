"""Checks of where the spots lie: on the image, on tissue, in the right axes, at the right scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spade_bench.errors import BROKEN_FILE
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.sample import StSample
from spade_bench.spatial.sectionimages import ImageView

__all__ = [
    "Spacing",
    "check_axes",
    "check_patches",
    "check_pixel_size",
    "known_pitch",
    "measure_spacing",
]

PITCH_UM = {"visium": 100.0, "spatial transcriptomics": 200.0}
"""Distance between spot centres by technology (10x Genomics; Ståhl et al., Science 2016)."""

_WARN, _REFUSE = 0.10, 0.33  # relative errors of the pixel size
_FINEST, _COARSEST = 0.05, 25.0  # µm a px; Space Ranger's lowres image has about 15
_SWAP_MARGIN = 0.10  # how much more of the spots must land on tissue once transposed
_SWAP_SHARE = 0.8  # and the share that then does


@dataclass(frozen=True)
class Spacing:
    """Distance between neighbouring spots, in full-resolution px.

    Attributes:
        typical: Median distance to the second nearest neighbour.
        closest: Fifth percentile of the distance to the nearest neighbour.
        regular: The nearest distances agree among spots: a full lattice.
    """

    typical: float
    closest: float
    regular: bool


def measure_spacing(spatial: np.ndarray) -> Spacing | None:
    """Measures a lattice from spot centres (n, 2); None for fewer than six spots."""
    from scipy.spatial import cKDTree

    if len(spatial) < 6:
        return None
    near = cKDTree(spatial).query(spatial, k=3)[0][:, 1:]  # (n, 2)
    low, high = np.percentile(near[:, 0], [25, 75])
    return Spacing(
        typical=float(np.median(near[:, 1])),
        closest=float(np.percentile(near[:, 0], 5)),
        regular=bool(low > 0 and high / low < 1.25),
    )


def known_pitch(
    sample: StSample, spacing: Spacing, diameter_px: float | None
) -> tuple[float | None, str]:
    """Spot pitch in µm and where that is known from.

    Metadata first, then the technology; else the ratio of pitch to spot diameter, which is 1.5
    or 1.8 for Visium (Space Ranger draws 65 µm, the printed spot is 55 µm) and 2 for the 200 µm
    arrays.
    """
    if sample.spot_pitch_um:
        return sample.spot_pitch_um, "the metadata"
    technology = (sample.technology or "").lower()
    for name, pitch in PITCH_UM.items():
        if technology == name:
            return pitch, f"technology {sample.technology}"
    if diameter_px and spacing.regular:
        ratio = spacing.typical / diameter_px
        for expected, pitch in ((100 / 65, 100.0), (100 / 55, 100.0), (200 / 100, 200.0)):
            if abs(ratio / expected - 1) < 0.04:
                return pitch, f"spots {ratio:.2f} diameters apart"
    return None, ""


def check_pixel_size(
    sample: StSample, spatial: np.ndarray, diameter_px: float | None
) -> tuple[float | None, list[Finding]]:
    """Compares the stated pixel size with the distance between spots.

    An error above 33% is refused, above 10% reported. Where spots are sparse only their closest
    pairs speak for a pixel size that is too large.

    Returns:
        The pixel size to use in µm a px (estimated from the lattice where none is stated, None
        where it cannot be known) and what was found.
    """
    stated, n = sample.pixel_size_um, len(spatial)
    spacing = measure_spacing(spatial)
    if spacing is not None and not spacing.typical > 0:
        text = "spots lie on top of each other: their positions cannot be right"
        return stated, [Finding("positions-equal", n, n, text, fatal=True)]
    pitch, source = (None, "") if spacing is None else known_pitch(sample, spacing, diameter_px)
    if spacing is None or pitch is None:
        if stated is None:
            return None, []
        text = f"pixel size {stated:.3f} µm taken on trust: the spot pitch is unknown"
        return stated, [Finding("pixel-size-unchecked", n, n, text)]
    estimate = pitch / spacing.typical
    if stated is None:
        if not _FINEST <= estimate <= _COARSEST:
            text = (
                f"spots lie {spacing.typical:.3g} px apart, {pitch:g} µm on the slide ({source}): "
                "the positions are not in pixels of the image"
            )
            return None, [Finding("positions-scale", n, n, text, fatal=True)]
        text = f"pixel size missing: {estimate:.3f} µm from the {pitch:g} µm pitch ({source})"
        return estimate, [Finding("pixel-size-estimated", n, n, text)]
    error = stated / estimate - 1
    if error > 0 and not spacing.regular:
        error = max(0.0, stated * spacing.closest / pitch - 1)
    if abs(error) <= _WARN:
        return stated, []
    text = (
        f"pixel size {stated:.3f} µm puts spots {stated * spacing.typical:.0f} µm apart, but their "
        f"pitch is {pitch:g} µm ({source}): expected about {estimate:.3f} µm"
    )
    return stated, [Finding("pixel-size-wrong", n, n, text, fatal=not -0.25 < error < _REFUSE)]


def check_axes(spatial: np.ndarray, view: ImageView) -> list[Finding]:
    """Count spots off the image and off tissue, and the same for transposed axes.

    Spots that land on the image or on tissue only after swapping x and y refuse the sample.
    """
    n = len(spatial)
    off = int((~view.inside(spatial)).sum())
    off_swapped = int((~view.inside(spatial[:, ::-1])).sum())
    size = f"{view.width} x {view.height} px"
    if off > 0.05 * n and off_swapped < 0.5 * off:
        text = (
            f"x and y look swapped: {off} of {n} spots lie off the image ({size}), "
            f"{off_swapped} once transposed"
        )
        return [Finding("axes-swapped", off, n, text, fatal=True)]
    here, there = view.on_tissue(spatial), view.on_tissue(spatial[:, ::-1])
    on, on_swapped = int(here.sum()), int(there.sum())
    # Holes in the tissue (lumens) take spots at random, here and there alike.
    beyond_chance = on_swapped - on > 3 * float(np.sqrt((here != there).sum()))
    if view.tissue is not None and beyond_chance and _gains(on, on_swapped, n):
        text = (
            f"x and y look swapped: {on} of {n} spots lie on tissue, {on_swapped} once transposed"
        )
        return [Finding("axes-swapped", n - on, n, text, fatal=True)]
    findings = []
    if off:
        text = f"{off} of {n} spots lie off the image ({size}) and are left out"
        findings.append(Finding("spots-off-image", off, n, text, fatal=off == n))
    if view.tissue is not None and on < 0.2 * n:
        text = f"only {on} of {n} spots lie on visible tissue"
        findings.append(Finding("spots-off-tissue", n - on, n, text))
    return findings


def _gains(on: int, on_swapped: int, n: int) -> bool:
    """Whether transposing brings clearly more spots onto tissue, nearly all of them."""
    more = on_swapped - on
    return more >= 5 and more > _SWAP_MARGIN * n and on_swapped > _SWAP_SHARE * n


def check_patches(path: Path, barcodes: np.ndarray, spatial: np.ndarray) -> list[Finding]:
    """Compares the centres of the patches in a HEST patch file with the spot centres.

    Args:
        path: Patch file with `coords` (top-left) and `barcode`.
        barcodes: (n,) of the spots.
        spatial: (n, 2) spot centres (x, y) in full-resolution px.
    """
    try:
        stored = _read_patch_places(path)
    except BROKEN_FILE as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        text = f"{path.name} cannot be read ({first})"
        return [Finding("patches-unreadable", len(barcodes), len(barcodes), text, fatal=True)]
    if stored is None:
        text = f"{path.name} lacks img, coords or barcode"
        return [Finding("patches-unreadable", len(barcodes), len(barcodes), text, fatal=True)]
    side, corner, names = stored
    row = {b: i for i, b in enumerate(barcodes.tolist())}
    shared = [i for i, name in enumerate(names) if name in row]
    if not shared or side <= 0:
        return []
    centre = corner[shared] + side / 2  # (s, 2)
    spots = spatial[[row[names[i]] for i in shared]]  # (s, 2)
    apart = int((np.abs(centre - spots).max(axis=1) > side / 2).sum())
    apart_swapped = int((np.abs(centre - spots[:, ::-1]).max(axis=1) > side / 2).sum())
    if not apart:
        return []
    total = len(shared)
    if apart_swapped < 0.1 * total and apart > 0.5 * total:
        text = f"x and y look swapped: {apart} of {total} spots fit their patch only transposed"
        return [Finding("axes-swapped", apart, total, text, fatal=True)]
    text = f"{apart} of {total} spots lie outside the patch of their barcode"
    return [Finding("patches-elsewhere", apart, total, text, fatal=apart > 0.5 * total)]


def _read_patch_places(path: Path) -> tuple[float, np.ndarray, list[str]] | None:
    """Side of the patches, their top-left corners (m, 2) and barcodes; None without these.

    Raises:
        Exception: Any of `BROKEN_FILE`, also where the parts differ in length.
    """
    import h5py

    with h5py.File(path, "r") as handle:
        if not {"coords", "barcode", "img"} <= set(handle):
            return None
        side = float(handle["img"].attrs.get("patch_size_src", 0.0))
        corner = np.asarray(handle["coords"][:], dtype=np.float64)  # (m, 2)
        names = [b.decode() for b in np.ravel(handle["barcode"][:])]
    if corner.shape != (len(names), 2):
        raise ValueError(f"{len(names)} barcodes for coords of shape {corner.shape}")
    return side, corner, names
