"""Staining and scanning: dye concentrations -> the RGB image that a scanner would have saved.

Beer-Lambert: the optical density of a pixel is the sum of the dyes' densities, each along its own
colour vector (Ruifrok and Johnston 2001, whose haematoxylin and eosin vectors are the starting
point). Site and slide vary; see ``studysettings.Nuisance``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from spade_bench.simulate.studysettings import Nuisance
from spade_bench.simulate.tissuemap import CELL_UM, smooth_fields

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

__all__ = ["Look", "Site", "draw_look", "draw_site", "scan"]

_HAEMATOXYLIN = np.array([0.650, 0.704, 0.286])
_EOSIN = np.array([0.072, 0.990, 0.105])
_STRENGTH = np.array([0.95, 0.55])  # optical density of one unit of each dye


@dataclass(frozen=True)
class Site:
    """One laboratory and its scanner.

    Attributes:
        name: Name of the site.
        vectors: (2, 3) unit stain vectors.
        log_strength: (2,) log stain strength, haematoxylin then eosin.
        white: (3,) white point, about 1.
        gamma: Exponent of the response.
        blur_um: Standard deviation of the blur in micrometres.
        grain: Standard deviation of sensor noise in grey levels.
        quality: JPEG quality.
        mpp: Micrometres per pixel.
    """

    name: str
    vectors: NDArray[np.float64]
    log_strength: NDArray[np.float64]
    white: NDArray[np.float64]
    gamma: float
    blur_um: float
    grain: float
    quality: int
    mpp: float

    def describe(self) -> dict[str, Any]:
        """Return plain values for ``truth.json``."""
        return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Look:
    """How one slide of a site was stained: (2, 3) unit vectors and (2,) log strengths."""

    vectors: NDArray[np.float64]
    log_strength: NDArray[np.float64]
    thickness: float


def draw_site(name: str, nuisance: Nuisance, rng: Generator) -> Site:
    """Draw a laboratory and its scanner."""
    base = np.stack([_HAEMATOXYLIN, _EOSIN])
    return Site(
        name=name,
        vectors=_unit(base + nuisance.site_vector * rng.standard_normal((2, 3))),
        log_strength=nuisance.site_strength * rng.standard_normal(2),
        white=np.exp(nuisance.site_white * rng.standard_normal(3)),
        gamma=float(np.exp(nuisance.site_gamma * rng.standard_normal())),
        blur_um=float(nuisance.blur_um * rng.random()),
        grain=float(nuisance.grain * rng.random()),
        quality=int(rng.integers(nuisance.quality[0], nuisance.quality[1] + 1)),
        mpp=round(float(rng.uniform(*nuisance.mpp)), 4),
    )


def draw_look(site: Site, nuisance: Nuisance, rng: Generator) -> Look:
    """Draw the staining of one slide."""
    shift = nuisance.slide_vector * rng.standard_normal((2, 3))
    return Look(
        vectors=_unit(site.vectors + shift),
        log_strength=site.log_strength + nuisance.slide_strength * rng.standard_normal(2),
        thickness=nuisance.thickness,
    )


def scan(
    haematoxylin: NDArray[np.float32],
    eosin: NDArray[np.float32],
    site: Site,
    look: Look,
    rng: Generator,
) -> NDArray[np.uint8]:
    """Turn concentrations (height, width) into a uint8 image (height, width, 3)."""
    side = haematoxylin.shape[0]
    cells = max(round(side * site.mpp / CELL_UM), 2)
    thick = np.exp(look.thickness * smooth_fields(1, cells, rng, 400.0)[0])
    zoom = ndimage.zoom(
        thick.astype(np.float32), side / cells, order=1, grid_mode=True, mode="nearest"
    )
    dyes = np.stack([haematoxylin, eosin], axis=-1) * zoom[:side, :side, None]  # (h, w, 2)
    density = (look.vectors * (_STRENGTH * np.exp(look.log_strength))[:, None]).astype(np.float32)
    light = np.exp(-(dyes @ density)) * site.white.astype(np.float32)  # (h, w, 3)
    if site.blur_um > 0:
        sigma = site.blur_um / site.mpp
        light = ndimage.gaussian_filter(light, sigma=(sigma, sigma, 0), truncate=3.0)
    image = 243 * np.clip(light, 0, None) ** np.float32(site.gamma)  # (h, w, 3)
    # One noise image serves the three channels: it is luminance noise, and three times cheaper.
    image += np.float32(site.grain) * rng.standard_normal((side, side), dtype=np.float32)[..., None]
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    vectors = np.clip(vectors, 0.01, None)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
