"""From a task and encoders to a cohort that all of them cover, bags, episodes and rows to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.contamination import cohort_sources
from spade_bench.cohorts.episodes import save_episodes
from spade_bench.cohorts.spelling import read_number
from spade_bench.cohorts.tables import cohort_hash, keep_covered
from spade_bench.console import say, warn
from spade_bench.errors import DataError, UserError, printable
from spade_bench.evaluation.cohortrecord import store_cohort
from spade_bench.evaluation.controls import RANDOM_WEIGHTS, random_weight_features, variants
from spade_bench.evaluation.encoderfeatures import (
    EncoderFeatures,
    find_features,
    matched,
    with_test_files,
)
from spade_bench.evaluation.request import (
    MEASURED,
    EvaluationRequest,
    TaskRequest,
    check_card,
)
from spade_bench.evaluation.restriction import Restriction
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.evaluation.taskcohort import TaskCases, draw, load_cases
from spade_bench.evaluation.variants import Variant
from spade_bench.features.bags import FeatureFolders
from spade_bench.features.casebags import BagInfo, CaseBags, Looks, scan_bags
from spade_bench.files import file_name, hash_obj
from spade_bench.registry import kinds, suggest, tasks
from spade_bench.types import Cohort, Episode, TaskCard

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.bagmemory import BagMemory
    from spade_bench.tasks.kind import TaskKind

__all__ = ["PreparedTask", "prepare"]


_MANY = 10  # classes, of which more are unusual
# Settings that decide how cases are divided, as opposed to how often.
_DEALT = ("folds", "holdout", "group_by_site", "preserve_sites", "published")


@dataclass(frozen=True)
class PreparedTask:
    """A task ready to run.

    Attributes:
        card: The task.
        kind: Its kind.
        cohort: The cases that every encoder covers.
        target: What heads learn, by position.
        episodes: The episodes, shared by all rows.
        rows: Encoders and controls.
        infos: What was found in each feature file.
        hashes: Hashes of cohort and card.
        flags: Flags of every row.
        unusable: Label and error of each encoder that could not be used for this task.
        patient_of: Slide -> patient where slides are the units; empty where patients are.
        about: Cases, splits and the cohort tested on, in words.
        cache: What may be kept of the features; see `spade_bench.features.cache.CACHE_MODES`.
    """

    card: TaskCard
    kind: TaskKind
    cohort: Cohort
    target: NDArray[Any]
    episodes: list[Episode]
    rows: list[Variant]
    infos: Mapping[Path, BagInfo]
    hashes: Mapping[str, str]
    flags: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...] = ()
    patient_of: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    cache: str = "digests"

    def features_hash(self, row: Variant) -> str:
        """Hash of the features of the cohort's slides, in the row's files."""
        slides = [slide for case in self.cohort.cases for slide in case.slide_ids]
        return hash_obj([[slide, self.infos[row.files[slide]].digest] for slide in slides])

    def files_hash(self, row: Variant) -> str:
        """Hash of the files of the cases, in their order; what they hold is no part of it."""
        return hash_obj([[str(path) for path in paths] for paths in self._files(row)])

    def base_bags(self, row: Variant, memory: BagMemory | None = None) -> CaseBags:
        """Bags of the files a row starts from, kept in ``memory`` or by themselves."""
        files = self._files(row)
        dim = self.infos[files[0][0]].dim
        return CaseBags.from_files(files, dim, cache=self.cache, infos=self.infos, memory=memory)

    def _files(self, row: Variant) -> list[list[Path]]:
        return [[row.files[slide] for slide in case.slide_ids] for case in self.cohort.cases]

    def pool(self, episodes: Iterable[Episode]) -> NDArray[np.int64]:
        """Positions of the cases that none of ``episodes`` tests on."""
        import numpy as np

        tested = {case for test in {e.test for e in episodes} for case in test}
        kept = [i for i, case in enumerate(self.cohort.cases) if case.case_id not in tested]
        return np.array(kept, dtype=np.int64)


def prepare(
    request: EvaluationRequest, task: TaskRequest, folders: FeatureFolders, *, divide: bool = True
) -> PreparedTask:
    """Read the table, find and check all features, draw the episodes.

    Args:
        request: The run.
        task: One of its tasks.
        folders: The features folders that the run has listed.
        divide: Whether to draw episodes; without them cases are looked at together.

    Raises:
        DataError: When the table is unsound, or slides lack usable features and this was not
            allowed.
        UserError: When no encoder can be used.
    """
    card = task.card
    kind: TaskKind = kinds.get(card.kind).load()
    check_card(card)
    cases = load_cases(request, task, kind)
    if not task.named:
        _say_unregistered(card, cases.cohort)
    wanted = [slide for case in cases.cohort.cases for slide in case.slide_ids]
    inside = Restriction.of(request, wanted, folders)
    features, unusable = _features(request, card, cases.tested, inside)
    random_files, loose = _random_files(request, card, cases.tested, inside)
    rows = _noted(variants(features, request, random_files), loose)
    cohort, infos, complete = _cover(cases.cohort, wanted, rows, request.settings, folders.looks)
    rows = [_fits_width(row, cohort, infos) for row in rows]
    cohort = replace(cohort, simulated=cohort.simulated or card.simulated)
    episodes, notes, settings = (
        draw(request, kind, cases, cohort) if divide else (list[Episode](), [], {})
    )
    _say_cohort(card, cohort, notes)
    hashes = {"cohort": cohort_hash(cohort), "task": hash_obj([card.kind, card.metrics])}
    hashes |= inside.hashes([slide for case in cohort.cases for slide in case.slide_ids])
    dealt = {name: settings[name] for name in _DEALT if name in settings}
    if dealt:  # folds of one deal are never averaged with those of another
        hashes["splits"] = hash_obj(dealt)
    if not request.dry_run:
        about = {"task": card.name, "cohort": hashes["cohort"], "settings": settings}
        _save_episodes(request.out, card.name, episodes, about)
        store_cohort(request.out, task, digest=hashes["cohort"], whole=cases.cohort, kept=cohort,
                     rows=rows, infos=infos)  # fmt: skip
    flags = (
        *(("simulated",) if cohort.simulated else ()),
        *(() if complete else ("missing-slides",)),
        *(() if task.named else ("unregistered",)),
        *inside.flags,
        *cases.flags,
    )
    return PreparedTask(
        _with_sources(card, cases, cohort),
        kind,
        cohort,
        kind.targets(cohort),
        episodes,
        rows,
        infos,
        hashes,
        flags,
        tuple(unusable),
        cases.patient_of,
        {**_in_words(task, cohort, dealt, bool(cases.tested)), **inside.words},
        request.settings.cache,
    )


def _noted(rows: list[Variant], loose: Sequence[str]) -> list[Variant]:
    """Note on controls with random weights how their features were matched to slides."""
    return [
        replace(row, notes=(*row.notes, *loose)) if row.control == RANDOM_WEIGHTS else row
        for row in rows
    ]


def _save_episodes(
    out: Path, task: str, episodes: Sequence[Episode], about: dict[str, Any]
) -> None:
    name = f"{file_name(task)}-{episodes[0].protocol}-{hash_obj(about)[:8]}.json"
    save_episodes(out / "episodes" / name, episodes, about)


def _in_words(
    task: TaskRequest, cohort: Cohort, dealt: Mapping[str, Any], elsewhere: bool
) -> dict[str, str]:
    """What the hashes of cohort and splits stand for, without paths."""
    source = task.published or task.table
    words = {"cohort": f"{len(cohort.cases)} cases of {printable(source.stem)}"}
    texts = {
        "folds": f"{dealt.get('folds')} folds",
        "holdout": f"held out {dealt.get('holdout')}",
        "group_by_site": "sites kept together",
        "preserve_sites": "sites kept whole, classes balanced",
        "published": f"published splits {str(dealt.get('published'))[:8]}",
    }
    splits = [text for name, text in texts.items() if dealt.get(name)]
    if splits:
        words["splits"] = ", ".join(splits)
    if elsewhere:
        words["tested_on"] = printable((task.test_table or source).stem)
    return words


def _features(
    request: EvaluationRequest,
    card: TaskCard,
    tested: frozenset[str],
    inside: Restriction,
) -> tuple[list[EncoderFeatures], list[tuple[str, str]]]:
    """Find every encoder; one of several that cannot be used does not stop the others."""
    usable, unusable = [], []
    wanted, folders = inside.slides, inside.folders
    for encoder in request.encoders:
        try:
            features = find_features(request, encoder, card, folders)
            if tested:
                features = with_test_files(request, features, tested, folders)
            files, loose = matched(request, features.files, wanted, features.label)
            flags = tuple(dict.fromkeys((*features.flags, *loose)))
            usable.append(inside.features(replace(features, files=files, flags=flags)))
        except UserError as error:
            if len(request.encoders) == 1:
                raise
            warn(f"{encoder.label} on {card.name}: {error}")
            unusable.append((encoder.label, str(error)))
    if not usable:
        raise UserError(f"no encoder can be used: {unusable[0][1]}", where=f"task {card.name}")
    return usable, unusable


def _random_files(
    request: EvaluationRequest,
    card: TaskCard,
    tested: frozenset[str],
    inside: Restriction,
) -> tuple[tuple[str, Mapping[str, Path]] | None, tuple[str, ...]]:
    """Name and files of an untrained encoder for the controls, and the flags of their match."""
    if not request.settings.controls:
        return None, ()
    wanted, folders = inside.slides, inside.folders
    random_files = random_weight_features(request, card, folders)
    if random_files is not None and tested:
        random_files = _random_elsewhere(request, random_files, tested, folders)
    if random_files is None:
        return None, ()
    name, files = random_files
    files, loose = matched(request, files, wanted, name)
    return (name, inside.files(name, files)), loose


def _random_elsewhere(
    request: EvaluationRequest,
    random_files: tuple[str, Mapping[str, Path]],
    tested: frozenset[str],
    folders: FeatureFolders,
) -> tuple[str, Mapping[str, Path]] | None:
    """The random-weight features with those of the test cohort; None where it has none."""
    name, files = random_files
    folder = request.settings.test_features.get(name)
    if folder is not None:
        others = folders.bags(folder, name)
        files = {**files, **{slide: path for slide, path in others.items() if slide in tested}}
    return (name, files) if tested <= set(files) else None


def _with_sources(card: TaskCard, cases: TaskCases, cohort: Cohort) -> TaskCard:
    """The card with the data sets of the cohort to test on, which it does not describe."""
    tested = [case.case_id for case in cohort.cases if cases.tested.intersection(case.slide_ids)]
    if not tested:
        return card
    both = (*(card.sources or ("private",)), *cohort_sources(tested))
    return replace(card, sources=tuple(dict.fromkeys(both)))


def _say_unregistered(card: TaskCard, cohort: Cohort) -> None:
    classes = f"; classes from the table: {', '.join(cohort.classes)}" if cohort.classes else ""
    near = suggest(card.name, tasks.names(), 0.8)
    meant = f". Did you mean {near}? Then repeat with that name" if near else ""
    say(f"task '{card.name}' is not registered{classes}{meant}")
    if len(cohort.classes) > _MANY and all(
        read_number(name) is not None for name in cohort.classes
    ):
        say(
            f"{card.name}: {len(cohort.classes)} classes that are numbers; of measured values "
            f"write --task {MEASURED}{card.label_column}"
        )


def _say_cohort(card: TaskCard, cohort: Cohort, notes: Sequence[str]) -> None:
    counts = {name: sum(case.label == name for case in cohort.cases) for name in cohort.classes}
    values = [case.value for case in cohort.cases if case.value is not None]
    if not counts:
        counts = {"events": sum(bool(case.event) for case in cohort.cases)}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    if values:
        unit = f" {card.measured_in}" if card.measured_in else ""
        listed = f"{card.label_column} {min(values):g} to {max(values):g}{unit}"
    say(f"{card.name}{' (simulated data)' if cohort.simulated else ''}: {len(cohort.cases)} cases "
        f"{'; '.join([f'({listed})', *notes])}")  # fmt: skip
    if len(cohort.classes) == 2:
        say(f"{card.name}: positive class: {cohort.classes[1]}")
    elif cohort.classes:
        say(f"{card.name}: class order: {', '.join(cohort.classes)}")
    if "kappa_quadratic" in card.metrics and not card.classes:
        say(f"{card.name}: kappa_quadratic takes the classes as {' < '.join(cohort.classes)}; "
            "declare `classes` in the task's card if this is not their order")  # fmt: skip


def _cover(
    cohort: Cohort,
    wanted: Sequence[str],
    rows: Sequence[Variant],
    settings: EvaluationSettings,
    looks: Looks,
) -> tuple[Cohort, dict[Path, BagInfo], bool]:
    """Check every distinct set of files; keep the slides that all of them can serve."""
    infos: dict[Path, BagInfo] = {}
    complete, problems = True, []
    seen: set[str] = set()
    for row in rows:
        if row.key.files in seen:
            continue
        seen.add(row.key.files)
        files = {slide: row.files[slide] for slide in wanted if slide in row.files}
        scanned = scan_bags(
            files, f"Reading features for {row.label}", cache=settings.cache, seen=looks
        )
        infos.update({info.path: info for info in scanned.values()})
        unusable = {slide: info.problem for slide, info in scanned.items() if info.problem}
        cohort, coverage = keep_covered(cohort, row.files, unusable)
        if not coverage.complete:
            complete = False
            problems.append(f"{row.label}: {coverage.describe()}")
        elif coverage.n_extra:
            say(f"{row.label}: {coverage.describe()}")
    if problems and not settings.allow_missing:
        raise DataError(
            "; ".join(problems),
            fix="Add the features, or leave these slides out with --allow-missing",
        )
    for problem in problems:
        warn(f"{problem}; going on without them")
    if not cohort.cases:
        raise DataError("no case of the table has features", where=cohort.name)
    return cohort, infos, complete


def _fits_width(row: Variant, cohort: Cohort, infos: Mapping[Path, BagInfo]) -> Variant:
    info = infos[row.files[cohort.cases[0].slide_ids[0]]]
    if row.dim is not None and info.dim != row.dim:
        raise DataError(
            f"features are {info.dim} wide, encoder '{row.label}' makes {row.dim}",
            where=str(info.path.parent),
            fix="Name the folder with this encoder's features",
        )
    return row
