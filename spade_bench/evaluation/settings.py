"""The settings of an evaluation, from flags, a YAML file, the workspace or keywords.

Whatever says an option fills in one class, where None means that nobody has said it. Each
option is declared here and nowhere else, and this is where it is decided who wins: defaults
give way to the workspace, the workspace to the YAML file, and that to flags and keywords.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_bench import config
from spade_bench.cohorts.columns import COLUMN_FIELDS
from spade_bench.errors import ConfigError
from spade_bench.workspace import Workspace

__all__ = [
    "DEFAULTS",
    "ELSEWHERE",
    "EvaluationSettings",
    "from_workspace",
    "path_of",
    "read_settings",
]

# Typed as the value that stands there once the defaults are in, so that an option is declared
# once, and not a second time for the resolved settings.
_UNSET: Any = None


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation is told to do; None in a field means that the option is unset.

    Attributes:
        encoders: Encoders, or LABEL=ENCODER.
        tasks: Named tasks, cards (.yaml), `patho-bench:PATH`, `hest:PATH`, or any name with a
            table.
        heads: Heads; empty for the default head of each kind of task.
        tables: Task -> table; `*` for every task.
        features: Encoder or label -> features folder; `*` for every encoder.
        weights: Label -> file or folder; `*` for every encoder of features.
        test_tables: Task -> table of another cohort to test on; `*` for every task.
        test_features: Like `features`, for the other cohort.
        splits: Task -> CLAM split files; `*` for every task.
        bench_root: Folder of HEST-Bench, whose task folders `hest:TASK` names.
        regions: Folder with `SLIDE.geojson`, to whose regions bags are restricted.
        region_names: Classes or names of regions to take; empty takes all.
        region_share: Least share of a patch's area inside; None asks for its centre.
        case_column: Column of the case in every table; likewise the next four.
        slide_column: Column of the slide.
        label_column: Column of the label.
        event_column: Column of the event.
        days_column: Column of the days.
        event_value: Value that means that the event happened.
        match_ids: `exact`, or `loose`; see `spade_bench.features.slideids`.
        protocol: few-shot, cv, external or leave-site-out, of expression official,
            leave-one-patient-out or leave-one-section-out; empty for few-shot, or for external
            where there is a cohort to test on, or for that of published splits; of expression by
            patient.
        shots: Training cases per class.
        draws: Draws per number of shots.
        folds: Folds of cross-validation.
        repeats: How often folds are drawn, or how often an external model is fitted.
        holdout: Share of cases that cross-validation holds out where the table gives no split.
        group_by_site: Keep the cases of a site on one side of every split.
        preserve_sites: Likewise, with folds in which classes are spread as evenly as a search can
            find.
        select: Choose hyperparameters from the head's grid, on training cases only.
        seed: Seed of everything random.
        controls: Whether controls run beside the encoders.
        permutations: How often the control with permuted labels shuffles them; None for several
            times where the head is cheap, else once.
        allow_missing: Leave out slides and labels that are missing.
        allow_leaky_splits: Accept published splits with cases on both sides, and flag every row.
        trust_remote_code: Agree to run code that lies beside the weights of encoders.
        device: Device.
        memory: What bags and training may take together, such as `4GB`; None for the default.
        cache: What may be kept of the features: digests, copy or off; see docs/FEATURES.md.
        positive: The positive one of two classes; None leaves it to the order of classes.
        as_is: Take files that name another encoder, and flag every row.
        pretrained_on: Data sets that encoders outside the registry saw in pretraining: each entry
            `A,B` for all of them, or `ENCODER=A,B`; `none` means nothing.
        keep_heads: Whose fitted heads are kept: `none`, `folds` or `all`.
        set: Settings of heads and encoders, by their name or label.
        out: Folder for results.
    """

    encoders: tuple[str, ...] = _UNSET
    tasks: tuple[str, ...] = _UNSET
    heads: tuple[str, ...] = _UNSET
    tables: Mapping[str, Path] = _UNSET
    features: Mapping[str, Path] = _UNSET
    weights: Mapping[str, Path] = _UNSET
    test_tables: Mapping[str, Path] = _UNSET
    test_features: Mapping[str, Path] = _UNSET
    splits: Mapping[str, Path] = _UNSET
    bench_root: Path | None = None
    regions: Path | None = None
    region_names: tuple[str, ...] = _UNSET
    region_share: float | None = None
    case_column: str | None = None
    slide_column: str | None = None
    label_column: str | None = None
    event_column: str | None = None
    days_column: str | None = None
    event_value: str | None = None
    match_ids: str = _UNSET
    protocol: str = _UNSET
    shots: tuple[int, ...] = _UNSET
    draws: int = _UNSET
    folds: int = _UNSET
    repeats: int = _UNSET
    holdout: float | None = None
    group_by_site: bool = _UNSET
    preserve_sites: bool = _UNSET
    select: bool = _UNSET
    seed: int = _UNSET
    controls: bool = _UNSET
    permutations: int | None = None
    allow_missing: bool = _UNSET
    allow_leaky_splits: bool = _UNSET
    trust_remote_code: bool = _UNSET
    device: str = _UNSET
    memory: str | None = None
    cache: str = _UNSET
    positive: str | None = None
    as_is: bool = _UNSET
    pretrained_on: tuple[str, ...] = _UNSET
    keep_heads: str = _UNSET
    set: Mapping[str, Any] = _UNSET
    out: Path | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], source: str = "settings") -> EvaluationSettings:
        """Build settings from options as flags, YAML or a caller write them.

        None, and a list or mapping without entries, says nothing. One name stands for a list of
        one, a path for `{"*": path}`, and dotted keys in ``set`` mean what they mean to `--set`.

        Args:
            options: Values by the name of their field.
            source: Where the options come from, for messages.

        Raises:
            ConfigError: When an option is unknown, or its value is of the wrong type.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        values = {
            name: value
            for name, value in options.items()
            if name not in names or not (value is None or _is_empty(value))
        }
        if values.get("cache") is False:  # what YAML makes of `off`
            values["cache"] = "off"
        for name in _PATHS & values.keys():
            if isinstance(values[name], (str, Path)):
                values[name] = {"*": values[name]}
        if isinstance(values.get("set"), Mapping):
            values["set"] = _nested(values["set"], source)
        return config.build(cls, values, source)

    def said(self) -> frozenset[str]:
        """Return the names of the options that are set."""
        return frozenset(
            f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None
        )

    def over(self, other: EvaluationSettings) -> EvaluationSettings:
        """Return these values, and those of ``other`` where nothing is said here.

        Mappings are joined, key by key.
        """
        changes: dict[str, Any] = {}
        for name in other.said():
            value, fallback = getattr(self, name), getattr(other, name)
            if value is None:
                changes[name] = fallback
            elif isinstance(value, Mapping):
                changes[name] = config.merge(fallback, value)
        return dataclasses.replace(self, **changes)

    def resolved(self, workspace: Workspace | None) -> EvaluationSettings:
        """Return these values over those of the workspace over the defaults."""
        full = self.over(from_workspace(workspace)).over(DEFAULTS)
        shots, heads = sorted(set(full.shots)), dict.fromkeys(full.heads)
        return dataclasses.replace(full, shots=tuple(shots), heads=tuple(heads))


DEFAULTS = EvaluationSettings(
    heads=(),
    tables={},
    features={},
    weights={},
    test_tables={},
    test_features={},
    splits={},
    region_names=(),
    match_ids="exact",
    protocol="",
    shots=(1, 2, 4, 8, 16, 32),
    draws=10,
    folds=5,
    repeats=1,
    group_by_site=False,
    preserve_sites=False,
    select=False,
    seed=0,
    controls=True,
    allow_missing=False,
    allow_leaky_splits=False,
    trust_remote_code=False,
    device="auto",
    cache="digests",
    as_is=False,
    pretrained_on=(),
    keep_heads="folds",
    set={},
)
"""What holds where nobody says otherwise; options that are not here may stay None."""

_PATHS = frozenset({"tables", "features", "weights", "test_tables", "test_features", "splits"})


_OF_COHORTS = "Say it under 'cohorts'"
_OF_COMMANDS = "Give it with the command, or in a sweep (`spade-bench run --config FILE`)"
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("tables", "features", *COLUMN_FIELDS), _OF_COHORTS),
    "weights": "Say it under 'encoders'",
    **dict.fromkeys(("device", "out"), "Say it at the top of the file"),
    **dict.fromkeys(("encoders", "tasks", "test_tables", "test_features"), _OF_COMMANDS),
    **dict.fromkeys(("splits", "bench_root", "positive", "pretrained_on"), _OF_COMMANDS),
    # Consent is given where something runs, not once for all.
    **dict.fromkeys(("allow_leaky_splits", "as_is", "trust_remote_code"), _OF_COMMANDS),
}
"""Settings that do not stand under `run` in a workspace file, and where they stand instead."""


def from_workspace(workspace: Workspace | None) -> EvaluationSettings:
    """Return the settings that stand in a workspace file for every run.

    Under `run` stands what a sweep says, except what the file says elsewhere: which encoders,
    tasks, tables, features and weights there are, the columns of tables, device and folder.

    Raises:
        ConfigError: When a setting is unknown, has its place elsewhere, or its value is wrong.
    """
    if workspace is None:
        return EvaluationSettings()
    where = f"{workspace.path}: run"
    for name in workspace.run:
        if name in ELSEWHERE:
            raise ConfigError(f"'{name}' is no setting of every run", where=where,
                              fix=ELSEWHERE[name])  # fmt: skip
    regions = workspace.run.get("regions")
    options = {
        **workspace.run,
        **({"regions": workspace.resolve(Path(regions))} if isinstance(regions, str) else {}),
        **{"device": workspace.device, "out": workspace.resolve(workspace.out)},
    }
    return EvaluationSettings.of(options, where)


def read_settings(path: Path) -> EvaluationSettings:
    """Read settings from YAML; relative paths are relative to the file.

    Args:
        path: The file, or the name of one that ships in `configs/reproduce`.

    Raises:
        ConfigError: When the file is missing, or holds unknown keys or wrong values.
    """
    settings = EvaluationSettings.of(config.named_config("reproduce", str(path)), str(path))
    near = path.parent
    changes: dict[str, Any] = {
        name: {key: near / value for key, value in getattr(settings, name).items()}
        for name in _PATHS & settings.said()
    }
    for name in ("regions", "bench_root", "out"):
        if getattr(settings, name) is not None:
            changes[name] = near / getattr(settings, name)
    return dataclasses.replace(settings, **changes)


def path_of(paths: Mapping[str, Path], *names: str) -> Path | None:
    """Return the path of the first name that has one, else that of every name, `*`."""
    return next((paths[name] for name in (*names, "*") if name in paths), None)


def _is_empty(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping)) and not value


def _nested(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Write dotted keys out; what stands at the top is a head or encoder with its settings."""
    out = config.nested({str(key).strip(): value for key, value in settings.items()})
    for name, values in out.items():
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"'set.{name}' must hold keys and values",
                where=source,
                fix=f"Name the setting, such as {name}.NAME={values}",
            )
    return out
