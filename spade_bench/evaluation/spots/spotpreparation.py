"""From a task of expression and encoders to sections, folds and rows that are ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.contamination import contamination
from spade_bench.cohorts.episodes import episode_hash, save_episodes
from spade_bench.cohorts.published.hestbench import Sections, read_sections
from spade_bench.console import say, warn
from spade_bench.errors import DataError, UserError, printable
from spade_bench.evaluation.request import check_card
from spade_bench.evaluation.settingchecks import check_protocol_options, said_options
from spade_bench.evaluation.spots.sectiondata import SectionData, read_section_data, say_sections
from spade_bench.evaluation.spots.spotrows import (
    SpotRow,
    SpotRows,
    covered,
    encoder_rows,
    plain_rows,
)
from spade_bench.features.bags import FeatureFolders
from spade_bench.files import file_name, hash_obj
from spade_bench.registry import kinds
from spade_bench.results.cohortfiles import LeftOut, StoredCase, StoredCohort, write_cohort
from spade_bench.types import Episode, TaskCard

if TYPE_CHECKING:
    from spade_bench.evaluation.request import EvaluationRequest, TaskRequest
    from spade_bench.tasks.spotexpression import Expression

__all__ = ["PreparedSpots", "prepare_spots"]

# Options that say something of cases; sections have none of it.
_OF_CASES = ("test_tables", "test_features", "splits", "regions", "positive", "select",
             "permutations")  # fmt: skip


@dataclass(frozen=True)
class PreparedSpots:
    """A task of expression ready to run.

    Attributes:
        card: The task.
        kind: Its kind.
        sections: The sections that every row covers.
        data: Their spots, in the same order.
        episodes: The folds.
        rows: Encoders and controls.
        hashes: Hashes of cohort, card and splits.
        flags: Flags of every row.
        about: Sections and splits in words.
        leaks: Label of a row -> fold -> what its encoder saw of the test sections in training.
        leaky: Whether folds that test what trained an encoder are run, and flagged.
        cache: What may be kept of the features.
    """

    card: TaskCard
    kind: Expression
    sections: Sections
    data: tuple[SectionData, ...]
    episodes: tuple[Episode, ...]
    rows: SpotRows
    hashes: Mapping[str, str]
    flags: tuple[str, ...]
    about: Mapping[str, str]
    leaks: Mapping[tuple[str, str], Mapping[int, tuple[str, ...]]] = field(default_factory=dict)
    leaky: bool = False
    cache: str = "digests"

    def flags_of(self, row: SpotRow) -> tuple[str, ...]:
        """Flags of a row: its control, those of the task, and what its encoder saw."""
        variant = row.variant
        simulated = self.card.simulated
        seen = contamination(variant.seen, self.card, simulated) if row.plain is None else ()
        if variant.seen.samples:  # it names its sections, which says more than the data set does
            seen = tuple(one for one in seen if one != "contamination:HEST-1k")
        of_folds = self.leaks.get((variant.label, variant.control), {}).values()
        leaks = tuple(dict.fromkeys(leak for fold in of_folds for leak in fold))
        return (*variant.flags, *variant.notes, *self.flags, *leaks, *seen)


def prepare_spots(request: EvaluationRequest, task: TaskRequest) -> PreparedSpots:
    """Read the sections, find and match all features, and make the folds.

    Args:
        request: The run.
        task: One of its tasks, of expression.

    Raises:
        DataError: When sections are unsound, or lack features and this was not allowed.
        UserError: When an option says nothing of expression, or no encoder can be used.
    """
    _refuse_options_of_cases(request)
    kind: Expression = kinds.get(task.card.kind).load()
    check_card(task.card)
    sections = read_sections(task.published or task.table)
    protocol = kind.protocol(sections, request.settings.protocol)
    if len(request.tasks) == 1:
        check_protocol_options(said_options(request.given), protocol)
    whole = read_section_data(sections)
    rows, unusable = encoder_rows(request, task.card, FeatureFolders())
    rows += plain_rows(whole) if request.settings.controls else []
    settings = request.settings
    data, spot_rows = covered(
        rows, whole, allow_missing=settings.allow_missing, cache=settings.cache
    )
    kept = {one.name for one in data}
    sections = replace(
        sections, samples=tuple(one for one in sections.samples if one.sample_id in kept)
    )
    card = _with_simulated(task.card, sections)
    episodes, flags = kind.episodes(sections, protocol, settings.seed)
    say_sections(f"{card.name}{' (simulated data)' if card.simulated else ''}", data)
    say(f"{card.name}: {protocol}, {len(episodes)} folds")
    if sections.nameless:
        flags = (*flags, "patients-unknown")
        warn(f"{card.name}: nobody says of which patient {len(sections.nameless)} of {len(data)} "
             "section(s) are; each counts as a patient of its own")  # fmt: skip
    hashes = {
        "cohort": hash_obj([one.digest for one in data]),
        "task": hash_obj([card.kind, card.metrics, sections.genes]),
        "splits": hash_obj([list(map(episode_hash, episodes)) if protocol == "official" else None]),
    }
    prepared = PreparedSpots(
        card=card,
        kind=kind,
        sections=sections,
        data=tuple(data),
        episodes=tuple(episodes),
        rows=replace(spot_rows, unusable=unusable),
        hashes=hashes,
        flags=(
            *(("simulated",) if card.simulated else ()),
            *(("missing-slides",) if len(data) < len(whole) else ()),
            *(() if task.named else ("unregistered",)),
            *flags,
        ),
        about=_in_words(task, data, protocol, hashes["splits"]),
        leaky=settings.allow_leaky_splits,
        cache=settings.cache,
    )
    prepared = replace(prepared, leaks=_leaks(prepared))
    if not request.dry_run:
        _store(request, task, prepared, whole)
    return _without_refused(request, prepared)


def _refuse_options_of_cases(request: EvaluationRequest) -> None:
    if any(kinds.get(task.card.kind).card.units == "cases" for task in request.tasks):
        return  # another task of the run may use them
    for name in _OF_CASES:
        if name in request.given.said() and getattr(request.given, name) is not False:
            flag = {"test_tables": "test_table"}.get(name, name).replace("_", "-")
            raise UserError(
                f"--{flag} is an option of tasks whose units are cases, and this one predicts "
                "expression in spots",
                fix="Leave it out",
            )


def _with_simulated(card: TaskCard, sections: Sections) -> TaskCard:
    simulated = any(
        str(one.metadata.get("simulated", "")).lower() in {"1", "true"}
        or str(one.metadata.get("dataset_title", "")).lower().startswith("simulated")
        for one in sections.samples
    )
    return replace(card, simulated=card.simulated or simulated)


def _in_words(
    task: TaskRequest, data: Sequence[SectionData], protocol: str, splits: str
) -> dict[str, str]:
    """What the hashes of cohort and splits stand for, without paths."""
    source = printable((task.published or task.table).stem)
    words = {"cohort": f"{len(data)} sections of {source}"}
    if protocol == "official":
        words["splits"] = f"published splits {splits[:8]}"
    return words


def _leaks(prepared: PreparedSpots) -> dict[tuple[str, str], dict[int, tuple[str, ...]]]:
    """What each row's encoder saw of each fold's test sections, or of their patients."""
    out: dict[tuple[str, str], dict[int, tuple[str, ...]]] = {}
    patient_of = prepared.sections.patient_of
    for row in prepared.rows.rows:
        found = {
            number: leaks
            for number, episode in enumerate(prepared.episodes)
            if (leaks := row.of_fold(episode, patient_of)[1])
        }
        if found:
            out[row.variant.label, row.variant.control] = found
    return out


def _without_refused(request: EvaluationRequest, prepared: PreparedSpots) -> PreparedSpots:
    """Refuse encoders that saw the test sections of every fold, unless leaks are allowed.

    Raises:
        DataError: When the only encoder is such a one.
    """
    if prepared.leaky:
        return prepared
    refused: dict[str, str] = {}
    for row in prepared.rows.rows:
        leaks = prepared.leaks.get((row.variant.label, row.variant.control), {})
        if not row.variant.control and len(leaks) == len(prepared.episodes):
            refused[row.variant.label] = leak_sentence(prepared, leaks, row.variant.label)
    if not refused:
        return prepared
    if len(refused) == len(request.encoders) - len(prepared.rows.unusable):
        raise DataError(
            next(iter(refused.values())), where=f"task {prepared.card.name}", fix=LEAK_FIX
        )
    for text in refused.values():
        warn(f"{prepared.card.name}: {text}. {LEAK_FIX}")
    kept = tuple(
        row
        for row in prepared.rows.rows
        if row.variant.label not in refused and row.variant.control_of not in refused
    )
    unusable = (*prepared.rows.unusable, *refused.items())
    return replace(prepared, rows=replace(prepared.rows, rows=kept, unusable=unusable))


LEAK_FIX = (
    "Pretrain it without them (`spade-bench pretrain --exclude-task hest:PATH`; where these are "
    "all your sections, once for each fold: docs/EXPRESSION.md), or accept and flag it with "
    "--allow-leaky-splits"
)


def leak_sentence(prepared: PreparedSpots, leaks: Mapping[int, Sequence[str]], label: str) -> str:
    """Say that an encoder was trained on what folds test."""
    what = sorted({leak.removeprefix("contamination:training-") for of in leaks.values()
                   for leak in of})  # fmt: skip
    words = {"samples": "test sections", "patients": "patients of test sections"}
    named = " and ".join(words[one] for one in what)
    return f"'{label}' was trained on {named} of {len(leaks)} of {len(prepared.episodes)} fold(s)"


def _store(
    request: EvaluationRequest, task: TaskRequest, prepared: PreparedSpots,
    whole: Sequence[SectionData],
) -> None:  # fmt: skip
    """Keep sections and folds beside the results."""
    kept = {one.name for one in prepared.data}
    write_cohort(
        request.out,
        StoredCohort(
            task=prepared.card.name,
            cohort=prepared.hashes["cohort"],
            source=(printable((task.published or task.table).name),),
            cases=tuple(StoredCase(one.name, (one.name,)) for one in prepared.data),
            left_out=tuple(
                LeftOut(one.name, "no usable features") for one in whole if one.name not in kept
            ),
        ),
    )
    about: dict[str, Any] = {
        "task": prepared.card.name,
        "cohort": prepared.hashes["cohort"],
        "units": "sections",
    }
    episodes = list(prepared.episodes)
    name = f"{file_name(prepared.card.name)}-{episodes[0].protocol}-{hash_obj(about)[:8]}.json"
    save_episodes(request.out / "episodes" / name, episodes, about)
