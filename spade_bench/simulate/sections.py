"""The spatial transcriptomics cohort: ``hest/`` in HEST-1k layout."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench.simulate.counts import Genome, draw_genome, permute_drivers, sample_counts
from spade_bench.simulate.drawing import side_px
from spade_bench.simulate.imaging import in_parallel, put_image
from spade_bench.simulate.scanner import Site, draw_site
from spade_bench.simulate.spotgrid import Spots, place_spots
from spade_bench.simulate.studysettings import (
    NICHES,
    ORGANS,
    PROGRAMMES,
    GeneSettings,
    Nuisance,
    Size,
)
from spade_bench.simulate.tissuemap import CaseLevels, Tissue, draw_case, grow_tissue
from spade_bench.simulate.writers import HEST_COLUMNS, hest_row, write_rows, write_sample

if TYPE_CHECKING:
    from numpy.random import Generator, SeedSequence
    from numpy.typing import NDArray

    from spade_bench.simulate.textures import Textures

__all__ = ["cohort_genome", "simulate_sections"]


@dataclass(frozen=True)
class _Sample:
    """One spatial transcriptomics section before it is drawn."""

    sample_id: str
    patient: str
    organ: int
    site: Site
    levels: CaseLevels
    tissue: Tissue
    spots: Spots


def cohort_genome(seed: SeedSequence, size: Size) -> Genome:
    """Return the genes of a study from the seed of its sections, which is left as it was."""
    # The second child, without spawning: that would change what comes after.
    gene_seed = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 1))
    return draw_genome(GeneSettings(), size.organs, np.random.default_rng(gene_seed))


def simulate_sections(
    folder: Path,
    seed: SeedSequence,
    size: Size,
    coupling: float,
    textures: Textures,
    *,
    images_of: Path | None = None,
) -> dict[str, Any]:
    """Write ``hest/`` and return its part of the truth; see :func:`build.simulate`."""
    plan_seed, _, mix_seed, draw_seed, count_seed = seed.spawn(5)  # the second: the genome's
    samples = _plan_samples(size, np.random.default_rng(plan_seed))
    genome = cohort_genome(seed, size)
    organs = [ORGANS[sample.organ].name for sample in samples]
    drivers = permute_drivers(
        [sample.spots.drivers for sample in samples],
        organs,
        coupling,
        np.random.default_rng(mix_seed),
    )
    seeds = list(zip(draw_seed.spawn(len(samples)), count_seed.spawn(len(samples)), strict=True))

    def one(i: int) -> dict[str, Any]:
        return _write_one_sample(
            folder / "hest",
            samples[i],
            drivers=drivers[i],
            genome=genome,
            textures=textures,
            seeds=seeds[i],
            images=None if images_of is None else images_of / "hest" / "wsis",
        )

    rows = in_parallel("simulating sections with expression", one, range(len(samples)), "sections")
    write_rows(folder / "hest" / "HEST_v1_1_0.csv", HEST_COLUMNS, rows)
    names = [*NICHES, *(programme.name for programme in PROGRAMMES)]
    return {
        "genes": asdict(GeneSettings()),
        "markers": genome.describe(),
        "sites": {sample.site.name: sample.site.describe() for sample in samples},
        "drivers": names,
        "samples": {
            sample.sample_id: {
                "patient": sample.patient,
                "organ": ORGANS[sample.organ].name,
                "site": sample.site.name,
                "barcodes": sample.spots.barcodes,
                # What is at the spot's place; with coupling 1 it is also what was counted.
                "at_place": np.round(sample.spots.drivers, 4),
                "counted": np.round(block, 4),
            }
            for sample, block in zip(samples, drivers, strict=True)
        },
    }


def _plan_samples(size: Size, rng: Generator) -> list[_Sample]:
    """Draw patients, their sites and the tissue of each of their sections."""
    sites = [draw_site(f"R{i + 1}", Nuisance(), rng) for i in range(size.st_sites)]
    samples: list[_Sample] = []
    for o, organ in enumerate(ORGANS[: size.organs]):
        for p in range(size.patients):
            levels = draw_case(organ, rng)
            # Sites take turns, so that each one handles every organ.
            site = sites[(p + o) % len(sites)]
            for _ in range(2 if p < size.second_samples else 1):
                tissue = grow_tissue(organ, levels, size.st_side_um, rng)
                samples.append(
                    _Sample(
                        sample_id=f"SIM{len(samples) + 1:03d}",
                        patient=f"SIMPAT-{organ.name}-{p + 1:02d}",
                        organ=o,
                        site=site,
                        levels=levels,
                        tissue=tissue,
                        spots=place_spots(tissue, rng),
                    )
                )
    return samples


def _write_one_sample(
    folder: Path,
    sample: _Sample,
    *,
    drivers: NDArray[np.float64],
    genome: Genome,
    textures: Textures,
    seeds: tuple[SeedSequence, SeedSequence],
    images: Path | None,
) -> dict[str, Any]:
    """Draw, count and write one section; return its row of the metadata table."""
    organ, site = ORGANS[sample.organ], sample.site
    path = folder / "wsis" / f"{sample.sample_id}.tif"
    rng = np.random.default_rng(seeds[0])
    put_image(path, sample.tissue, site, textures, rng, drawn=images)
    counts, present = sample_counts(genome, drivers, sample.organ, np.random.default_rng(seeds[1]))
    row = hest_row(
        sample.sample_id,
        sample.patient,
        organ,
        mpp=site.mpp,
        side_px=side_px(sample.tissue, site.mpp),
        shape=counts.shape,
    )
    genes = [genome.names[i] for i in present]
    write_sample(
        folder,
        row,
        spots=sample.spots,
        counts=counts,
        genes=genes,
    )
    return row
