"""The rows of a task of expression: encoders, their controls, and what needs no encoder at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench.cohorts.contamination import Provenance, leaks_of_fold
from spade_bench.console import say, track, warn
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.evaluation.controls import RANDOM_WEIGHTS, random_weight_features, variants
from spade_bench.evaluation.encoderfeatures import EncoderFeatures, find_features
from spade_bench.evaluation.variants import PERMUTED, Variant, VariantKey, as_they_are
from spade_bench.features.bags import read_bag
from spade_bench.features.casebags import BagInfo, CaseBags, scan_bags
from spade_bench.files import hash_obj

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.evaluation.request import EvaluationRequest
    from spade_bench.evaluation.spots.sectiondata import SectionData
    from spade_bench.features.bagmemory import BagMemory
    from spade_bench.features.bags import FeatureFolders
    from spade_bench.types import Episode, TaskCard

    Floats = NDArray[np.float32]

__all__ = ["COORDINATES", "PERMUTED_SPOTS", "TOTAL_COUNTS", "SectionFeatures", "SpotRow",
           "SpotRows", "covered", "encoder_rows", "plain_rows"]  # fmt: skip

PERMUTED_SPOTS = "permuted-spots"
TOTAL_COUNTS = "total-counts"
COORDINATES = "coordinates"


@dataclass(frozen=True)
class SpotRow:
    """A row of the table.

    Attributes:
        variant: The encoder or control; the files of one that needs none are empty.
        plain: Makes the features of a section without an encoder, (n, D); None for those of files.
        models: The same row of every model in a folder of several, of which each fold takes one
            that was trained on none of its test sections; else ``variant`` alone.
    """

    variant: Variant
    plain: Callable[[SectionData], Floats] | None = None
    models: tuple[Variant, ...] = ()

    def of_fold(
        self, fold: Episode, patient_of: Mapping[str, str]
    ) -> tuple[Variant, tuple[str, ...]]:
        """Return the model for a fold, and what it saw of the fold's test sections; see `models`.

        Where every model saw some of them, the first one is returned.
        """
        models = self.models or (self.variant,)
        leaks = [leaks_of_fold(one.seen, fold, patient_of) for one in models]
        first = next((i for i, found in enumerate(leaks) if not found), 0)
        return models[first], leaks[first]

    @property
    def permuted(self) -> bool:
        """Whether the expression of training spots is dealt anew within each section."""
        return self.variant.control == PERMUTED_SPOTS


@dataclass(frozen=True)
class SpotRows:
    """Rows with the files behind them.

    Attributes:
        rows: Encoders, then controls.
        infos: What was found in each feature file.
        barcodes: Barcodes of the rows of each feature file.
        unusable: Label and error of each encoder that could not be used.
    """

    rows: tuple[SpotRow, ...]
    infos: Mapping[Path, BagInfo]
    barcodes: Mapping[Path, NDArray[np.str_]]
    unusable: tuple[tuple[str, str], ...] = ()

    def features_hash(self, row: SpotRow, names: Sequence[str]) -> str:
        """Hash of the features that a row starts from; of one without files, of its name."""
        if row.plain is not None:
            return hash_obj([row.variant.control])
        files = row.variant.files
        return hash_obj([[name, self.infos[files[name]].digest] for name in names])

    def bags(self, row: SpotRow, names: Sequence[str], cache: str, memory: BagMemory) -> CaseBags:
        """Base features of the sections, in the order of ``names``."""
        files = [[row.variant.files[name]] for name in names]
        dim = self.infos[files[0][0]].dim
        return CaseBags.from_files(files, dim, cache=cache, infos=self.infos, memory=memory)


def encoder_rows(
    request: EvaluationRequest, card: TaskCard, folders: FeatureFolders
) -> tuple[list[SpotRow], tuple[tuple[str, str], ...]]:
    """Find every encoder and its controls; one of several that cannot be used is set aside.

    The weights of an encoder may be a folder with nothing but folders in it, each with the weights
    of one model, such as one per fold.

    Raises:
        UserError: When none can be used.
    """
    sources: list[list[EncoderFeatures]] = []  # of each encoder those of its models
    unusable: list[tuple[str, str]] = []
    for encoder in request.encoders:
        try:
            models = [replace(encoder, weights=folder) for folder in _models(encoder.weights)]
            found = [find_features(request, one, card, folders) for one in models or [encoder]]
            if any(one.encode_slide is not None for one in found):
                raise DataError(
                    "makes one vector per slide, and expression is predicted spot by spot",
                    where=f"encoder '{encoder.label}'",
                    fix="Use an encoder of patches",
                )
            sources.append(found)
        except UserError as error:
            if len(request.encoders) == 1:
                raise
            warn(f"{encoder.label} on {card.name}: {error}")
            unusable.append((encoder.label, str(error)))
    if not sources:
        raise UserError(f"no encoder can be used: {unusable[0][1]}", where=f"task {card.name}")
    random_files = None
    if request.settings.controls:
        random_files = random_weight_features(request, card, folders)
    # Of each encoder the n-th model, or its only one.
    rounds = [
        variants([found[min(n, len(found) - 1)] for found in sources], request, random_files)
        for n in range(max(map(len, sources)))
    ]
    several = {found[0].label for found in sources if len(found) > 1}
    rows = []
    for place in dict.fromkeys((row.label, row.control) for one in rounds for row in one):
        alike = [row for one in rounds for row in one if (row.label, row.control) == place]
        control = PERMUTED_SPOTS if place[1] == PERMUTED else place[1]
        alike = [replace(row, control=control) for row in alike]
        owner = alike[0].control_of or alike[0].label
        own = owner in several and bool(alike[0].seen.samples)
        rows.append(_of_models(alike) if own else SpotRow(alike[0]))
    # The untrained encoder stands beside all of them, after what stands beside each.
    rows.sort(key=lambda one: (bool(one.variant.control), one.variant.control == RANDOM_WEIGHTS))
    return rows, tuple(unusable)


def _models(weights: Path | None) -> list[Path]:
    """The models in a folder of several; none where the folder is a model itself, or a file."""
    if weights is None or not weights.is_dir():
        return []
    inside = sorted(path for path in weights.iterdir() if not path.name.startswith("."))
    return inside if inside and all(path.is_dir() for path in inside) else []


def _of_models(alike: Sequence[Variant]) -> SpotRow:
    """One row of several models, which together are what made its numbers."""
    identities = sorted(hash_obj(one.identity) for one in alike)
    whole = replace(
        alike[0],
        identity={"models": identities},
        made_by=hash_obj(sorted(one.made_by for one in alike)),
    )
    return SpotRow(whole, models=tuple(alike))


def plain_rows(data: Sequence[SectionData]) -> list[SpotRow]:
    """Controls that look at no image: how deep a spot was sequenced, and where it lies.

    Normalised values say nothing of depth; where a section has no others, that control is left out.
    """
    makers = {TOTAL_COUNTS: _total_counts, COORDINATES: _coordinates}
    if lost := [one.name for one in data if not one.has_depth]:
        del makers[TOTAL_COUNTS]
        say(f"no control {TOTAL_COUNTS}: values of {name_some(lost)} are normalised, and the depth "
            "of their spots is lost")  # fmt: skip
    return [
        SpotRow(
            Variant(
                label=name,
                files={},
                key=VariantKey(name),
                make=as_they_are,
                control=name,
                seen=Provenance(()),
            ),
            make,
        )
        for name, make in makers.items()
    ]


def covered(
    rows: Sequence[SpotRow], data: Sequence[SectionData], *, allow_missing: bool, cache: str
) -> tuple[list[SectionData], SpotRows]:
    """Keep the spots that every row has features of, and the sections that have such spots.

    Raises:
        DataError: When sections lack usable features and this was not allowed, or a file names no
            barcodes.
    """
    infos: dict[Path, BagInfo] = {}
    barcodes: dict[Path, NDArray[np.str_]] = {}
    problems: list[str] = []
    lost: set[str] = set()
    names = [one.name for one in data]
    of_files = {row.variant.key.files: row.variant for row in rows if row.plain is None}
    for variant in of_files.values():
        files = {name: variant.files[name] for name in names if name in variant.files}
        scanned = scan_bags(files, f"Reading features for {variant.label}", cache=cache)
        infos.update({info.path: info for info in scanned.values()})
        bad = {name: info.problem for name, info in scanned.items() if info.problem}
        gone = [name for name in names if name not in files or name in bad]
        if gone:
            why = "; ".join(f"{name}: {bad[name]}" for name in gone if name in bad)
            problems.append(
                f"{variant.label}: no usable features of {len(gone)} of {len(names)} section(s): "
                f"{name_some(gone)}{f' ({why})' if why else ''}"
            )
            lost.update(gone)
        for name in names:
            if name not in gone:
                barcodes[files[name]] = _barcodes(files[name])
    if problems and not allow_missing:
        raise DataError(
            "; ".join(problems),
            fix="Extract them with `spade-bench extract --hest PATH --encoder E --out DIR`, or "
            "leave these sections out with --allow-missing",
        )
    for problem in problems:
        warn(f"{problem}; going on without them")
    kept = []
    for one in track(data, "Matching spots", len(data), "sections"):
        if one.name in lost:
            continue
        there = np.ones(len(one.barcodes), dtype=bool)
        for variant in of_files.values():
            there &= np.isin(one.barcodes, barcodes[variant.files[one.name]])
        there &= one.totals > 0  # a spot without any count says nothing of expression
        if not there.any():
            raise DataError(
                "no spot with counts has features under its barcode",
                where=one.name,
                fix="Give features of the spots of this section, with their barcodes",
            )
        if not there.all():
            say(f"{one.name}: {int((~there).sum())} of {len(there)} spots have no features or no "
                "counts and are left out")  # fmt: skip
        kept.append(one.spots(np.flatnonzero(there)))
    if not kept:
        raise DataError("no section has features")
    return kept, SpotRows(tuple(rows), infos, barcodes)


class SectionFeatures:
    """Features of the spots of sections, row by row as their expression, whatever the file's order.

    Args:
        row: The row of the table.
        variant: The row's encoder, or the model of several that a fold takes.
        rows: All rows, with their files.
        data: The sections.
        cache: What may be kept of the features.
        memory: Where bags are kept.
    """

    def __init__(
        self,
        row: SpotRow,
        variant: Variant,
        rows: SpotRows,
        data: Sequence[SectionData],
        *,
        cache: str,
        memory: BagMemory,
    ) -> None:
        self._row, self._variant, self._data = row, variant, data
        self._base: CaseBags | None = None
        self._order: list[NDArray[np.int64]] = []
        if row.plain is None:
            names = [one.name for one in data]
            self._base = rows.bags(row, names, cache, memory)
            self._order = [
                _positions(rows.barcodes[row.variant.files[one.name]], one.barcodes) for one in data
            ]
        self._made: tuple[tuple[int, ...], Any] | None = None

    def of(self, index: int, pool: Sequence[int]) -> Floats:
        """Return the features of the spots of one section, (n, D).

        Args:
            index: Position of the section.
            pool: Positions of the training sections, for features that are fitted to them.
        """
        if self._row.plain is not None:
            return self._row.plain(self._data[index])
        key = tuple(pool) if self._variant.fitted else ()
        if self._made is None or self._made[0] != key:
            assert self._base is not None
            self._made = key, self._variant.make(self._base, list(key))
        features: Floats = self._made[1][index][self._order[index]]
        return features

    def base(self, index: int) -> Floats:
        """Return the features that the encoder takes, of the spots of one section, (n, D)."""
        assert self._base is not None
        features: Floats = self._base[index][self._order[index]]
        return features


def _barcodes(path: Path) -> NDArray[np.str_]:
    """Barcodes of the rows of a feature file.

    Raises:
        DataError: When it has none, or names one twice.
    """
    found = read_bag(path).barcodes
    if found is None:
        raise DataError(
            "its features have no barcodes, so nobody knows their spots",
            where=str(path),
            fix="Extract them with `spade-bench extract --hest PATH`",
        )
    names = np.asarray(found, dtype=np.str_)
    if len(np.unique(names)) < len(names):
        raise DataError("a barcode occurs twice", where=str(path), fix="Extract it again")
    return names


def _positions(have: NDArray[np.str_], wanted: NDArray[np.str_]) -> NDArray[np.int64]:
    """Where each wanted barcode stands in a file that has all of them."""
    order = np.argsort(have)
    found: NDArray[np.int64] = order[np.searchsorted(have[order], wanted)]
    return found


def _total_counts(section: SectionData) -> Floats:
    """The logarithm of the total of each spot, (n, 1): depth, and nothing of the image."""
    return np.log1p(section.totals)[:, None].astype(np.float32)


def _coordinates(section: SectionData) -> Floats:
    """Where each spot lies in its section, (n, 5): x, y, and their squares and product.

    Counted from the middle of the section in units of its half width, so that sections compare.
    """
    middle = (section.coords.max(axis=0) + section.coords.min(axis=0)) / 2  # (2,)
    half = np.maximum((section.coords.max(axis=0) - section.coords.min(axis=0)) / 2, 1e-9)
    x, y = ((section.coords - middle) / half).T  # (n,) both
    return np.stack([x, y, x * x, y * y, x * y], axis=1).astype(np.float32)
