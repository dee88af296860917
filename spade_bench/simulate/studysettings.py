"""Every constant of the generative story: programmes, organs, nuisance and cohort sizes.

The story in one paragraph. A tissue is a map of NICHES (how much of a place is gland, solid
tumour, stroma, lymphoid tissue, necrosis) with PROGRAMMES on top (levels between 0 and 1 that the
tumour cells of a place express). Both drive negative-binomial counts. Both also drive what is
drawn, but a programme is drawn only through a noisy copy of itself: ``visibility`` is the
correlation between a programme's level and the level the drawing uses. Labels of a case depend on
the programmes, never on the drawing. On top of that lies NUISANCE, which knows nothing of labels or
programmes: stain vectors, stain strength, section thickness, scanner white balance, gamma, blur,
noise, JPEG quality and pixel size, varying by site and by slide.

The nuisance is what a few-shot classifier on features of natural images struggles with, and the
reason why features aligned with expression can help: expression does not depend on the stain, so
what the alignment keeps is what the stain does not change. The standard deviations below are
those of strongly varying multi-site H&E (stain strength by tens of per cent between laboratories
and between slides of one; stain vectors by several degrees: Macenko et al., ISBI 2009; Tellez et
al., Medical Image Analysis 2019). They are the same for the training sections and the benchmark
slides. They, the organs' looks and the sizes were chosen on studies of seeds 0, 1 and 10; figures
quoted for the control come from other seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = [
    "NICHES",
    "ORGANS",
    "PROGRAMMES",
    "SIZES",
    "GeneSettings",
    "LabelSettings",
    "Nuisance",
    "Organ",
    "Programme",
    "Size",
]

NICHES = ("gland", "solid", "stroma", "lymphoid", "necrosis")
"""Tissue composition of a place; the fractions sum to one."""


@dataclass(frozen=True)
class Programme:
    """A molecular programme of tumour and gland cells.

    Attributes:
        name: Used in ``truth.json``.
        visibility: Correlation of the drawn level with the molecular level, 0 to 1.
        case_sd: Standard deviation of a case's mean, on the logit scale of the level.
        local_sd: Standard deviation within a section, same scale.
        markers: Genes that answer to it.
        sign: What is drawn, in words.
    """

    name: str
    visibility: float
    case_sd: float
    local_sd: float
    markers: int
    sign: str


PROGRAMMES = (
    Programme("mapk", 0.9, 1.6, 1.6, 120, "elongated nuclei, mucin vacuoles"),
    Programme("secretory", 0.9, 1.4, 1.4, 80, "wide gland lumens, pale cytoplasm between nuclei"),
    Programme("mesenchymal", 0.9, 1.4, 1.4, 80, "fibres and spindle nuclei between tumour cells"),
    Programme("cycling", 0.9, 0.7, 1.4, 30, "large, dark, crowded nuclei"),
)
"""``mapk`` drives crc_braf, ``secretory`` sim_subtype, ``mesenchymal`` survival."""


@dataclass(frozen=True)
class Organ:
    """What sets one organ apart: composition, gland size, cell size and background colour.

    Attributes:
        name: HEST's spelling of the organ.
        oncotree: OncoTree code written to the metadata.
        niche_logits: Mean logits of ``NICHES``.
        lumen_um: Mean radius of a gland's lumen in micrometres.
        nucleus_um: Mean semi-axis of a tumour nucleus in micrometres.
        eosin: Strength of the eosin background relative to the average organ.
        spaces: How much of the stroma is fat cells or air spaces, 0 to 1.
    """

    name: str
    oncotree: str
    niche_logits: tuple[float, ...]
    lumen_um: float
    nucleus_um: float
    eosin: float
    spaces: float


ORGANS = (
    Organ("Bowel", "COAD", (1.2, 1.1, 0.5, -0.5, -1.2), 24.0, 4.4, 0.9, 0.0),
    # Mostly fat and fibres around the tumour, as breast is: its patches look like no other organ's.
    Organ("Breast", "IDC", (-0.4, 1.0, 1.9, -0.6, -1.4), 10.0, 3.5, 1.3, 1.0),
    Organ("Lung", "LUAD", (0.9, 1.0, 0.6, 0.0, -0.9), 16.0, 4.8, 0.8, 0.4),
    Organ("Prostate", "PRAD", (1.6, 0.7, 0.8, -0.9, -2.5), 20.0, 3.7, 1.1, 0.0),
)


@dataclass(frozen=True)
class Nuisance:
    """Variation that carries no information about programmes or labels.

    Every value is a standard deviation unless said otherwise. ``site_`` values are drawn once per
    site, ``slide_`` values once per slide and added.

    Attributes:
        site_vector: Change of each component of the unit stain vectors.
        slide_vector: The same for a slide.
        site_strength: Change of log stain strength, haematoxylin and eosin independently.
        slide_strength: The same for a slide.
        thickness: Smooth change of log strength within a slide.
        site_white: Change of the log white point of each colour channel.
        site_gamma: Change of the log exponent of the scanner's response.
        blur_um: Largest blur; a site's is uniform between 0 and this (micrometres).
        grain: Largest sensor noise; a site's is uniform between 0 and this (grey levels).
        quality: Lowest and highest JPEG quality of a site.
        mpp: Lowest and highest micrometres per pixel of a site.
    """

    site_vector: float = 0.05
    slide_vector: float = 0.05
    site_strength: float = 0.35
    slide_strength: float = 0.40
    thickness: float = 0.10
    site_white: float = 0.02
    site_gamma: float = 0.08
    blur_um: float = 0.45
    grain: float = 4.0
    quality: tuple[int, int] = (72, 92)
    mpp: tuple[float, float] = (0.47, 0.53)


@dataclass(frozen=True)
class GeneSettings:
    """The count model: counts ~ NB(mean = depth * share of the gene, dispersion).

    Attributes:
        n_genes: Genes in the whole cohort.
        n_missing: Genes absent from a sample's table, drawn per sample.
        n_markers: Marker genes of each niche; a programme has its own number.
        n_organ: Genes that differ between organs.
        effect: Mean log fold change of a niche marker between fraction 0 and 1.
        programme_effect: The same for a programme marker, level 0 to 1 in pure tumour.
        depth: Median total count of a spot.
        sample_depth_sd: Standard deviation of a sample's log depth.
        spot_depth_sd: Standard deviation of a spot's log depth within a sample.
        dispersion: Lowest and highest inverse size of the negative binomial, log-uniform by gene.
        batch_sd: Standard deviation of a sample's log effect on each gene.
    """

    n_genes: int = 11_500
    n_missing: int = 30
    n_markers: int = 30
    n_organ: int = 200
    effect: float = 1.5
    programme_effect: float = 3.0
    depth: float = 15_000.0
    sample_depth_sd: float = 0.25
    spot_depth_sd: float = 0.35
    dispersion: tuple[float, float] = (0.03, 0.3)
    batch_sd: float = 0.05


@dataclass(frozen=True)
class LabelSettings:
    """How labels follow from a case's standardised programmes.

    A label score is ``weight * programme + sqrt(1 - weight^2) * noise``; the ``positive`` share
    with the highest score gets the positive label. Survival is exponential with a log hazard of
    ``log_hazard`` per standard deviation, censored uniformly.

    Attributes:
        weight: Share of the programme in the score (a correlation).
        positive: Share of positive cases, by table.
        log_hazard: Log hazard ratio of one standard deviation of ``mesenchymal``.
        median_days: Median survival at the mean.
        follow_up_days: Latest censoring time.
    """

    weight: float = 0.95
    positive: Mapping[str, float] = field(
        default_factory=lambda: {"crc_braf": 0.45, "sim_subtype": 0.5}
    )
    log_hazard: float = 1.0
    median_days: float = 900.0
    follow_up_days: float = 2500.0


@dataclass(frozen=True)
class Size:
    """How much to simulate.

    Attributes:
        organs: Number of organs among ``ORGANS``.
        patients: Patients per organ in the spatial transcriptomics cohort.
        second_samples: Patients per organ who gave a second sample.
        st_side_um: Side of a spatial transcriptomics section in micrometres.
        st_sites: Sites of that cohort.
        cases: Cases of the slide cohort.
        second_slides: Cases with a second slide.
        slide_side_um: Side of a slide in micrometres.
        slide_sites: Sites of the slide cohort.
    """

    organs: int
    patients: int
    second_samples: int
    st_side_um: float
    st_sites: int
    cases: int
    second_slides: int
    slide_side_um: float
    slide_sites: int


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        # Five minutes for a demo: too few spots and test cases to show more than a tendency.
        "tiny": Size(2, 24, 2, 800.0, 12, 80, 4, 700.0, 4),
        # Enough for the control (benchmarks/coupling.py): 3,500 spots for each organ's expert, and
        # 100 test cases.
        "small": Size(2, 40, 2, 1100.0, 20, 200, 10, 700.0, 6),
    }
)
