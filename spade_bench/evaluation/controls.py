"""Controls: what stands beside an encoder in every table, so that its number means something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.contamination import UNKNOWN, Provenance, provenance
from spade_bench.console import say
from spade_bench.evaluation.encoderfeatures import (
    EncoderFeatures,
    load_feature_encoder,
    weights_hash,
)
from spade_bench.evaluation.request import EvaluationRequest
from spade_bench.extraction.outputs import checked_encode
from spade_bench.registry import encoders

if TYPE_CHECKING:
    from pathlib import Path

    from spade_bench.features.bags import FeatureFolders
    from spade_bench.features.casebags import CaseBags
    from spade_bench.heads import Head

    MakeBags = Callable[[CaseBags, Sequence[int]], CaseBags]

__all__ = [
    "PERMUTATIONS",
    "PROJECTION_DIM",
    "Variant",
    "n_permutations",
    "random_weight_features",
    "variants",
]

PROJECTION_DIM = 256
PERMUTATIONS = 5
"""How often labels are shuffled where a fit costs next to nothing."""

PCA_PATCHES = 50_000


@dataclass(frozen=True)
class Variant:
    """One row of the table: an encoder, or a control of it.

    Attributes:
        label: Name in the results.
        files: Slide id -> feature file it starts from.
        make: Makes its bags from the base bags and the positions of the training pool.
        flags: Control flags.
        seen: For the contamination ledger.
        identity: What determines the numbers besides the feature files.
        permute: Whether training labels are shuffled.
        dim: Width that the files must have, or None.
        base: Encoder whose features pass through this one, when they do.
        fitted: Whether ``make`` learns from the training pool, and so must be made anew for every
            test set.
        notes: Flags of the encoder itself, on its controls too.
    """

    label: str
    files: Mapping[str, Path]
    make: MakeBags
    flags: tuple[str, ...] = ()
    seen: Provenance = UNKNOWN
    identity: Mapping[str, Any] = field(default_factory=dict)
    permute: bool = False
    dim: int | None = None
    base: str | None = None
    fitted: bool = False
    notes: tuple[str, ...] = ()


def variants(
    sources: Sequence[EncoderFeatures],
    request: EvaluationRequest,
    random_files: tuple[str, Mapping[str, Path]] | None,
) -> list[Variant]:
    """Return every row to run: the encoders, then their controls.

    Args:
        sources: The encoders.
        request: Says whether controls are wanted.
        random_files: Name and features of a random-weight encoder of images, when they are there.
    """
    bases = _base_names(sources)
    mains = [
        replace(_main(source, bases.get(source.label)), notes=source.flags) for source in sources
    ]
    if not request.settings.controls:
        return mains
    rows = list(mains)
    rows += [replace(row, flags=("control:permuted-labels",), permute=True) for row in mains]
    labels = {row.label for row in mains}
    for source in sources:
        own = _controls(source, request, bases.get(source.label, ""))
        rows += [replace(row, notes=source.flags) for row in own]
    if random_files is not None:
        name, files = random_files
        rows.append(Variant(name, files, _same, ("control:random-weights",), Provenance(())))
    else:
        rows += [
            replace(
                _projection(source, request.settings.seed, bases.get(source.label, source.label)),
                notes=source.flags,
            )
            for source in sources
        ]
    unique: dict[tuple[str, tuple[str, ...]], Variant] = {}
    for row in rows:
        # A base or random encoder that was asked for by name is a row already.
        if row.flags in {("control:base",), ("control:random-weights",)} and row.label in labels:
            continue
        unique.setdefault((row.label, row.flags), row)
    return list(unique.values())


def n_permutations(row: Variant, head: Head, asked: int | None) -> int:
    """Return how often a row is fitted: once, or as often as its labels are shuffled.

    Args:
        row: An encoder or control.
        head: What is fitted; several shuffles are the default where its card calls it cheap.
        asked: Number of shuffles that was asked for, or None.
    """
    if not row.permute:
        return 1
    if asked is not None:
        return asked
    return PERMUTATIONS if head.card.cheap else 1


def random_weight_features(
    request: EvaluationRequest, task: Any, folders: FeatureFolders
) -> tuple[str, Mapping[str, Path]] | None:
    """Find features of a random-weight image encoder among those at hand."""
    from spade_bench.errors import DataError
    from spade_bench.features.bags import bag_encoder

    for name in filter(_untrained, encoders.names()):
        folder = request.features_of(task, name)
        if folder is None:
            continue
        try:
            files = folders.bags(folder, name)
        except DataError:
            continue  # the shared folder holds other encoders only
        if bag_encoder(next(iter(files.values()))) == name:
            return name, files
    return None


def _untrained(name: str) -> bool:
    """Whether an encoder is a network of images with random weights, by its name and its card."""
    if not name.startswith("random-"):
        return False
    card = encoders.get(name).card
    return card.input == "image" and card.pretrained_on == ()


def _base_names(sources: Sequence[EncoderFeatures]) -> dict[str, str]:
    """What the base of each encoder that has one is called in the results.

    Encoders may sit on features of one name from several folders. Their bases, and all controls
    made of these, are then told apart as `BASE@ENCODER`, unless they are those of an encoder that
    was asked for by the name of the base.
    """
    plain = {source.label: source.files for source in sources if source.base is None}
    out: dict[str, str] = {}
    for source in sources:
        base = source.base
        if base is None:
            continue
        alike = [other for other in sources if base == (other.base or other.label)]
        same = [other for other in alike if other.files == source.files]
        apart = len(same) < len(alike) and plain.get(base) != source.files
        first = next(other for other in same if other.base is not None)
        out[source.label] = f"{base}@{first.label}" if apart else base
    return out


def _main(source: EncoderFeatures, base: str | None) -> Variant:
    return Variant(
        source.label,
        source.files,
        _by_slide(source) if source.encode_slide else _through(source.encode, source.dim),
        seen=source.seen,
        identity=source.identity,
        dim=source.dim if source.encode is None and source.encode_slide is None else None,
        base=base,
    )


def _controls(source: EncoderFeatures, request: EvaluationRequest, base: str) -> list[Variant]:
    """Controls of an encoder that sits on another one: its base, PCA, K = 1, random routing."""
    chained = source.encode is not None or source.encode_slide is not None
    if not chained or source.base is None or source.dim is None:
        return []
    base_seen = _seen_by_base(source)
    rows = [
        Variant(base, source.files, _same, ("control:base",), base_seen),
        Variant(
            f"{base}+pca{source.dim}",
            source.files,
            _pca(source.dim, request.settings.seed),
            ("control:pca",),
            base_seen,
            {"pca": source.dim, "seed": request.settings.seed},
            fitted=True,
        ),
    ]
    if source.encode_slide is not None or source.request.name == "bleep":
        return rows  # no experts to route among
    weights = source.request.weights
    single = None if weights is None else weights / "controls" / "k1"
    if single is not None and single.is_dir():
        k1 = replace(source.request, weights=single)
        loaded = load_feature_encoder(k1, request.settings.device, request.settings.seed)
        rows.append(
            Variant(
                f"{source.label}-k1",
                source.files,
                _through(checked_encode(loaded), loaded.dim),
                ("control:k1",),
                source.seen,
                {"weights": weights_hash(single), "options": dict(k1.options)},
            )
        )
    else:
        say(f"{source.label}: no control with one expert (no controls/k1 in the weights folder)")
    if source.request.name == "spade":
        routed = load_feature_encoder(
            source.request, request.settings.device, request.settings.seed, routing="random"
        )
        rows.append(
            Variant(
                f"{source.label}-random-routing",
                source.files,
                _through(checked_encode(routed), routed.dim),
                ("control:random-routing",),
                source.seen,
                {**source.identity, "routing": "random", "seed": request.settings.seed},
            )
        )
    return rows


def _projection(source: EncoderFeatures, seed: int, base: str) -> Variant:
    """A fixed random projection of the features, where no untrained encoder's are at hand.

    It is not called `random-weights`: no untrained encoder has seen the images.
    """
    chained = source.encode is not None or source.encode_slide is not None
    width = source.dim if chained and source.dim else PROJECTION_DIM
    return Variant(
        f"{base}+random{width}",
        source.files,
        _random_layer(width, seed),
        ("control:random-projection",),
        _seen_by_base(source),
        {"random_layer": width, "seed": seed},
        fitted=True,
    )


def _seen_by_base(source: EncoderFeatures) -> Provenance:
    """What the encoder of the feature files saw in pretraining."""
    if source.base is None:
        return source.seen
    return provenance(encoders.get(source.base).card if source.base in encoders else None)


def _same(bags: CaseBags, pool: Sequence[int]) -> CaseBags:
    return bags


def _through(encode: Any, dim: int | None) -> MakeBags:
    if encode is None or dim is None:
        return _same
    return lambda bags, pool: bags.map(encode, dim)


def _by_slide(source: EncoderFeatures) -> MakeBags:
    encode, dim = source.encode_slide, source.dim
    if encode is None or dim is None:  # pragma: no cover - the caller checked
        raise AssertionError
    return lambda bags, pool: bags.map_slides(encode, dim)


def _random_layer(width: int, seed: int) -> MakeBags:
    def make(bags: CaseBags, pool: Sequence[int]) -> CaseBags:
        import numpy as np

        rng = np.random.default_rng([seed, 3])
        # Features are centred on the training pool; the layer itself is never trained.
        mean = np.mean([bags[i].mean(axis=0) for i in pool], axis=0)  # (D,)
        layer = (rng.normal(size=(bags.dim, width)) / np.sqrt(bags.dim)).astype(np.float32)
        return bags.map(lambda x: np.maximum((x - mean) @ layer, 0), width)  # (n, D) -> (n, W)

    return make


def _pca(width: int, seed: int) -> MakeBags:
    """PCA of patches, fitted on the training pool: every case outside the test set."""

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
