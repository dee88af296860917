"""A head trained on all cases of a table, kept with what is needed to use it on new slides."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import config
from spade_bench.cohorts.hiddennames import KnownNames, is_hidden
from spade_bench.console import say
from spade_bench.errors import ConfigError, DataError, UserError, name_some
from spade_bench.evaluation.encoderfeatures import (
    MISMATCH,
    EncoderFeatures,
    find_features,
    source_bags,
)
from spade_bench.evaluation.inputs import feature_folders
from spade_bench.evaluation.request import EncoderRequest, EvaluationRequest
from spade_bench.evaluation.restriction import cutting
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.features.annotated import bags_in_memory
from spade_bench.features.bags import FeatureFolders, read_bag, same_encoder
from spade_bench.features.casebags import CaseBags, scan_bags
from spade_bench.features.identity import read_identity
from spade_bench.features.makers import FROM_RECIPE, maker_in
from spade_bench.files import atomic_dir, hash_file, hash_obj, read_sealed, write_sealed
from spade_bench.heads import FittedHead
from spade_bench.keywords import says_keywords
from spade_bench.regions.regionbags import PatchRule
from spade_bench.types import Bag, TaskCard

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "DESCRIPTION",
    "FeaturesIdentity",
    "ModelInfo",
    "OpenFeatures",
    "TrainedModel",
    "check_target",
    "features_identity",
    "slides_by_case",
]

FORMAT, VERSION = "spade-bench model", 1
_TOLERANCE = 0.02  # magnifications are written rounded
DESCRIPTION, HEAD = "model.json", "head"


@dataclass(frozen=True)
class FeaturesIdentity:
    """What made the features that a model was fitted on, as their files say.

    Attributes:
        encoder: Name in the files; empty where they name none.
        digest: Hash of what the files say of weights and options; empty where they say nothing.
        through: What determines the encoder that they were sent through; empty where they are used
            as they are.
        mpp: Resolution of the patches in micrometres per pixel; None where the files do not say.
    """

    encoder: str = ""
    digest: str = ""
    through: Mapping[str, Any] = field(default_factory=dict)
    mpp: float | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What a trained model is.

    Attributes:
        encoder: Name of the encoder.
        options: Options of its own, such as SPADE's routing.
        task: Name of the task.
        kind: Kind of the task.
        features: What made the features.
        trained_on: Training case -> its slides.
        regions: Which patches of a slide it was fitted on, by what was outlined there; None for
            all of them.
        thresholds: Name -> probability of the positive class from which a case counts as positive;
            empty unless there are two classes.
        seed: Seed of the fit.
        simulated: Whether the training data come from the simulator.
        flags: What a reader of its predictions must know, as rows of results have it.
        versions: Package -> version that it was trained with.
        created_utc: When.
    """

    encoder: str
    task: str
    kind: str
    features: FeaturesIdentity
    trained_on: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    simulated: bool = False
    flags: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    created_utc: str = ""
    regions: PatchRule | None = None


@dataclass(frozen=True)
class OpenFeatures:
    """Features that a model may read.

    Attributes:
        slides: Slides that there are.
        read: Returns the bag of a slide as it is stored.
        make: Makes the bags of cases of their slides, sent through the model's encoder.
        by_patch: Whether a bag that is made has a row per patch, not one per slide.
        files: Slide -> its feature file; empty for bags in memory.
    """

    slides: tuple[str, ...]
    read: Callable[[str], Bag]
    make: Callable[[Sequence[Sequence[str]]], CaseBags]
    by_patch: bool = True
    files: Mapping[str, Path] = field(default_factory=dict)


