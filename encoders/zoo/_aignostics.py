"""The RudolfV-2 family of Aignostics."""

from __future__ import annotations

from spade_bench.encoders.zoo._rows import entry, variant
from spade_bench.encoders.zoo.entry import Entry, Remote
from spade_bench.types import Normalisation

__all__ = ["ENTRIES"]

_RUDOLF = Normalisation((0.7072, 0.5787, 0.7036), (0.2119, 0.2301, 0.1775))


def _rudolf(
    name: str, repo: str, dim: int, size: str, millions: float, *, commit: str
) -> tuple[Entry, Entry]:
    both = entry(
        name,
        dim,
        Remote(),
        f"RudolfV-2, ViT-{size}/8 with 8 registers and rotary positions, from more than 300,000 "
        "slides of Charité and LMU.",
        feature="cls",
        prefix=9,
        repos=(f"Aignostics/{repo}",),
        revision=commit,
        norm=_RUDOLF,
        licence="CC-BY-NC-ND-4.0 with supplementary terms",
        gated=True,
        flags="nppp?",
        pretrained_on=("Charité and LMU (private)",),
        millions=millions,
        reference=f"RudolfV-2, 2026; model card Aignostics/{repo}",
        notes=(
            "Runs code from the hub, so it asks for --trust-remote-code.",
            "793 tokens at 224 px: about three times the arithmetic of H-optimus for the largest.",
            "Trained at 0.25, 0.5, 1 and 2 µm/px; square input only.",
        ),
    )
    note = "class token and mean of the patch tokens."
    return both, variant(both, f"{name}-cls-mean", note, dim=2 * dim, feature="cls+mean")


# Commits: as three public projects pin them.
ENTRIES: tuple[Entry, ...] = (
    *_rudolf(
        "rudolfv2",
        "RudolfV-2",
        1536,
        "g",
        1130,
        commit="482d9519c6a10fc22fbe5bcd6a87d5daf056643c",
    ),
    *_rudolf(
        "rudolfv2-b",
        "RudolfV-2-B",
        768,
        "B",
        85.2,
        commit="b2cb55c8fff8aaaf9cc16fda6d09bfb21dfc6db8",
    ),
    *_rudolf(
        "rudolfv2-s",
        "RudolfV-2-S",
        384,
        "S",
        21.4,
        commit="76abacd512a98c72a6db6192af9fc98313c3bd78",
    ),
)
