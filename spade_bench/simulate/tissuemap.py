"""Latent tissue: where it lies, what each place is made of, which programmes it runs.

Everything here lives on a coarse grid of ``CELL_UM`` micrometres; drawing and counting read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from spade_bench.simulate.studysettings import NICHES, PROGRAMMES, Organ

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

__all__ = ["CELL_UM", "CaseLevels", "Tissue", "draw_case", "grow_tissue", "sigmoid"]

CELL_UM = 25.0
_FIELD_UM = 75.0  # correlation length of niches and programmes
_N_PROGRAMMES = len(PROGRAMMES)


@dataclass(frozen=True)
class CaseLevels:
    """A case's means: molecular and drawn programmes, and its composition.

    Attributes:
        molecular: (n_programmes,) logit levels that counts and labels follow.
        drawn: (n_programmes,) logit levels that the drawing follows.
        niche_logits: (n_niches,).
    """

    molecular: NDArray[np.float64]
    drawn: NDArray[np.float64]
    niche_logits: NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """One section on the coarse grid, h x w cells, index [row, column] = [y, x].

    Attributes:
        organ: The organ's constants.
        cover: (h, w) about 1 inside the tissue and 0 outside.
        niches: (n_niches, h, w) fractions that sum to one.
        molecular: (n_programmes, h, w) levels in 0..1 that the counts follow.
        drawn: (n_programmes, h, w) levels in 0..1 that the drawing follows.
        angle: (h, w) orientation of fibres in radians.
    """

    organ: Organ
    cover: NDArray[np.float64]
    niches: NDArray[np.float64]
    molecular: NDArray[np.float64]
    drawn: NDArray[np.float64]
    angle: NDArray[np.float64]

    def expression_drivers(self) -> NDArray[np.float64]:
        """Return (n_niches + n_programmes, h, w): niches, then programmes times tumour share."""
        tumour = self.niches[NICHES.index("gland")] + self.niches[NICHES.index("solid")]
        return np.concatenate([self.niches, self.molecular * tumour])


def draw_case(organ: Organ, rng: Generator) -> CaseLevels:
    """Draw a case's mean programmes and composition."""
    scale = np.array([programme.case_sd for programme in PROGRAMMES])
    shared, unique = rng.standard_normal((2, _N_PROGRAMMES))
    seen = _visibility()
    return CaseLevels(
        molecular=shared * scale,
        drawn=(seen * shared + np.sqrt(1 - seen**2) * unique) * scale,
        niche_logits=np.array(organ.niche_logits) + 0.25 * rng.standard_normal(len(NICHES)),
    )


def grow_tissue(organ: Organ, case: CaseLevels, side_um: float, rng: Generator) -> Tissue:
    """Grow one section of a case.

    Args:
        organ: The organ's constants.
        case: The case's means.
        side_um: Side of the square section in micrometres, white margin included.
        rng: Source of all randomness of the section.
    """
    n = round(side_um / CELL_UM)
    niche_fields = 1.0 * smooth_fields(len(NICHES), n, rng) + case.niche_logits[:, None, None]
    niches = np.exp(niche_fields)
    local = np.array([programme.local_sd for programme in PROGRAMMES])[:, None, None]
    shared, unique = smooth_fields(2 * _N_PROGRAMMES, n, rng).reshape(2, _N_PROGRAMMES, n, n)
    seen = _visibility()[:, None, None]
    drawn = seen * shared + np.sqrt(1 - seen**2) * unique
    swirl = smooth_fields(1, n, rng, 4 * _FIELD_UM)[0]
    return Tissue(
        organ=organ,
        cover=_outline(n, rng),
        niches=niches / niches.sum(axis=0),
        molecular=sigmoid(case.molecular[:, None, None] + local * shared),
        drawn=sigmoid(case.drawn[:, None, None] + local * drawn),
        angle=np.pi * swirl,
    )


def smooth_fields(
    count: int, n: int, rng: Generator, length_um: float = _FIELD_UM
) -> NDArray[np.float64]:
    """Return (count, n, n) Gaussian random fields of mean 0 and variance 1 at each cell."""
    sigma = length_um / CELL_UM / 2
    pad = int(3 * sigma) + 1
    noise = rng.standard_normal((count, n + 2 * pad, n + 2 * pad))
    fields = ndimage.gaussian_filter(noise, sigma=(0, sigma, sigma), mode="wrap", truncate=3.0)
    line = np.zeros(4 * pad + 1)
    line[2 * pad] = 1.0
    norm = float((ndimage.gaussian_filter1d(line, sigma, truncate=3.0) ** 2).sum())
    inner: NDArray[np.float64] = fields[:, pad:-pad, pad:-pad] / norm
    return inner


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logistic function of ``x``."""
    return 1 / (1 + np.exp(-x))


def _visibility() -> NDArray[np.float64]:
    return np.array([programme.visibility for programme in PROGRAMMES])


def _outline(n: int, rng: Generator) -> NDArray[np.float64]:
    """Return a soft mask: a rounded square with a wavy edge inside a white margin."""
    axis = (np.arange(n) + 0.5) / n * 2 - 1
    x, y = np.meshgrid(axis, axis)
    radius = (np.abs(x) ** 5 + np.abs(y) ** 5) ** 0.2
    wave = 0.05 * smooth_fields(1, n, rng, 8 * CELL_UM)[0]
    return sigmoid((0.86 + wave - radius) * 3 * n)
