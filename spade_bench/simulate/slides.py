"""The slide cohort: ``slides/``, ``regions/`` and ``tables/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench.simulate.bulk import mean_drivers, write_bulk
from spade_bench.simulate.drawing import side_px
from spade_bench.simulate.imaging import in_parallel, put_image
from spade_bench.simulate.labels import Labels, draw_labels
from spade_bench.simulate.plantedregions import write_planted
from spade_bench.simulate.scanner import Site, draw_site
from spade_bench.simulate.studysettings import ORGANS, LabelSettings, Nuisance, Size
from spade_bench.simulate.tissuemap import draw_case, grow_tissue
from spade_bench.simulate.writers import write_rows

if TYPE_CHECKING:
    from numpy.random import SeedSequence
    from numpy.typing import NDArray

    from spade_bench.simulate.counts import Genome
    from spade_bench.simulate.textures import Textures

__all__ = ["simulate_slides"]


@dataclass(frozen=True)
class _Slide:
    """One slide of the cohort."""

    slide_id: str
    case: int
    seed: SeedSequence


def simulate_slides(
    folder: Path,
    seed: SeedSequence,
    size: Size,
    textures: Textures,
    *,
    genome: Genome,
    bulk_seed: SeedSequence,
    coupling: float,
    images_of: Path | None = None,
) -> dict[str, Any]:
    """Write ``slides/``, ``regions/`` and ``tables/`` and return their part of the truth.

    Args:
        folder: Where to.
        seed: Source of all randomness of slides and labels.
        size: How much.
        textures: Textures.
        genome: Genes of the bulk expression.
        bulk_seed: Source of the randomness of the bulk expression alone.
        coupling: Share of cases whose bulk expression is their own.
        images_of: Study to take the images from, where they are not to be drawn.
    """
    plan_seed, label_seed, draw_seed = seed.spawn(3)
    rng = np.random.default_rng(plan_seed)
    organ = ORGANS[0]
    sites = [draw_site(f"S{i + 1}", Nuisance(), rng) for i in range(size.slide_sites)]
    cases = [draw_case(organ, rng) for _ in range(size.cases)]
    case_ids = [f"SIM-{organ.oncotree}-{i + 1:04d}" for i in range(size.cases)]
    case_sites = [sites[i] for i in rng.integers(0, len(sites), size.cases)]
    labels = draw_labels(cases, LabelSettings(), np.random.default_rng(label_seed))
    twice = set(rng.choice(size.cases, size.second_slides, replace=False).tolist())
    slides = _slides_of(case_ids, twice, draw_seed)

    def one(slide: _Slide) -> NDArray[np.float64]:
        slide_rng = np.random.default_rng(slide.seed)
        site = case_sites[slide.case]
        tissue = grow_tissue(organ, cases[slide.case], size.slide_side_um, slide_rng)
        path = folder / "slides" / f"{slide.slide_id}.tif"
        write_planted(
            folder / "regions" / f"{slide.slide_id}.geojson", tissue, side_px(tissue, site.mpp)
        )
        put_image(path, tissue, site, textures, slide_rng, drawn=images_of and images_of / "slides")
        return mean_drivers(tissue)

    drivers = np.stack(in_parallel("simulating slides", one, slides, "slides"))  # (slides, drivers)
    _write_tables(folder / "tables", slides, case_ids, case_sites, labels)
    owner = np.array([slide.case for slide in slides])
    of_cases = np.stack([drivers[owner == i].mean(axis=0) for i in range(size.cases)])
    bulk = write_bulk(folder, bulk_seed, genome, case_ids, of_cases, coupling=coupling)
    return {
        "labels": asdict(LabelSettings()) | {"best": labels.describe()},
        "bulk": bulk,
        "sites": {site.name: site.describe() for site in sites},
        "cases": {
            name: {"site": site.name, "molecular": case.molecular, "drawn": case.drawn}
            for name, site, case in zip(case_ids, case_sites, cases, strict=True)
        },
    }


def _slides_of(case_ids: Sequence[str], twice: set[int], seed: SeedSequence) -> list[_Slide]:
    """One slide per case, or two for the cases of ``twice``; each has a seed of its own."""
    owners = [i for i in range(len(case_ids)) for _ in range(2 if i in twice else 1)]
    seeds = seed.spawn(len(owners))
    return [
        _Slide(f"{case_ids[i]}-{'AB'[j > 0 and owners[j - 1] == i]}", i, seeds[j])
        for j, i in enumerate(owners)
    ]


def _write_tables(
    folder: Path,
    slides: Sequence[_Slide],
    case_ids: Sequence[str],
    sites: Sequence[Site],
    labels: Labels,
) -> None:
    """Write a table per task, one row per slide."""
    common = [
        {
            "case_id": case_ids[slide.case],
            "slide_id": slide.slide_id,
            "site": sites[slide.case].name,
            "simulated": 1,
        }
        for slide in slides
    ]
    for name, classes in labels.classes.items():
        rows = [row | {"label": classes[s.case]} for row, s in zip(common, slides, strict=True)]
        columns = ("case_id", "slide_id", "site", "label", "simulated")
        write_rows(folder / f"{name}.csv", columns, rows)
    rows = [
        row
        | {"event": int(labels.event[s.case]), "duration_days": int(labels.duration_days[s.case])}
        for row, s in zip(common, slides, strict=True)
    ]
    survival = ("case_id", "slide_id", "site", "event", "duration_days", "simulated")
    write_rows(folder / "sim_survival.csv", survival, rows)
