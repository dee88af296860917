"""Controls: what stands beside an encoder in every table, so that its number means something.

Permuted labels, the base, its principal components and a random projection come from here; what
only the encoder knows of itself, it brings (:class:`spade_bench.types.BringsControls`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.contamination import Provenance, provenance
from spade_bench.errors import DataError, PluginError
from spade_bench.evaluation.encoderfeatures import EncoderFeatures, weights_hash
from spade_bench.evaluation.request import EvaluationRequest
from spade_bench.evaluation.variants import (
    PERMUTED,
    Variant,
    VariantKey,
    as_they_are,
    by_slide,
    files_digest,
    principal_components,
    random_layer,
    through,
)
from spade_bench.extraction.outputs import checked_encode
from spade_bench.extraction.slide_vectors import vector_maker
from spade_bench.features.bags import bag_dim, bag_encoder
from spade_bench.files import hash_obj
from spade_bench.plugins import contained
from spade_bench.registry import encoders
from spade_bench.types import Control, FeatureEncoder, SlideEncoder

if TYPE_CHECKING:
    from pathlib import Path

    from spade_bench.evaluation.variants import MakeBags
    from spade_bench.features.bags import FeatureFolders
    from spade_bench.heads import Head

__all__ = [
    "PERMUTATIONS",
    "PROJECTION_DIM",
    "RANDOM_WEIGHTS",
    "n_permutations",
    "random_weight_features",
    "variants",
]

PROJECTION_DIM = 256
PERMUTATIONS = 5
"""How often labels are shuffled where a fit costs next to nothing."""

RANDOM_WEIGHTS = "random-weights"
_BASE, _PCA, _PROJECTION = "base", "pca", "random-projection"
_OURS = frozenset({PERMUTED, RANDOM_WEIGHTS, _BASE, _PCA, _PROJECTION})
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


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

    Raises:
        PluginError: When a control that an encoder brings cannot be used.
    """
    bases = _base_names(sources)
    beside = [
        _Beside(source, bases.get(source.label), files_digest(source.files), request.settings.seed)
        for source in sources
    ]
    mains = [one.main() for one in beside]
    if not request.settings.controls:
        return mains
    rows = list(mains)
    rows += [replace(row, control=PERMUTED, control_of=row.label) for row in mains]
    labels = {row.label for row in mains}
    for one in beside:
        rows += one.controls()
    if random_files is not None:
        name, files = random_files
        rows.append(
            Variant(
                name,
                files,
                VariantKey(files_digest(files)),
                as_they_are,
                control=RANDOM_WEIGHTS,
                seen=Provenance(()),
            )
        )
    else:
        rows += [one.projection() for one in beside]
    unique: dict[tuple[str, str], Variant] = {}
    for row in rows:
        # A base or random encoder that was asked for by name is a row already.
        if row.control in {_BASE, RANDOM_WEIGHTS} and row.label in labels:
            continue
        unique.setdefault((row.label, row.control), row)
    return list(unique.values())


def n_permutations(row: Variant, head: Head, wanted: int | None) -> int:
    """Return how often a row is fitted: once, or as often as its labels are shuffled.

    Args:
        row: An encoder or control.
        head: What is fitted; several shuffles are the default where its card calls it cheap.
        wanted: Number of shuffles that was asked for, or None.
    """
    if not row.permute:
        return 1
    if wanted is not None:
        return wanted
    return PERMUTATIONS if head.card.cheap else 1


def random_weight_features(
    request: EvaluationRequest, task: Any, folders: FeatureFolders
) -> tuple[str, Mapping[str, Path]] | None:
    """Find features of a random-weight image encoder among those at hand."""
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
    """Whether an encoder is a network of images with random weights, by its card."""
    card = encoders.get(name).card
    return card.untrained and card.input == "image" and card.pretrained_on == ()


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


