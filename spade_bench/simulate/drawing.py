"""Draw a section: tissue on the coarse grid -> concentrations of the two dyes per pixel.

The drawing reads ``Tissue.niches`` and ``Tissue.drawn`` only, never ``Tissue.molecular``: what is
visible of a programme is what ``drawn`` carries of it. All lengths are micrometres; the pixel size
enters once, here, so that scanners with different pixel sizes show the same tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spade_bench.simulate.stamps import Ellipses, add_ellipses
from spade_bench.simulate.studysettings import NICHES, PROGRAMMES, Organ
from spade_bench.simulate.tissuemap import CELL_UM, Tissue

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from spade_bench.simulate.textures import Textures

__all__ = ["draw_section", "side_px"]

_CELL_PITCH_UM = 9.5  # distance between nuclei where they are densest
_LYMPH_PITCH_UM = 6.8
_NICHE = {name: i for i, name in enumerate(NICHES)}
_PROGRAMME = {programme.name: i for i, programme in enumerate(PROGRAMMES)}


@dataclass(frozen=True)
class _Local:
    """Niches and drawn programmes at n points: arrays of shape (n,)."""

    gland: NDArray[np.float64]
    solid: NDArray[np.float64]
    stroma: NDArray[np.float64]
    lymphoid: NDArray[np.float64]
    necrosis: NDArray[np.float64]
    mapk: NDArray[np.float64]
    secretory: NDArray[np.float64]
    mesenchymal: NDArray[np.float64]
    cycling: NDArray[np.float64]
    cover: NDArray[np.float64]
    angle: NDArray[np.float64]


def draw_section(
    tissue: Tissue, mpp: float, textures: Textures, rng: Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw one section.

    Args:
        tissue: What to draw.
        mpp: Micrometres per pixel.
        textures: Bank of tileable textures.
        rng: Source of all randomness of the drawing.

    Returns:
        Haematoxylin and eosin, float32 (height, width), 0 outside the tissue and about 1 in an
        ordinary nucleus or stroma.
    """
    side = side_px(tissue, mpp)
    lumen = np.zeros((side, side), np.float32)
    nuclei = np.zeros((side, side), np.float32)
    glands = _place_glands(tissue, rng)
    _draw_lumens(lumen, glands, tissue, mpp, rng)
    for cells in (
        _tumour_nuclei(tissue, rng),
        _ring_nuclei(tissue, glands, rng),
        _stroma_nuclei(tissue, rng),
        _lymphocytes(tissue, rng),
        _debris(tissue, rng),
    ):
        add_ellipses(nuclei, cells, mpp)
    open_ = np.float32(1) - lumen
    cover = _enlarge(tissue.cover, side)
    grain = textures.noise(side, rng)
    eosin = _eosin(tissue, side, textures, rng) * open_ * cover
    chromatin = 1 + np.float32(0.25) * grain
    basophilia = _enlarge(
        0.10 + 0.12 * (tissue.niches[0] + tissue.niches[1]) + 0.15 * tissue.niches[3], side
    )
    hema = (nuclei * chromatin * open_ + basophilia * open_) * cover
    eosin *= 1 - np.float32(0.45) * np.clip(nuclei, 0, 1)
    return np.maximum(hema, 0), np.maximum(eosin, 0)


def side_px(tissue: Tissue, mpp: float) -> int:
    """Return the side of a section's square image in pixels of ``mpp`` micrometres."""
    side: int = round(tissue.cover.shape[0] * CELL_UM / mpp)
    return side


def _eosin(tissue: Tissue, side: int, textures: Textures, rng: Generator) -> NDArray[np.float32]:
    """Return the eosin of stroma fibres, cytoplasm and necrotic debris, (side, side)."""
    gland, solid, stroma, lymphoid, necrosis = tissue.niches
    mesenchymal = tissue.drawn[_PROGRAMME["mesenchymal"]]
    secretory = tissue.drawn[_PROGRAMME["secretory"]]
    fibrous = stroma + 0.9 * mesenchymal * (gland + solid)
    flat = 0.42 * (gland + solid) * (1.15 - 0.45 * secretory) + 0.2 * lymphoid + 0.75 * necrosis
    out = _enlarge(flat, side)
    out += _enlarge(0.75 * fibrous, side) * textures.fibres(tissue.angle, side, rng, _enlarge)
    out += _enlarge(0.5 * necrosis, side) * textures.noise(side, rng)
    out *= np.float32(tissue.organ.eosin)
    return out


