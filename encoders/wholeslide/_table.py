"""One row for each published slide encoder: its card, what it needs, how it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spade_bench.encoders.common.seendata import ledger, ledger_notes
from spade_bench.encoders.common.weights import UNPINNED
from spade_bench.types import EncoderCard, Needs

__all__ = ["ROWS", "SlideRow"]

Call = Literal["feather", "titan", "prism", "moozy"]

_REMOTE = (
    "Runs code from the hub, so it asks for --trust-remote-code; --weights FOLDER takes a copy."
)
_ND = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True)
class SlideRow:
    """A slide encoder of the hub.

    Attributes:
        card: Its card; `upstream`, `patch_px` and `mpp` say what patches it needs.
        in_dim: Width of the patch features.
        call: How the model is called.
    """

    card: EncoderCard
    in_dim: int
    call: Call


def _needs(repo: str, *modules: str, transformers_below: int | None = None) -> Needs:
    return Needs(
        (repo,),
        ("config.json",),
        modules=modules,
        install=" ".join(modules),
        transformers_below=transformers_below,
    )


def _feather_title(name: str) -> str:
    patches = name.partition("-")[2].upper()
    return f"FEATHER ({patches})" if patches else "FEATHER"


def _feather(
    name: str, upstream: str, in_dim: int, patch_px: int, part: str, *, commit: str
) -> SlideRow:
    repo = f"MahmoodLab/abmil.base.{part}.pc108-24k"
    card = EncoderCard(
        name=name,
        title=_feather_title(name),
        input="features",
        level="slide",
        dim=512,
        description=f"FEATHER: gated-attention pooling of {upstream} features, supervised on 108 "
        "classes of 24,000 slides.",
        patch_px=patch_px,
        mpp=0.5,
        source=f"hub {repo}",
        revision=commit,
        needs=_needs(repo),
        licence=_ND,
        gated=True,
        pretrained_on=("MGB (private)",),
        undeclared=ledger("pppp?"),
        upstream=upstream,
        remote_code=True,
        reference="Shao et al., ICML 2025, arXiv 2506.09022",
        notes=(
            _REMOTE,
            "Supervised pretraining: few-shot results on its classes are no surprise.",
            *ledger_notes("pppp?"),
        ),
    )
    return SlideRow(card, in_dim, "feather")


_TITAN = SlideRow(
    EncoderCard(
        name="titan",
        input="features",
        level="slide",
        dim=768,
        description="TITAN: a transformer over the grid of CONCH v1.5 features, trained on 335,645 "
        "slides with reports and captions.",
        patch_px=512,
        mpp=0.5,
        precision="fp16",
        source="hub MahmoodLab/TITAN",
        # Commit: as slide2vec pins it.
        revision="dac6773d9961cfc75503440676ff157a2c6e8d2e",
        needs=_needs("MahmoodLab/TITAN", "einops", "einops_exts", transformers_below=5),
        licence=_ND,
        gated=True,
        pretrained_on=("Mass-340K", "GTEx"),
        undeclared=ledger("nnnp?"),
        upstream="conch_v15",
        extra="einops, einops_exts, transformers<5",
        remote_code=True,
        reference="Ding et al., Nature Medicine 2025, doi 10.1038/s41591-025-03982-3",
        notes=(
            _REMOTE,
            "Its code was written for transformers 4 and does not load with 5.",
            "Needs coordinates and the patch side in level-0 pixels.",
            *ledger_notes("nnnp?"),
        ),
    ),
    768,
    "titan",
)

_PRISM = SlideRow(
    EncoderCard(
        name="prism",
        input="features",
        level="slide",
        dim=1280,
        description="PRISM: a Perceiver over Virchow features, trained on 587,196 slides with "
        "reports.",
        patch_px=224,
        mpp=0.5,
        precision="fp16",
        source="hub paige-ai/Prism",
        # Commit: as raw2features pins it.
        revision="b5ef311e78a0811c71ecf618f6f7140e9ebb5fc6",
        needs=_needs("paige-ai/Prism", "environs", "sacremoses", transformers_below=5),
        licence=_ND,
        gated=True,
        pretrained_on=("MSKCC (private)",),
        undeclared=ledger("pppp?"),
        upstream="virchow",
        extra="environs, sacremoses, transformers<5",
        remote_code=True,
        reference="Shaikovski et al., arXiv 2405.10254",
        notes=(
            _REMOTE,
            "Its code was written for transformers 4 and does not load with 5.",
            *ledger_notes("pppp?"),
        ),
    ),
    2560,
    "prism",
)

_MOOZY = SlideRow(
    EncoderCard(
        name="moozy",
        title="MOOZY",
        input="features",
        level="slide",
        dim=768,
        description="MOOZY: a transformer with distances as its positions over Lunit's features, "
        "trained on 77,134 public slides and supervised on 333 tasks of 56 public data sets.",
        patch_px=224,
        mpp=0.5,
        source="hub AtlasAnalyticsLab/MOOZY",
        needs=Needs(("AtlasAnalyticsLab/MOOZY",), ("moozy.pt",)),
        licence="CC-BY-NC-SA-4.0",
        pretrained_on=("TCGA", "CPTAC", "PANDA", "CAMELYON17", "other public data sets"),
        undeclared=ledger("YYY??"),
        upstream="lunit-dino-s8-imagenet",
        reference="Kotp et al., arXiv 2603.27048",
        notes=(
            "Vector of the slide, as LazySlide and slide2vec's moozy-slide take it; the authors' "
            "own command passes it on through a transformer over the slides of a case.",
            "Supervised with labels and survival of all TCGA and CPTAC cohorts, PANDA and others: "
            "results on these are no test of it.",
            "Patches as the authors' extractor makes them, with the statistics of the port of "
            "Lunit's model; slides at 20x and 40x were seen.",
            "Needs coordinates and the patch side in level-0 pixels.",
            "Time grows with the square of the number of patches; memory does not.",
            UNPINNED,
            *ledger_notes("YYY??"),
        ),
    ),
    384,
    "moozy",
)

ROWS: dict[str, SlideRow] = {
    row.card.name: row
    for row in (
        _feather(
            "feather",
            "conch_v15",
            768,
            512,
            "conch_v15",
            # As one public project pins it in its TITAN and FEATHER adapters.
            commit="423c894c738294e8b0ac38938108180a2c21dd43",
        ),
        # As raw2features pins them.
        _feather(
            "feather-uni2",
            "uni2",
            1536,
            256,
            "uni_v2",
            commit="7c0a057001e369ff6b55833188775bdb21f9b8c8",
        ),
        _feather(
            "feather-uni",
            "uni",
            1024,
            256,
            "uni",
            commit="9290d7720a2260501cf9cbbbc1f6b7134b251637",
        ),
        _TITAN,
        _PRISM,
        _MOOZY,
    )
}
