"""One section drawn and scanned, and many of them on a few threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spade_bench.console import progress
from spade_bench.simulate.drawing import draw_section
from spade_bench.simulate.scanner import Site, draw_look, scan
from spade_bench.simulate.studysettings import Nuisance
from spade_bench.simulate.writers import reuse_slide, write_slide

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray

    from spade_bench.simulate.textures import Textures
    from spade_bench.simulate.tissuemap import Tissue

__all__ = ["in_parallel", "make_image", "put_image"]

T = TypeVar("T")
_WORKERS = 2  # drawing holds about 100 MB per section


def make_image(tissue: Tissue, site: Site, textures: Textures, rng: Generator) -> NDArray[np.uint8]:
    """Stain, draw and scan one section as its site would: uint8 (height, width, 3)."""
    look = draw_look(site, Nuisance(), rng)
    haematoxylin, eosin = draw_section(tissue, site.mpp, textures, rng)
    return scan(haematoxylin, eosin, site, look, rng)


def put_image(
    path: Path,
    tissue: Tissue,
    site: Site,
    textures: Textures,
    rng: Generator,
    *,
    drawn: Path | None = None,
) -> None:
    """Write the image of a section: drawn now, or the one of this name in the folder ``drawn``."""
    if drawn is None:
        write_slide(path, make_image(tissue, site, textures, rng), site.mpp, site.quality)
    else:
        reuse_slide(path, drawn / path.name)


def in_parallel(title: str, work: Callable[[Any], T], items: Sequence[Any], unit: str) -> list[T]:
    """Run ``work`` on every item on a few threads; results keep the order of the items."""
    with (
        ThreadPoolExecutor(_WORKERS) as pool,
        progress(title, total=len(items), unit=unit) as bar,
    ):
        results = []
        for result in pool.map(work, items):
            results.append(result)
            bar.advance()
        return results