@dataclass(frozen=True)
class _Glands:
    """Gland centres (n, 2) as (y, x), lumen radii (n,) and aspect ratios and angles (n,)."""

    centre: NDArray[np.float64]
    radius: NDArray[np.float64]
    aspect: NDArray[np.float64]
    angle: NDArray[np.float64]


def _place_glands(tissue: Tissue, rng: Generator) -> _Glands:
    pitch = 2.0 * tissue.organ.lumen_um + 24.0
    points = _scatter(tissue, pitch, rng)
    here = _look_up(tissue, points)
    keep = (
        rng.random(len(points))
        < np.clip(1.4 * here.gland + 0.6 * here.solid * here.secretory, 0, 1) * here.cover
    )
    points, secretory = points[keep], here.secretory[keep]
    n = len(points)
    radius = tissue.organ.lumen_um * (0.65 + 0.6 * secretory) * np.exp(0.15 * rng.normal(size=n))
    return _Glands(points, radius, 1 + 0.6 * rng.random(n), np.pi * rng.random(n))


def _draw_lumens(
    lumen: NDArray[np.float32], glands: _Glands, tissue: Tissue, mpp: float, rng: Generator
) -> None:
    """Open gland lumens, fat cells and mucin vacuoles into ``lumen`` (in place)."""
    n = len(glands.radius)
    wide = Ellipses(glands.centre, glands.radius * glands.aspect, glands.radius, glands.angle)
    add_ellipses(lumen, wide.with_strength(np.full(n, 0.95)), mpp)
    points = _scatter(tissue, 36.0, rng, jitter=0.3)
    here = _look_up(tissue, points)
    room = np.clip(tissue.organ.spaces * (0.2 + 2.0 * here.stroma), 0, 1)
    points = points[rng.random(len(points)) < room * here.cover]
    size = 16.0 * np.exp(0.12 * rng.normal(size=len(points)))
    spaces = Ellipses(points, size * 1.1, size, np.pi * rng.random(len(points)))
    add_ellipses(lumen, spaces.with_strength(np.full(len(points), 0.97)), mpp)
    points = _scatter(tissue, 15.0, rng)
    here = _look_up(tissue, points)
    tumour = here.gland + here.solid
    keep = rng.random(len(points)) < 0.9 * here.mapk**1.5 * tumour * here.cover
    points = points[keep]
    size = 4.2 * np.exp(0.25 * rng.normal(size=len(points)))
    holes = Ellipses(points, size * 1.15, size, np.pi * rng.random(len(points)))
    add_ellipses(lumen, holes.with_strength(np.full(len(points), 0.8)), mpp)


def _tumour_nuclei(tissue: Tissue, rng: Generator) -> Ellipses:
    points = _scatter(tissue, _CELL_PITCH_UM, rng)
    here = _look_up(tissue, points)
    density = (0.35 * here.gland + 0.85 * here.solid) * (0.65 + 0.6 * here.cycling)
    density *= 1 - 0.5 * here.mesenchymal
    keep = rng.random(len(points)) < np.clip(density, 0, 1) * here.cover
    angle = np.pi * rng.random(int(keep.sum()))
    return _epithelial(points[keep], here, keep, organ=tissue.organ, angle=angle, rng=rng)


def _ring_nuclei(tissue: Tissue, glands: _Glands, rng: Generator) -> Ellipses:
    """Nuclei standing around each lumen, long axis pointing to its centre."""
    count = np.maximum((2 * np.pi * (glands.radius + 5.0) / 7.0).astype(int), 5)
    owner = np.repeat(np.arange(len(count)), count)
    turn = rng.random(len(owner)) * 0.25 + np.concatenate(
        [np.linspace(0, 2 * np.pi, c, endpoint=False) for c in count] or [np.zeros(0)]
    )
    out = glands.radius[owner] + 6.0 + rng.normal(0, 1.2, len(owner))
    x, y = out * glands.aspect[owner] * np.cos(turn), out * np.sin(turn)
    cos, sin = np.cos(glands.angle[owner]), np.sin(glands.angle[owner])
    shift = np.stack([x * sin + y * cos, x * cos - y * sin], axis=1)
    points = glands.centre[owner] + shift
    here = _look_up(tissue, points)
    keep = rng.random(len(points)) < here.cover
    angle = (glands.angle[owner] + turn)[keep]
    return _epithelial(points[keep], here, keep, organ=tissue.organ, angle=angle, rng=rng)


