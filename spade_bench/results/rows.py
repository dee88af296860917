"""One line of ``results.jsonl``: encoder x task x head x episode."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, cast

from spade_bench.errors import DataError
from spade_bench.files import parse_json

__all__ = ["GENE_SIDE", "NEEDS_GENE_SIDE", "NO_GENE_SIDE", "SCHEMA", "EditedRowError", "Row",
           "environment", "now"]  # fmt: skip

SCHEMA = "spade-bench/results/1"
GENE_SIDE = "gene_side"
"""Key of `env` that says of an encoder that it has no gene side, of a head that it needs one."""
NO_GENE_SIDE, NEEDS_GENE_SIDE = "none", "needed"
_DIGEST = "row_sha256"
_FLAG = "control:"
_ALIKE = ("status", "encoder", "task", "head", "protocol", "control", "control_of", "identity",
          "created_utc", "schema")  # fmt: skip
_MOST_ENVIRONMENTS = 1000
_MOST = 1 << 63  # of a whole number
_environments: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
_ENDING = re.compile(r"(-k1|-random-routing|\+pca\d+|\+random\d+)$")


class EditedRowError(DataError):
    """A stored row was changed after it was written.

    Args:
        run_id: Run id that the row carries now.
        where: File and line.
    """

    def __init__(self, run_id: str, where: str) -> None:
        self.run_id = run_id
        super().__init__("edited after it was written: its checksum does not fit", where=where)


@dataclass(frozen=True)
class Row:
    """A finished, failed or skipped cell.

    Its line in the file also carries ``row_sha256``, the SHA-256 of the canonical JSON of all other
    fields; lines of older versions have none.

    Attributes:
        run_id: Hash of what determines the numbers; paths and machine are no part of it.
        status: `ok`, `failed` or `skipped`.
        encoder: Label of the encoder.
        task: Name of the task.
        head: Name of the head.
        protocol: `few-shot`, `cv` or `external`.
        k_shot: Training cases per class, for few-shot.
        draw: Repetition: of few-shot draws, of dealing folds, of fitting an external model.
        fold: Fold, for cross-validation; None for the ensemble of the fold models.
        seed: Seed of the episodes.
        metrics: Metric name -> value; an undefined value is null.
        n: Number of train and test cases; for survival also of events among the test cases;
            for few-shot `pool`, the cases of the smallest class that draws are taken from.
        inputs: Hashes of what went in; `permutation` is the number of the shuffle where labels
            were shuffled, left out for the first.
        flags: Controls, contamination, simulated data, missing slides.
        env: Versions, device and, with selection, what was selected; cases, splits and settings in
            words, by which tables name what the hashes tell apart. Nothing is computed from it.
        seconds: Time of fitting and predicting.
        created_utc: ISO 8601 time.
        error: Why it failed or was skipped.
        predictions_sha256: SHA-256 of its predictions, of their file where it has its own; empty in
            rows of older versions
            and in those that have none.
        control: Name of the control that it is, such as `k1`; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands; empty for an encoder, and
            for a control of all of them.
        identity: Digest of what made the features of their files; empty where they are used as
            they are, and in rows of older versions.
        schema: Version of this layout.
    """

    run_id: str
    status: Literal["ok", "failed", "skipped"]
    encoder: str
    task: str
    head: str
    protocol: str
    k_shot: int | None = None
    draw: int | None = None
    fold: int | None = None
    seed: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    n: Mapping[str, int | None] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    created_utc: str = ""
    error: str | None = None
    predictions_sha256: str = ""
    control: str = ""
    control_of: str = ""
    identity: str = ""
    schema: str = SCHEMA

    @property
    def permutation(self) -> int:
        """Which shuffle of the training labels this is, from 0, where they were shuffled."""
        number: int = self.inputs.get("permutation", 0)
        return number

    @property
    def cell(self) -> tuple[object, ...]:
        """What of it the run id stands for, in words and numbers."""
        return (self.encoder, self.task, self.head, self.protocol, self.k_shot, self.draw,
                self.fold, self.seed)  # fmt: skip

    def to_line(self) -> str:
        """Return the row as one line of JSON with its checksum, newline included."""
        content = dataclasses.asdict(self)
        content["metrics"] = {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in self.metrics.items()
        }
        line = {"schema": content.pop("schema"), **content}
        return json.dumps({**line, _DIGEST: _digest(line)}, allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str, where: str) -> Row:
        """Read a line that :meth:`to_line` wrote.

        Raises:
            DataError: When it is not a row of a schema this version knows.
            EditedRowError: When it does not have the checksum that was written with it.
        """
        content = parse_json(line, where)
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise DataError(f"schema is {schema!r}, this version reads {SCHEMA!r}", where=where)
        digest = content.pop(_DIGEST, None)
        if digest is not None and digest != _digest(content):
            raise EditedRowError(str(content.get("run_id")), where)
        known = cls.__dataclass_fields__
        values = {key: value for key, value in content.items() if key in known}
        for name, (fits, kind) in _KINDS.items():
            if name in values and not fits(values[name]):
                raise DataError(f"{name} is not {kind}", where=where)
        values["flags"] = tuple(values.get("flags", ()))
        _share(values)
        if not values.get("control"):
            values |= _control_of_older_row(str(values.get("encoder", "")), values["flags"])
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(f"incomplete row ({error})", where=where) from error


def _share(values: dict[str, Any]) -> None:
    """Keep once what many rows say: 100,000 of them are then a quarter of the size."""
    for name in _ALIKE:
        if name in values:
            values[name] = sys.intern(values[name])
    if "inputs" in values:
        values["inputs"] = _interned(values["inputs"])
    env = values.get("env")
    if env:
        if len(_environments) > _MOST_ENVIRONMENTS:
            _environments.clear()
        key = tuple(env.items())
        values["env"] = _environments.get(key) or _environments.setdefault(key, _interned(env))


def _interned(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        sys.intern(key): sys.intern(value) if isinstance(value, str) else value
        for key, value in values.items()
    }


def _text(value: object) -> bool:
    return isinstance(value, str)


def _name(value: object) -> bool:
    """Whether a value is text that can be written: JSON can spell halves of characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    """Whether a value is a whole number with which numpy can calculate."""
    return _integer(value) and -_MOST < cast("int", value) < _MOST


