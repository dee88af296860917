"""Variants: an encoder or a control of it as the bags that it makes of feature files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.contamination import UNKNOWN, Provenance
from spade_bench.console import say
from spade_bench.files import hash_obj

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

    Encode = Callable[[NDArray[np.float32]], NDArray[np.floating]]
    EncodeSlide = Callable[[Path], NDArray[np.floating]]
    MakeBags = Callable[[CaseBags, Sequence[int]], CaseBags]

__all__ = [
    "PERMUTED",
    "Variant",
    "VariantKey",
    "as_they_are",
    "by_slide",
    "files_digest",
    "principal_components",
    "random_layer",
    "through",
]

PERMUTED = "permuted-labels"
"""Name of the control whose training labels are shuffled."""

PCA_PATCHES = 50_000


@dataclass(frozen=True)
class VariantKey:
    """What bags are made of: variants with equal keys have equal bags and share them.

    Attributes:
        files: Digest of the feature files that they start from.
        steps: Digest of what is done to the features; empty where they are used as they are.
    """

    files: str
    steps: str = ""


@dataclass(frozen=True)
class Variant:
    """One row of the table: an encoder, or a control of it.

    Attributes:
        label: Name in the results.
        files: Slide id -> feature file it starts from.
        key: What its bags are made of.
        make: Makes its bags from the base bags and the positions of the training pool.
        control: Name of the control that it is; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands, the first one of several
            that share it; empty for an encoder, and for a control of all of them.
        seen: For the contamination ledger.
        identity: What of it is part of a run's id, besides the feature files.
        made_by: Digest of the identity of what made its features; empty where the files do not say.
        dim: Width that the files must have, or None.
        base: Encoder whose features pass through this one, when they do.
        fitted: Whether ``make`` learns from the training pool, and so must be made anew for every
            test set.
        notes: Flags of the encoder itself, on its controls too.
        description: What a control is, in words, where its encoder brought it.
        encoder: The loaded encoder behind ``make``; None where there is none.
    """

    label: str
    files: Mapping[str, Path]
    key: VariantKey
    make: MakeBags
    control: str = ""
    control_of: str = ""
    seen: Provenance = UNKNOWN
    identity: Mapping[str, Any] = field(default_factory=dict)
    made_by: str = ""
    dim: int | None = None
    base: str | None = None
    fitted: bool = False
    notes: tuple[str, ...] = ()
    description: str = ""
    encoder: Any = None

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag of a control, which scripts rely on."""
        return (f"control:{self.control}",) if self.control else ()

    @property
    def permute(self) -> bool:
        """Whether training labels are shuffled."""
        return self.control == PERMUTED


def files_digest(files: Mapping[str, Path]) -> str:
    """Return a digest of which file serves which slide; what they hold is no part of it."""
    return hash_obj(sorted([slide, str(path)] for slide, path in files.items()))


def as_they_are(bags: CaseBags, pool: Sequence[int]) -> CaseBags:
    """Return the base bags themselves."""
    return bags


def through(encode: Encode, dim: int, made_by: str = "") -> MakeBags:
    """Send patch features through an encoder, (n, D) -> (n, dim); see `CaseBags.map`."""
    return lambda bags, pool: bags.map(encode, dim, made_by=made_by)


def by_slide(encode: EncodeSlide, dim: int, made_by: str = "") -> MakeBags:
    """Send the feature file of each slide through an encoder, -> (slides, dim)."""
    return lambda bags, pool: bags.map_slides(encode, dim, made_by=made_by)


def random_layer(width: int, seed: int) -> MakeBags:
    """Send patch features through one layer of random weights, (n, D) -> (n, width)."""

    def make(bags: CaseBags, pool: Sequence[int]) -> CaseBags:
        import numpy as np

        rng = np.random.default_rng([seed, 3])
        # Features are centred on the training pool; the layer itself is never trained.
        # In the precision of the bags themselves.
        means = [bags.once("mean32", i, partial(_mean, bags, i)) for i in pool]
        mean = np.mean(means, axis=0)  # (D,)
        layer = (rng.normal(size=(bags.dim, width)) / np.sqrt(bags.dim)).astype(np.float32)
        return bags.map(lambda x: np.maximum((x - mean) @ layer, 0), width)  # (n, D) -> (n, W)

    return make


def _mean(bags: CaseBags, index: int) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = bags[index].mean(axis=0)  # (D,)
    return mean


def principal_components(width: int, seed: int) -> MakeBags:
    """Project patch features on components of the training pool: every case outside the test set.

    Args:
        width: Components wanted; fewer are kept where fewer hold all variance.
        seed: Seed of the patches that are taken of large bags.
    """

    def make(bags: CaseBags, pool: Sequence[int]) -> CaseBags:
        import numpy as np

        rng = np.random.default_rng([seed, 4])
        share = max(1, PCA_PATCHES // len(pool))
        parts = []
        for index in pool:
            bag = bags[index]  # (n, D)
            keep = bag if len(bag) <= share else bag[np.sort(rng.choice(len(bag), share, False))]
            parts.append(keep)
        x = np.concatenate(parts).astype(np.float64)  # (N, D)
        mean = x.mean(axis=0)  # (D,)
        x -= mean
        values, vectors = np.linalg.eigh(x.T @ x)  # (D,), (D, D), ascending
        rank = min(width, int((values > 1e-10 * max(values[-1], 1e-300)).sum()))
        axes = vectors[:, ::-1][:, :rank].astype(np.float32)  # (D, r)
        if rank < width:
            say(f"PCA control: {rank} components, fewer than {width}, hold all variance")
        centre = mean.astype(np.float32)
        return bags.map(lambda bag: (bag - centre) @ axes, rank)  # (n, D) -> (n, r)

    return make