def _epithelial(
    points: NDArray[np.float64],
    here: _Local,
    keep: NDArray[np.bool_],
    *,
    organ: Organ,
    angle: NDArray[np.float64],
    rng: Generator,
) -> Ellipses:
    """Give tumour or gland nuclei the size, shape and darkness of the local programmes."""
    n = len(points)
    area = organ.nucleus_um * (0.82 + 0.45 * here.cycling[keep])
    area *= np.exp(0.12 * rng.normal(size=n))
    stretch = np.sqrt(1.1 + 1.1 * here.mapk[keep] + 0.15 * np.abs(rng.normal(size=n)))
    dark = (0.55 + 0.5 * here.cycling[keep]) * np.exp(0.15 * rng.normal(size=n))
    return Ellipses(points, area * stretch, area / stretch, angle).with_strength(dark)


def _stroma_nuclei(tissue: Tissue, rng: Generator) -> Ellipses:
    points = _scatter(tissue, 15.0, rng)
    here = _look_up(tissue, points)
    tumour = here.gland + here.solid
    density = 0.6 * here.stroma + 0.9 * here.mesenchymal * tumour
    keep = rng.random(len(points)) < np.clip(density, 0, 1) * here.cover
    n = int(keep.sum())
    angle = here.angle[keep] + 0.2 * rng.normal(size=n)
    long = 7.0 * np.exp(0.15 * rng.normal(size=n))
    dark = 0.95 * np.exp(0.15 * rng.normal(size=n))
    return Ellipses(points[keep], long, np.full(n, 1.7), angle).with_strength(dark)


def _lymphocytes(tissue: Tissue, rng: Generator) -> Ellipses:
    points = _scatter(tissue, _LYMPH_PITCH_UM, rng)
    here = _look_up(tissue, points)
    keep = rng.random(len(points)) < np.clip(1.1 * here.lymphoid**1.5, 0, 1) * here.cover
    n = int(keep.sum())
    size = 2.9 * np.exp(0.08 * rng.normal(size=n))
    dark = 1.35 * np.exp(0.1 * rng.normal(size=n))
    return Ellipses(points[keep], size * 1.05, size, np.zeros(n)).with_strength(dark)


def _debris(tissue: Tissue, rng: Generator) -> Ellipses:
    """Dark specks of broken nuclei in necrosis."""
    points = _scatter(tissue, 8.0, rng)
    here = _look_up(tissue, points)
    keep = rng.random(len(points)) < 0.5 * here.necrosis * here.cover
    n = int(keep.sum())
    size = 0.9 + 0.9 * rng.random(n)
    return Ellipses(points[keep], size, size, np.zeros(n)).with_strength(np.full(n, 1.1))


def _scatter(
    tissue: Tissue, pitch: float, rng: Generator, jitter: float = 0.42
) -> NDArray[np.float64]:
    """Return points on a jittered grid over the section, (n, 2) as (y, x) in micrometres."""
    side = tissue.cover.shape[0] * CELL_UM
    line = np.arange(pitch / 2, side, pitch)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.clip(grid + pitch * rng.uniform(-jitter, jitter, grid.shape), 0, side - 1e-6)


def _look_up(tissue: Tissue, points: NDArray[np.float64]) -> _Local:
    """Read niches and programmes in the cell of each point."""
    last = tissue.cover.shape[0] - 1
    row, column = np.clip((points / CELL_UM).astype(int), 0, last).T
    names = (*NICHES, *_PROGRAMME)
    values = np.concatenate([tissue.niches[:, row, column], tissue.drawn[:, row, column]])
    local = dict(zip(names, values, strict=True))
    local |= {"cover": tissue.cover[row, column], "angle": tissue.angle[row, column]}
    return _Local(**local)


def _enlarge(grid: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """Interpolate a coarse (h, w) map linearly to (side, side) pixels, as two matrix products."""
    n = grid.shape[0]
    place = np.clip((np.arange(side) + 0.5) * n / side - 0.5, 0, n - 1)
    low = np.minimum(place.astype(int), n - 2)
    weight = np.zeros((side, n), np.float32)
    rows = np.arange(side)
    weight[rows, low] = 1 - (place - low)
    weight[rows, low + 1] = place - low
    return np.asarray(weight @ grid.astype(np.float32) @ weight.T, np.float32)