class TrainedModel:
    """A fitted head that knows its encoder, its classes and its training cases.

    Args:
        info: What it is.
        fitted: The head.
        weights: Weights of the encoder that features pass through, where they are at hand.
    """

    def __init__(self, info: ModelInfo, fitted: FittedHead, weights: Path | None = None) -> None:
        self.info, self.fitted, self.weights = info, fitted, weights

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns; empty for a risk or a value."""
        return self.fitted.info.classes

    @says_keywords
    def predict(
        self,
        features: str | Path | Bag | Sequence[Bag] | AnnData,
        *,
        cases: Mapping[str, str | Sequence[str]] | pd.DataFrame | None = None,
        weights: str | Path | None = None,
        device: str = "auto",
        regions: str | Path | None = None,
    ) -> pd.DataFrame:
        """Predict the cases of a features folder, or of bags in memory.

        Args:
            features: Folder or pack of features of the encoder that it was fitted on, bags, or an
                AnnData of patches.
            cases: Case -> its slides, or a table of `case_id` and `slide_id`; None takes each slide
                for a case, except that the slides of a training case stay together.
            weights: Weights of an encoder of features that the base features are sent through.
            device: Where that encoder runs.
            regions: Folder with `SLIDE.geojson`, for a model that was fitted on the patches inside
                regions; they are chosen as it was fitted.

        Returns:
            One row per case: `case_id`, `slide_id` (joined by `;`), `probability_CLASS` and
            `predicted`, or `predicted` alone for a value, or `risk` (higher is worse), and
            `trained_on`, which marks cases that the model has seen; also `flags` where it was
            fitted on features that name another encoder, or on simulated data.

        Raises:
            DataError: When the features are of another identity, unusable, or a slide is missing.
            UserError: When base features must be sent through an encoder and no weights are given,
                or regions are given or missing where the model was fitted otherwise.
        """
        cases = None if cases is None else slides_by_case(cases)
        with contextlib.ExitStack() as stack:
            wanted = [s for listed in (cases or {}).values() for s in listed]
            inside = cutting(self.info.regions, regions, wanted, stack)
            there = stack.enter_context(
                self.opened(features, weights=weights, device=device, inside=inside)
            )
            chosen = self.cases_of(there.slides) if cases is None else cases
            known = set(there.slides)
            missing = [s for listed in chosen.values() for s in listed if s not in known]
            if missing:
                raise DataError(
                    f"no features of {len(missing)} slide(s): {name_some(missing)}",
                    fix="Extract them, or leave their cases out",
                )
            if not chosen:
                raise DataError("There is no case to predict")
            scores = self.fitted.predict(there.make(list(chosen.values())))
        return self._frame(chosen, scores)

    @says_keywords
    def attention(
        self,
        features: str | Path | Bag,
        slide_id: str | None = None,
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        regions: str | Path | None = None,
    ) -> NDArray[np.float64]:
        """Return the weight of each patch of a slide, (n,), which sum to one.

        Args:
            features: Features folder with the slide, or its bag.
            slide_id: The slide; needed for a folder.
            weights: See `predict`.
            device: See `predict`.
            regions: See `predict`; the patches inside are then all there are.

        Raises:
            UserError: When the head has no attention, or no slide is named.
            DataError: When the features are of another identity, or lack the slide.
        """
        if isinstance(features, Bag):
            slide_id = features.slide_id
        if slide_id is None:
            raise UserError("No slide is named", fix="Name one of the folder's slides")
        with contextlib.ExitStack() as stack:
            inside = cutting(self.info.regions, regions, [slide_id], stack)
            there = stack.enter_context(
                self.opened(features, weights=weights, device=device, only=slide_id, inside=inside)
            )
            return self.fitted.attention(there.make([(slide_id,)])[0])

    @contextlib.contextmanager
    def opened(
        self,
        features: str | Path | Bag | Sequence[Bag] | AnnData,
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        only: str | None = None,
        inside: Callable[[EncoderFeatures], EncoderFeatures] | None = None,
    ) -> Iterator[OpenFeatures]:
        """Open features for as long as the block lasts, and make sure that they fit the model.

        Args:
            features: Features; these, `weights` and `device` as in `predict`.
            weights: Weights.
            device: Device.
            only: Look at this slide of a folder only.
            inside: Cuts the features to the patches that count.

        Raises:
            DataError: When they are of another identity, unusable, or lack the slide.
            UserError: When base features must be sent through an encoder and no weights are given.
        """
        weights = self.weights if weights is None else Path(weights)
        if isinstance(features, (str, Path)):
            yield self._from_folder(Path(features), weights, device, only, inside)
            return
        bags = bags_in_memory(features)
        if not self.info.features.through and inside is None:
            yield self._from_memory(bags)
            return
        with tempfile.TemporaryDirectory(prefix="spade-bench-") as folder:
            place = feature_folders(bags, Path(folder))["*"]
            yield self._from_folder(place, weights, device, only, inside)

    @says_keywords
    def save(self, folder: str | Path) -> Path:
        """Write the model, whole or not at all: `model.json` and the head in `head/`.

        Raises:
            DataError: When the folder exists and is not a saved model.
            UserError: When the head cannot be saved.
        """
        target = Path(folder)
        check_target(target)
        with atomic_dir(target) as inside:
            self.fitted.save(inside / HEAD)
            head = hash_file(inside / HEAD / "head.json")  # which names the tensors' checksum
            about = {"format": FORMAT, "version": VERSION, "head": head, **asdict(self.info)}
            write_sealed(inside / DESCRIPTION, about)
        return target

    @classmethod
    @says_keywords
    def load(cls, folder: str | Path, device: str = "cpu") -> TrainedModel:
        """Read what `save` wrote.

        Raises:
            DataError: When it is missing, damaged, or of another format.
        """
        path = Path(folder) / DESCRIPTION
        if not path.is_file():
            raise DataError(
                "no saved model", where=str(folder), fix="Make one with `spade-bench fit`"
            )
        content = read_sealed(path)
        if content.pop("format", None) != FORMAT:
            raise DataError("does not describe a saved model", where=str(path))
        version = content.pop("version", None)
        if version != VERSION:
            raise DataError(
                f"is of format version {version}; this version of spade-bench reads {VERSION}",
                where=str(path),
            )
        head = Path(folder) / HEAD / "head.json"
        if head.is_file() and content.pop("head", None) != hash_file(head):
            raise DataError("is the head of another model", where=str(head))
        try:
            info = config.build(ModelInfo, content, str(path))
        except ConfigError as error:
            raise DataError(error.what, where=str(path)) from error
        return cls(info, FittedHead.load(Path(folder) / HEAD, device))

    def _from_folder(
        self,
        folder: Path,
        weights: Path | None,
        device: str,
        only: str | None,
        inside: Callable[[EncoderFeatures], EncoderFeatures] | None = None,
    ) -> OpenFeatures:
        """The features in a folder, or those of one slide of it."""
        info = self.info
        encoder = EncoderRequest(info.encoder, info.encoder, weights, info.options)
        if info.features.through and weights is None:
            raise UserError(
                f"The model was fitted on features sent through '{info.encoder}'",
                fix="Give base features and the weights of that encoder with --weights",
            )
        # Features that were fitted on under another name are those that are predicted on.
        as_is = bool(self._mismatch) or not info.features.encoder
        given = {
            **{"features": folder, "device": device, "seed": info.seed, "out": folder},
            "as_is": as_is,
        }
        request = EvaluationRequest(EvaluationSettings.of(given), (encoder,), ())
        card = TaskCard(info.task, info.kind, info.task, info.task)
        source = find_features(request, encoder, card, FeatureFolders())
        if only is not None:
            if only not in source.files:
                raise DataError(f"no features of slide '{only}'", where=str(folder))
            source = replace(source, files={only: source.files[only]})
        if not self._mismatch and (names := _mismatch(source.flags)):
            raise DataError(
                f"features of '{names[0].removeprefix(MISMATCH)}', but the model was fitted on "
                f"those of '{info.encoder}'",
                where=str(folder),
                fix=f"Extract the slides with {info.encoder}",
            )
        self._check_identity(features_identity(source), str(folder))
        source = source if inside is None else inside(source)
        infos = scan_bags(source.files)
        bad = {slide: file_info.problem for slide, file_info in infos.items() if file_info.problem}
        if bad:
            slide, problem = next(iter(bad.items()))
            raise DataError(
                f"{len(bad)} feature file(s) cannot be used; {slide}: {problem}",
                where=str(folder),
                fix="Extract them again, or move them out of the folder",
            )
        dim = next(iter(infos.values())).dim
        return OpenFeatures(
            tuple(source.files),
            lambda slide: read_bag(source.files[slide]),
            lambda cases: source_bags(source, cases, dim, infos=infos),
            source.encode_slide is None,
            source.files,
        )

    def _from_memory(self, bags: Sequence[Bag]) -> OpenFeatures:
        """The features in bags."""
        import numpy as np

        by_slide = {bag.slide_id: bag for bag in bags}
        if len(by_slide) < len(bags):
            raise DataError("Two bags have one slide_id")
        for bag in bags:
            identity = read_identity(bag.identity)
            digest = "" if identity is None else identity.digest
            made_by = FeaturesIdentity(bag.encoder or "", digest, mpp=bag.mpp)
            self._check_identity(made_by, f"bag {bag.slide_id}")
            self.fitted.check_bag(bag.features)
            if not np.isfinite(bag.features).all():
                raise DataError("holds NaN or infinite values", where=f"bag {bag.slide_id}")

        def make(cases: Sequence[Sequence[str]]) -> CaseBags:
            def load(index: int) -> NDArray[np.floating]:
                return np.concatenate([by_slide[slide].features for slide in cases[index]])

            return CaseBags(load, len(cases), self.fitted.info.dim)

        return OpenFeatures(tuple(by_slide), by_slide.__getitem__, make)

    @property
    def _mismatch(self) -> tuple[str, ...]:
        """Flags of features that name another encoder, where the model was fitted on such."""
        return _mismatch(self.info.flags)

    def _check_identity(self, made_by: FeaturesIdentity, where: str) -> None:
        """Refuse features that something else has made; what is not said is not held against them.

        Raises:
            DataError: Naming both.
        """
        wanted = self.info.features
        if made_by.mpp and wanted.mpp and abs(made_by.mpp - wanted.mpp) > _TOLERANCE * wanted.mpp:
            raise DataError(
                f"features at {made_by.mpp:g} µm/px, but the model was fitted on "
                f"{wanted.mpp:g} µm/px",
                where=where,
                fix=f"Extract the slides with --mpp {wanted.mpp:g}",
            )
        if made_by.encoder and wanted.encoder and not same_encoder(made_by.encoder, wanted.encoder):
            raise DataError(
                f"features of '{made_by.encoder}', but the model was fitted on those of "
                f"'{wanted.encoder}'",
                where=where,
                fix=f"Extract the slides with {wanted.encoder}",
            )
        comparable = made_by.digest.startswith(FROM_RECIPE) == wanted.digest.startswith(FROM_RECIPE)
        if made_by.digest and wanted.digest and comparable and made_by.digest != wanted.digest:
            raise DataError(
                f"features of '{wanted.encoder}' with other weights or options than the model was "
                "fitted on",
                where=where,
                fix="Extract the slides as the training slides were extracted",
            )
        if hash_obj(made_by.through) != hash_obj(wanted.through):
            raise DataError(
                f"'{self.info.encoder}' has other weights or options than the model was fitted on",
                where=where,
                fix="Give the weights that it was fitted with",
            )

    def cases_of(self, slides: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return cases with their slides: a slide is a case, those of a training case together.

        A training case whose name was kept back takes that of its first slide.
        """
        grouped: dict[str, list[str]] = {}
        for slide in slides:
            entry = self._slides.find(slide)
            grouped.setdefault(slide if entry is None else self._case_of[entry], []).append(slide)
        return {
            listed[0] if is_hidden(case) else case: tuple(listed)
            for case, listed in grouped.items()
        }

    def trained_on(self, case_id: str, slides: Sequence[str]) -> bool:
        """Whether a case, or one of its slides, is known to have trained the model."""
        return case_id in self._cases or any(slide in self._slides for slide in slides)

    @cached_property
    def _case_of(self) -> dict[str, str]:
        return {s: case for case, listed in self.info.trained_on.items() for s in listed}

    @cached_property
    def _cases(self) -> KnownNames:
        return KnownNames(self.info.trained_on)

    @cached_property
    def _slides(self) -> KnownNames:
        return KnownNames(self._case_of)

    def _frame(
        self, cases: Mapping[str, Sequence[str]], scores: NDArray[np.float64]
    ) -> pd.DataFrame:
        import pandas as pd

        frame = pd.DataFrame(
            {"case_id": list(cases), "slide_id": [";".join(slides) for slides in cases.values()]}
        )
        if not self.classes:
            frame["predicted" if self.fitted.columns == ("value",) else "risk"] = scores[:, 0]
        else:
            for column, name in enumerate(self.classes):
                frame[f"probability_{name}"] = scores[:, column]
            for name, threshold in self.info.thresholds.items():
                over = (scores[:, 1] >= threshold).astype(int)
                label = "predicted" if name == "default" else f"predicted_{name}"
                frame[label] = [self.classes[at] for at in over]
            if not self.info.thresholds:
                frame["predicted"] = [self.classes[at] for at in scores.argmax(axis=1)]
        seen = [self.trained_on(case, slides) for case, slides in cases.items()]
        if self._cases.incomplete:  # a case that is not found may have trained it all the same
            frame["trained_on"] = [True if found else None for found in seen]
            say("The training cases of this model were withheld: trained_on cannot be told")
        else:
            frame["trained_on"] = seen
        flags = (*self._mismatch, *(("simulated",) if self.info.simulated else ()))
        if flags:
            frame["flags"] = ";".join(flags)
        if any(seen):
            say(f"{sum(seen)} of {len(frame)} cases trained this model; "
                "the column trained_on marks them")  # fmt: skip
        return frame


def _mismatch(flags: Sequence[str]) -> tuple[str, ...]:
    return tuple(flag for flag in flags if flag.startswith(MISMATCH))


def slides_by_case(cases: Any, where: str = "table of cases") -> dict[str, Sequence[str]]:
    """Return the slides of each case, of a table or a mapping.

    Args:
        cases: A table of `case_id` and `slide_id`, or case -> its slides.
        where: The table, for messages.

    Raises:
        DataError: When a table lacks a column.
    """
    if hasattr(cases, "groupby"):
        for column in ("case_id", "slide_id"):
            if column not in cases:
                raise DataError(f"has no column {column}", where=where)
        groups = cases.astype(str).groupby("case_id", sort=False)["slide_id"]
        return {str(case): list(slides) for case, slides in groups}
    return {case: [one] if isinstance(one, str) else one for case, one in cases.items()}


def check_target(folder: Path) -> None:
    """Refuse to write a model over anything but a model.

    Raises:
        DataError: When the folder exists and is not a saved model.
    """
    if not folder.exists():
        return
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if inside and not (inside <= {DESCRIPTION, HEAD} and _is_model(folder)):
        raise DataError(
            "exists and is not a saved model, or holds other files",
            where=str(folder),
            fix="Name a new folder",
        )


def _is_model(folder: Path) -> bool:
    try:
        return read_sealed(folder / DESCRIPTION).get("format") == FORMAT
    except DataError:
        return False


def features_identity(source: EncoderFeatures) -> FeaturesIdentity:
    """Say what made the features of an encoder, from their files and from its own weights.

    Raises:
        DataError: When the files were made in different ways.
    """
    makers = {maker_in(path): path for path in source.files.values()}
    # Older files say less: what they say is compared among them only.
    older = {said: path for said, path in makers.items() if said[1].startswith(FROM_RECIPE)}
    makers = {said: path for said, path in makers.items() if said not in older} or older
    if len({said for said in makers if said[1]}) > 1 or len({said[0] for said in makers}) > 1:
        first, second = list(makers.values())[:2]
        raise DataError(
            f"features made in different ways: {first.name} and {second.name}",
            where=str(first.parent),
            fix="Extract all slides with one encoder, one version of its weights and one set of "
            "options",
        )
    encoder, digest = max(makers, key=lambda said: bool(said[1]))
    mpp = read_bag(next(iter(source.files.values()))).mpp
    return FeaturesIdentity(encoder, digest, config.merge(source.identity), mpp)
