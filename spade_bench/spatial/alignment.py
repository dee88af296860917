"""Where the H&E image of a section lies in the frame of its transcripts, and whether it fits.

Source: 10x Genomics, Xenium Explorer: the alignment file beside an H&E image holds a 3 x 3 matrix
that takes pixels of that image to pixels of the morphology image, whose pixel size stands in
`experiment.xenium`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spade_bench.cohorts.tabletext import read_rows
from spade_bench.errors import DataError
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.sectionimages import ImageView

__all__ = ["ImageFrame", "check_alignment", "read_alignment"]

_FLAT = 1e-9  # relative size of an axis below which it is rounding
_SHEAR = 0.05  # relative difference of the two axes from which a matrix is no placement of an image
_REACH, _STEP = 6.0, 0.25  # of the search for a shift, in spots
_GAIN = 0.02  # rise of the correlation below which the place found is no better than the given one
_CLEAR = 0.15  # correlation below which stain and transcripts say nothing about each other
_FAR_UM = 50.0  # shifts that a patch of 112 µm still tolerates
_FEWEST = 30  # spots below which nothing is searched


@dataclass(frozen=True)
class ImageFrame:
    """Places an image in the frame of a section.

    Attributes:
        to_um: (3, 3) matrix from pixels (x, y, 1) of the full-resolution image to µm.
    """

    to_um: np.ndarray

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel in µm: the geometric mean of both axes."""
        return math.sqrt(abs(float(np.linalg.det(self.to_um[:2, :2]))))

    def to_px(self, um: np.ndarray) -> np.ndarray:
        """Take points (n, 2) in µm to (x, y) pixels of the image, (n, 2)."""
        inverse = np.linalg.inv(self.to_um)
        placed: np.ndarray = um @ inverse[:2, :2].T + inverse[:2, 2]
        return placed


def read_alignment(path: Path, unit_um: float) -> ImageFrame:
    """Read a 3 x 3 matrix from pixels of an image to the pixels of the instrument's image.

    Args:
        path: csv or text of three rows of three numbers.
        unit_um: Side of a pixel of the instrument's image in µm; 1 where the matrix leads to µm.

    Raises:
        DataError: When it is no such matrix, or stretches one axis more than the other.
    """
    rows = [row for row in read_rows(path) if any(cell.strip() for cell in row)]
    fix = "Give the 3 x 3 matrix that Xenium Explorer exports"
    try:
        numbers = [[float(cell) for cell in row] for row in rows]
    except ValueError as error:
        raise DataError(
            f"holds something else than numbers ({error})", where=str(path), fix=fix
        ) from error
    if [len(row) for row in numbers] != [3, 3, 3]:
        found = ", ".join(str(len(row)) for row in numbers) or "no"
        raise DataError(
            f"has rows of {found} numbers, not three rows of three", where=str(path), fix=fix
        )
    matrix = np.array(numbers, dtype=np.float64)  # (3, 3)
    if not np.isfinite(matrix).all():
        raise DataError("a number is NaN or infinite", where=str(path), fix=fix)
    if not np.allclose(matrix[2], [0, 0, 1]):
        raise DataError("its last row is not 0, 0, 1", where=str(path), fix="Export it again")
    axes = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if not axes[1] > _FLAT * axes[0]:
        raise DataError(
            "takes the whole image to a line or a point", where=str(path), fix="Export it again"
        )
    if axes[0] / axes[1] > 1 + _SHEAR:
        raise DataError(
            f"stretches one axis {axes[0] / axes[1]:.3g} times as much as the other",
            where=str(path),
            fix="Align the image again, with square pixels",
        )
    scale = np.diag([unit_um, unit_um, 1.0])
    return ImageFrame(scale @ matrix)