def _whole_or_null(value: object) -> bool:
    return value is None or _whole(value)


def _number_or_null(value: object) -> bool:
    """Whether a value is a number or null; Python reads NaN and Infinity, which no JSON has."""
    return value is None or (isinstance(value, float) and math.isfinite(value)) or _whole(value)


def _of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    """Whether a value is a mapping to values that fit."""
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _inputs(value: object) -> bool:
    return _of(lambda one: isinstance(one, str) or _integer(one))(value) and _whole(
        cast("Mapping[str, object]", value).get("permutation", 0)
    )


def _flags(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


# A row may come from a stranger or an older version, so what it holds is looked at once, here.
_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "status": (lambda value: value in ("ok", "failed", "skipped"), "ok, failed or skipped"),
    **dict.fromkeys(
        (
            *("run_id", "encoder", "task", "head", "protocol", "created_utc"),
            *("predictions_sha256", "control", "control_of", "identity"),
        ),
        (_name, "text"),
    ),
    **dict.fromkeys(("k_shot", "draw", "fold"), (_whole_or_null, "a whole number or null")),
    "seed": (_integer, "a whole number"),
    "metrics": (_of(_number_or_null), "names and numbers"),
    "n": (_of(_whole_or_null), "names and whole numbers"),
    "inputs": (_inputs, "names and hashes, and a whole number for permutation"),
    "flags": (_flags, "a list of texts"),
    "env": (_of(_text), "names and texts"),
    "seconds": (_number_or_null, "a number"),
    "error": (lambda value: value is None or _text(value), "text or null"),
}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _control_of_older_row(label: str, flags: Sequence[str]) -> dict[str, str]:
    """Return `control` and `control_of` of a row that was stored before it had these fields.

    Its control stood in a flag, and labels of controls were those of their encoder with an ending,
    or `BASE@ENCODER` for one of a base that had to be told from others of its name.
    """
    control = next((f.removeprefix(_FLAG) for f in flags if f.startswith(_FLAG)), "")
    if not control:
        return {}
    owner = _ENDING.sub("", label).rpartition("@")[2]
    plain_base = control == "base" and owner == label  # says nothing of whose base it is
    return {"control": control, "control_of": "" if plain_base else owner}


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a line without its own checksum."""
    return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()


def now() -> str:
    """Return the current time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def environment(device: str) -> dict[str, str]:
    """Describe versions and machine; nothing here enters a ``run_id``."""
    from importlib.metadata import version

    from spade_bench.version import __version__

    return {
        "spade_bench": __version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "torch": version("torch"),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
    }