@dataclass(frozen=True)
class _Beside:
    """Makes the variants of one encoder: itself and what stands beside it.

    Attributes:
        source: The encoder with its files.
        base: What its base is called in the results; None where it has none.
        files: Digest of its files.
        seed: Seed of the run.
    """

    source: EncoderFeatures
    base: str | None
    files: str
    seed: int

    @property
    def chained(self) -> bool:
        """Whether features of a base pass through the encoder."""
        return self.source.encode is not None or self.source.encode_slide is not None

    def main(self) -> Variant:
        """The encoder itself."""
        source = self.source
        make: MakeBags = as_they_are
        if source.dim is not None and source.encode_slide is not None:
            make = by_slide(source.encode_slide, source.dim, source.maker)
        elif source.dim is not None and source.encode is not None:
            make = through(source.encode, source.dim, source.maker)
        return Variant(
            source.label,
            source.files,
            # Two encoders may have equal weights and options, so the name counts too.
            self._key(*((source.request.name, source.identity) if self.chained else ())),
            make,
            seen=source.seen,
            identity=source.identity,
            made_by="" if source.made_by is None else source.made_by.digest,
            dim=None if self.chained else source.dim,
            base=self.base,
            notes=source.flags,
            encoder=source.loaded,
        )

    def controls(self) -> list[Variant]:
        """The base, its principal components, and what the encoder brings."""
        source = self.source
        if not self.chained or self.base is None or source.dim is None:
            return []
        components = {"pca": source.dim, "seed": self.seed}
        rows = [
            self._of_base(_BASE, self.base, as_they_are, {}),
            self._of_base(
                _PCA,
                f"{self.base}+pca{source.dim}",
                principal_components(source.dim, self.seed),
                components,
            ),
        ]
        return rows + [self._brought(control) for control in _brought_by(source, self.seed)]

    def projection(self) -> Variant:
        """A fixed random projection of the features, where no untrained encoder's are at hand.

        It is not called `random-weights`: no untrained encoder has seen the images.
        """
        width = self.source.dim if self.chained and self.source.dim else PROJECTION_DIM
        return self._of_base(
            _PROJECTION,
            f"{self.base or self.source.label}+random{width}",
            random_layer(width, self.seed),
            {"random_layer": width, "seed": self.seed},
        )

    def _key(self, *steps: Any) -> VariantKey:
        return VariantKey(self.files, hash_obj(steps) if steps else "")

    def _of_base(
        self, control: str, label: str, make: MakeBags, identity: Mapping[str, Any]
    ) -> Variant:
        """A control made of the features that the encoder starts from, fitted unless as is."""
        return Variant(
            label,
            self.source.files,
            self._key(*([identity] if identity else [])),
            make,
            control=control,
            control_of=self.source.label,
            seen=_seen_by_base(self.source),
            identity=identity,
            made_by=self._on_base(identity),
            fitted=bool(identity),
            notes=self.source.flags,
        )

    def _on_base(self, steps: Mapping[str, Any]) -> str:
        """Digest of the identity of the files and of what is done to them; empty without either."""
        main = self.source.made_by
        base = "" if main is None else main.base if self.chained else main.digest
        return hash_obj([base, steps]) if steps else base

    def _brought_by_encoder(self, control: Control) -> str:
        main = self.source.made_by
        if main is None:
            return ""
        weights = None if control.weights is None else weights_hash(control.weights)
        return hash_obj([main.digest, control.name, control.identity, weights])

    def _brought(self, control: Control) -> Variant:
        source = self.source
        identity = {**source.identity, **control.identity}
        if control.weights is not None:
            identity["weights"] = weights_hash(control.weights)
        encoder = control.encoder
        maker = hash_obj([source.maker, control.name, identity]) if source.maker else ""
        if isinstance(encoder, SlideEncoder):
            vector = vector_maker(encoder, any_base=bool(source.flags))
            dim = encoder.dim or bag_dim(next(iter(source.files.values())))
            make = by_slide(lambda path: vector(path)[1], dim, maker)
        else:
            make = through(checked_encode(encoder), encoder.dim, maker)
        return Variant(
            f"{source.label}{control.label}",
            source.files,
            self._key(source.request.name, control.name, identity),
            make,
            control=control.name,
            control_of=source.label,
            seen=source.seen,
            identity=identity,
            made_by=self._brought_by_encoder(control),
            notes=source.flags,
            description=control.description,
            encoder=encoder,
        )


def _brought_by(source: EncoderFeatures, seed: int) -> Sequence[Control]:
    """Ask an encoder for its controls, and look at them.

    Raises:
        PluginError: When something about one of them is wrong.
    """
    # Asked of the object: an instance check would remember what its class had at the first call.
    controls: Callable[[int], Sequence[Control]] | None = getattr(source.loaded, "controls", None)
    if controls is None:
        return ()
    where = f"encoder '{source.request.name}'"
    with contained("", where):
        brought = tuple(controls(seed))
    for index, control in enumerate(brought):
        others = brought[:index]
        problem = _problem(control)
        if not problem and any(control.name == other.name for other in others):
            problem = "has the name of another one"
        if not problem and any(control.label == other.label for other in others):
            problem = "has the label of another one"
        if problem:
            name = getattr(control, "name", "")
            raise PluginError(
                f"the control {name!r} that it brings {problem}",
                where=where,
                fix="Correct its `controls` method, or leave controls out with --no-controls",
            )
    return brought


def _problem(control: object) -> str:
    """What keeps a control from being used; empty where nothing does."""
    if not isinstance(control, Control):
        return "is not a spade_bench.types.Control"
    if not _NAME.fullmatch(control.name):
        return "needs a name of lower-case letters, digits and dashes"
    if control.name in _OURS:
        return "has the name of a control that every encoder has"
    if not control.label:
        return "needs a label that tells it from the encoder, such as '-k1'"
    encoder: object = control.encoder
    if not isinstance(encoder, FeatureEncoder | SlideEncoder):
        return "has no encoder with card, dim and `encode` or `encode_slide`"
    try:
        hash_obj(control.identity)
    except (TypeError, ValueError):
        return "has an identity that JSON cannot hold"
    return ""


def _seen_by_base(source: EncoderFeatures) -> Provenance:
    """What the encoder of the feature files saw in pretraining."""
    if source.base is None:
        return source.seen
    return provenance(encoders.get(source.base).card if source.base in encoders else None)