def check_alignment(
    spatial: np.ndarray, totals: np.ndarray, view: ImageView, pixel_size_um: float, spot_um: float
) -> list[Finding]:
    """Hold the stain of an image against the number of transcripts, here and a little beside.

    Where image and transcripts fit, spots with many transcripts lie on stained tissue and spots
    around the section on background. All spots are moved together over a square of twelve spots,
    and the place with the highest correlation should be where they are.

    Args:
        spatial: (n, 2) spot centres (x, y) in full-resolution px.
        totals: (n,) transcripts of each spot.
        view: The image.
        pixel_size_um: Side of a pixel of the full-resolution image in µm.
        spot_um: Distance between spot centres in µm.

    Returns:
        One finding: what was found, a doubt where the spots fit better elsewhere.
    """
    n = len(spatial)
    if n < _FEWEST or view.stain is None:
        why = "the image is too even" if n >= _FEWEST else f"{n} spots are too few"
        return [Finding("alignment-unchecked", n, n, f"alignment of the image unchecked: {why}")]
    pitch = spot_um / pixel_size_um  # px of the full-resolution image
    points, values = _with_surroundings(spatial, np.log1p(totals), pitch)
    stain = _smoothed(view, pitch)
    steps = np.arange(-_REACH, _REACH + _STEP / 2, _STEP) * pitch
    score = np.array(
        [
            [_correlation(stain, view, np.add(points, (dx, dy)), values) for dx in steps]
            for dy in steps
        ]
    )  # (steps, steps)
    if not np.isfinite(score).any():
        text = "alignment of the image unchecked: stain and transcripts do not vary together"
        return [Finding("alignment-unchecked", n, n, text)]
    middle = len(steps) // 2
    here = float(score[middle, middle])
    at_y, at_x = np.unravel_index(int(np.nanargmax(score)), score.shape)
    best = float(score[at_y, at_x])
    off = math.hypot(steps[at_x], steps[at_y]) * pixel_size_um
    if best < _CLEAR:
        text = (
            f"alignment of the image cannot be judged: stain and transcripts correlate by "
            f"{best:.2f} at most"
        )
        return [Finding("alignment-unclear", n, n, text)]
    where = f"({steps[at_x] * pixel_size_um:+.0f}, {steps[at_y] * pixel_size_um:+.0f}) µm"
    if best - here > _GAIN and off > max(_FAR_UM, spot_um / 2):
        text = (
            f"the image looks shifted against the transcripts by {where}: stain and transcripts "
            f"correlate by {best:.2f} there and by {here:.2f} as aligned"
        )
        return [Finding("alignment-shifted", n, n, text, fatal=True)]
    text = f"image and transcripts fit: correlation {here:.2f}, best {best:.2f} at {where}"
    return [Finding("alignment", n, n, text)]


def _with_surroundings(
    spatial: np.ndarray, values: np.ndarray, pitch: float
) -> tuple[np.ndarray, np.ndarray]:
    """Spots, and empty places around and between them on a square lattice, with value 0."""
    from scipy.spatial import cKDTree

    low, high = spatial.min(axis=0) - 3 * pitch, spatial.max(axis=0) + 3 * pitch
    x, y = (np.arange(low[i], high[i] + pitch, pitch) for i in (0, 1))
    lattice = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    far = cKDTree(spatial).query(lattice)[0] > pitch
    return np.vstack([spatial, lattice[far]]), np.append(values, np.zeros(int(far.sum())))


def _smoothed(view: ImageView, pitch: float) -> np.ndarray:
    """Stain averaged over about a spot, on the thumbnail."""
    from scipy.ndimage import uniform_filter

    assert view.stain is not None
    side = max(1, round(pitch * view.stain.shape[1] / view.width))
    return np.asarray(uniform_filter(view.stain, size=side))


def _correlation(
    stain: np.ndarray, view: ImageView, points: np.ndarray, values: np.ndarray
) -> float:
    """Pearson correlation over the points that lie on the image; NaN where it is undefined."""
    inside = view.inside(points)
    if inside.sum() < max(_FEWEST, 0.5 * len(points)):
        return math.nan
    row, column = view.place(points[inside], stain.shape)
    a, b = stain[row, column].astype(np.float64), values[inside]
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan
