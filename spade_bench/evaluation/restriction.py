"""Bags of a run restricted to what was outlined on the slides."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import UserError
from spade_bench.features.identity import with_base
from spade_bench.files import file_name, hash_obj
from spade_bench.regions.regionbags import Cut, PatchRule, RegionChoice, cut_bags

if TYPE_CHECKING:
    from spade_bench.evaluation.encoderfeatures import EncoderFeatures
    from spade_bench.evaluation.request import EvaluationRequest
    from spade_bench.features.bags import FeatureFolders

__all__ = ["REGIONS", "Restriction", "cutting", "region_choice"]

REGIONS = "regions"
"""Flag of rows whose bags hold the patches inside regions alone; their inputs say which."""

_FOLDER = "inside"  # below the folder of results


def region_choice(request: EvaluationRequest) -> RegionChoice | None:
    """Return what a run's bags are restricted to; None where they are whole slides."""
    settings = request.settings
    if settings.regions is None:
        return None
    rule = PatchRule(settings.region_names, settings.region_share)
    return RegionChoice(settings.regions, rule, settings.match_ids)


@dataclass
class Restriction:
    """Cuts the bags of a task, encoder by encoder, and keeps what rows say of it.

    Attributes:
        choice: The regions; None leaves bags as they are.
        folder: Folder of the run.
        slides: Slides of the task.
        folders: Says what made feature files.
        allow_missing: Leave out slides without a region file or a patch inside.
        digests: Slide id -> hash of what was outlined on it, of what has been cut.
    """

    choice: RegionChoice | None
    folder: Path
    slides: Sequence[str]
    folders: FeatureFolders
    allow_missing: bool = False
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, request: EvaluationRequest, slides: Sequence[str], folders: FeatureFolders
    ) -> Restriction:
        """Return what a run asks for."""
        choice = region_choice(request)
        folder = Path() if choice is None else request.out / _FOLDER
        return cls(choice, folder, slides, folders, request.settings.allow_missing)

    def features(self, features: EncoderFeatures) -> EncoderFeatures:
        """Return an encoder with its files cut.

        Raises:
            DataError: When a region file is unsound, or slides lack one or a patch inside and this
                was not allowed.
        """
        if self.choice is None:
            return features
        cut = self._cut(self.choice, features.label, features.files)
        key, made_by = cut.key(list(cut.files)), features.made_by
        if made_by is not None:
            made_by = replace(made_by, regions=key)
            base = self.folders.identity(next(iter(features.files.values())))
            if base is not None and (features.encode or features.encode_slide):
                made_by = with_base(made_by, replace(base, regions=key))
        return replace(features, files=cut.files, made_by=made_by)

    def files(self, label: str, files: Mapping[str, Path]) -> Mapping[str, Path]:
        """Return files cut, such as those of an untrained encoder.

        Raises:
            DataError: See `features`.
        """
        return files if self.choice is None else self._cut(self.choice, label, files).files

    def hashes(self, slides: Sequence[str]) -> dict[str, str]:
        """What rows over these slides say of it, for their inputs; nothing for whole slides."""
        if self.choice is None:
            return {}
        listed = [[slide, self.digests[slide]] for slide in sorted(slides)]
        return {REGIONS: hash_obj([self.choice.rule.words, listed])}

    @property
    def words(self) -> dict[str, str]:
        """The same in words, for tables that tell rows apart."""
        return {} if self.choice is None else {REGIONS: self.choice.rule.words}

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of every row."""
        return () if self.choice is None else (REGIONS,)

    def _cut(self, choice: RegionChoice, label: str, files: Mapping[str, Path]) -> Cut:
        """Cut the files of one encoder into a folder of their own."""
        # Files of two encoders of one label, or of other regions, never share a folder.
        listed = sorted([slide, str(path)] for slide, path in files.items())
        mark = hash_obj([listed, choice.rule.words, str(choice.path)])[:8]
        folder = self.folder / f"{file_name(label)}-{mark}"
        cut = cut_bags(
            files, self.slides, choice, folder, label=label, allow_missing=self.allow_missing
        )
        self.digests |= cut.digests
        return cut


def cutting(
    rule: PatchRule | None,
    regions: str | Path | None,
    wanted: Sequence[str],
    stack: contextlib.ExitStack,
) -> Callable[[EncoderFeatures], EncoderFeatures] | None:
    """Return what cuts features as those that a model was fitted on; None for whole slides.

    Args:
        rule: Which patches of a slide it was fitted on; None for all.
        regions: Folder of region files, or None.
        wanted: Slides that count; empty for all of the features.
        stack: Removes the files that are made.

    Raises:
        UserError: When it was fitted inside regions and none are given, or on whole slides and
            some are.
    """
    if rule is None and regions is None:
        return None
    if regions is None:
        words = "" if rule is None else rule.words
        raise UserError(
            f"The model was fitted on {words}, not on whole slides",
            fix="Give the regions of these slides with --regions DIR",
        )
    if rule is None:
        raise UserError(
            "The model was fitted on whole slides",
            where="--regions",
            fix="Leave it out, or fit a model with --regions",
        )
    choice = RegionChoice(Path(regions), rule)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spade-bench-")))

    def cut(source: EncoderFeatures) -> EncoderFeatures:
        files = cut_bags(
            source.files,
            wanted or list(source.files),
            choice,
            folder,
            label=source.label,
            fix="Outline these slides, or leave them out with a table of the others",
        ).files
        return replace(source, files=files)

    return cut
