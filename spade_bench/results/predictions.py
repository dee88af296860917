"""Case-level predictions: one csv per run id, from which every number can be rebuilt.

Classification: ``case_id, label`` and a column ``score:CLASS`` a class. Regression: ``case_id,
value, predicted``. Survival: ``case_id, part, event, duration_days, risk`` where the part is test
or train; metrics that correct for censoring need the training cases, which are never part of a
score. Where the cases are slides, a last column ``patient_id`` says whose they are, blank for
training cases.

Genes in the spots of sections have a file of their own kind; see
`spade_bench.results.spotpredictions`.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spade_bench.errors import DataError
from spade_bench.files import atomic_path, file_name
from spade_bench.results.spotpredictions import SpotPredictions, spot_bytes, spots_from

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Predictions", "predictions_path", "read_predictions", "write_predictions"]

_SURVIVAL = ["case_id", "part", "event", "duration_days", "risk"]
_REGRESSION = ["case_id", "value", "predicted"]
_PATIENT = "patient_id"


@dataclass(frozen=True)
class Predictions:
    """What a head said about the test cases of one episode.

    Attributes:
        case_ids: Test cases.
        classes: Class names, in the order of the columns of ``scores``; empty for survival
            and regression.
        target: True class index of each case, (m,) int; for regression its value, (m,) float; for
            survival (m, 2) float with the event (1 or 0) and the days.
        scores: Class probabilities, (m, C); for regression the predicted value, (m, 1); for
            survival the risk, (m, 1), higher is worse.
        train_ids: Training cases, for survival only.
        train_target: Their events and days, (t, 2), or None.
        train_scores: Their risks, (t, 1), or None.
        patients: Patient of each test case where cases are slides, else empty.
        spots: Expression of the spots of the test sections, which are then the cases; else None.
    """

    case_ids: tuple[str, ...]
    classes: tuple[str, ...]
    target: NDArray[Any]
    scores: NDArray[np.float64]
    train_ids: tuple[str, ...] = ()
    train_target: NDArray[np.float64] | None = None
    train_scores: NDArray[np.float64] | None = None
    patients: tuple[str, ...] = ()
    spots: SpotPredictions | None = None

    @classmethod
    def of_spots(cls, spots: SpotPredictions) -> Predictions:
        """Wrap predictions of genes in spots: the cases are the sections."""
        import numpy as np

        none = np.empty((len(spots.sections), 0))
        return cls(spots.sections, (), none, none, patients=spots.patients, spots=spots)

    @property
    def survival(self) -> bool:
        """Whether these are risks."""
        return self.kind == "survival"

    @property
    def kind(self) -> Literal["classification", "expression", "regression", "survival"]:
        """What is predicted, in the words by which heads say which kinds of task they serve."""
        if self.spots is not None:
            return "expression"
        if self.classes:
            return "classification"
        return "survival" if self.target.ndim == 2 else "regression"


def predictions_path(out: Path, run_id: str, suffix: str = "csv") -> Path:
    """Where the predictions of a run id lie: csv of cases, npz of spots."""
    name = file_name(run_id)  # a hash, unless the results come from a stranger
    return out / "predictions" / name[:2] / f"{name}.{suffix}"


def write_predictions(out: Path, run_id: str, predictions: Predictions) -> str:
    """Write predictions so that metrics rebuilt from the file are the stored ones, to the bit.

    Returns:
        SHA-256 of the file, which the row carries.
    """
    if predictions.spots is not None:
        return _store(predictions_path(out, run_id, "npz"), spot_bytes(predictions.spots))
    lines = _LINES[predictions.kind](predictions)
    if predictions.patients:
        n = len(predictions.case_ids)
        column = [_PATIENT, *predictions.patients, *[""] * (len(lines) - 1 - n)]
        lines = [[*line, patient] for line, patient in zip(lines, column, strict=True)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return _store(predictions_path(out, run_id), text.getvalue().encode())


def _store(path: Path, content: bytes) -> str:
    # Not durable: the row's checksum tells whether the file is whole, and the cell runs again.
    with atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_predictions(out: Path, run_id: str, *, sha256: str = "") -> Predictions:
    """Read the predictions of a run id.

    Args:
        out: Folder of the results.
        run_id: Whose.
        sha256: What the row says of the file; empty where an older row says nothing.

    Raises:
        DataError: When they are missing, damaged or not those of the row.
    """
    path, of_spots = predictions_path(out, run_id), predictions_path(out, run_id, "npz")
    if not path.exists() and of_spots.exists():
        path = of_spots
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("no predictions for a finished row", where=str(path)) from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            "predictions were damaged or edited: their checksum is not the row's", where=str(path)
        )
    if path == of_spots:
        return Predictions.of_spots(spots_from(content, str(path)))
    try:
        header, *lines = list(csv.reader(io.StringIO(content.decode(), newline=""))) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"damaged predictions ({error})", where=str(path)) from error
    patients: tuple[str, ...] = ()
    if header[-1:] == [_PATIENT] and all(len(line) == len(header) for line in lines):
        patients = tuple(line[-1] for line in lines)
        header, lines = header[:-1], [line[:-1] for line in lines]
    of_classes = header[:2] == ["case_id", "label"] and len(header) > 2
    if not lines or not (of_classes or header in (_SURVIVAL, _REGRESSION)):
        raise DataError("not a file of predictions", where=str(path))
    try:
        if of_classes:
            predictions = _read_classes(header, lines)
        else:
            read = _read_survival if header == _SURVIVAL else _read_values
            predictions = read(lines)
        return replace(predictions, patients=patients[: len(predictions.case_ids)])
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"damaged predictions ({error})", where=str(path)) from error


def _class_lines(predictions: Predictions) -> list[list[str]]:
    lines = [["case_id", "label", *(f"score:{name}" for name in predictions.classes)]]
    for case, target, scores in zip(
        predictions.case_ids, predictions.target, predictions.scores, strict=True
    ):
        # repr keeps every bit.
        lines.append([case, predictions.classes[target], *map(repr, scores.tolist())])
    return lines


def _read_classes(header: list[str], lines: list[list[str]]) -> Predictions:
    import numpy as np

    classes = tuple(name.removeprefix("score:") for name in header[2:])
    index = {name: i for i, name in enumerate(classes)}
    target = np.array([index[line[1]] for line in lines], dtype=np.int64)
    scores = np.array([[float(cell) for cell in line[2:]] for line in lines])
    return Predictions(tuple(line[0] for line in lines), classes, target, scores)


def _value_lines(predictions: Predictions) -> list[list[str]]:
    rows = zip(predictions.case_ids, predictions.target, predictions.scores, strict=True)
    return [
        list(_REGRESSION),
        *([case, repr(float(value)), repr(float(said[0]))] for case, value, said in rows),
    ]


def _read_values(lines: list[list[str]]) -> Predictions:
    import numpy as np

    numbers = np.array([[float(cell) for cell in line[1:]] for line in lines])  # (m, 2)
    if numbers.shape[1:] != (2,):
        raise ValueError("a line has not three columns")
    return Predictions(tuple(line[0] for line in lines), (), numbers[:, 0], numbers[:, 1:])


def _survival_lines(predictions: Predictions) -> list[list[str]]:
    lines = [list(_SURVIVAL)]
    parts = [("test", predictions.case_ids, predictions.target, predictions.scores)]
    if predictions.train_target is not None and predictions.train_scores is not None:
        train = predictions.train_ids, predictions.train_target, predictions.train_scores
        parts.append(("train", *train))
    for part, ids, target, scores in parts:
        for case, (event, days), risk in zip(ids, target, scores, strict=True):
            lines.append([case, part, str(int(event)), repr(float(days)), repr(float(risk[0]))])
    return lines


def _read_survival(lines: list[list[str]]) -> Predictions:
    import numpy as np

    parts: dict[str, tuple[tuple[str, ...], Any, Any]] = {}
    for part in ("test", "train"):
        of_part = [line for line in lines if line[1] == part]
        target = np.array([[float(line[2]), float(line[3])] for line in of_part]).reshape(-1, 2)
        scores = np.array([[float(line[4])] for line in of_part]).reshape(-1, 1)
        parts[part] = tuple(line[0] for line in of_part), target, scores
    if len(parts["test"][0]) + len(parts["train"][0]) != len(lines) or not parts["test"][0]:
        raise ValueError("a part is neither test nor train")
    ids, target, scores = parts["train"]
    return Predictions(
        parts["test"][0],
        (),
        *parts["test"][1:],
        train_ids=ids,
        train_target=target if ids else None,
        train_scores=scores if ids else None,
    )


_LINES: Mapping[str, Callable[[Predictions], list[list[str]]]] = {
    "classification": _class_lines,
    "regression": _value_lines,
    "survival": _survival_lines,
}
