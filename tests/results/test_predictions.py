"""Predictions on disk: every bit, few files, several writers, kills, folders of older versions."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spade_bench.errors import DataError
from spade_bench.results import (
    Predictions,
    ResultStore,
    Row,
    StoredPredictions,
    read_predictions,
    write_predictions,
)
from spade_bench.results.predictionstore import predictions_path
from spade_bench.results.predictiontables import predictions_sha256
from spade_bench.results.spotpredictions import spots_from
from spade_bench.results.store import Finished, whole_predictions
from tests.helpers.older_predictions import make_older, write_csv_predictions

ROW = Row("a" * 16, "ok", "uni", "t", "logistic", "few-shot", 1, 0, metrics={"auroc": 0.5})
PLACE = (ROW.encoder, ROW.task, ROW.head)


def _classes(seed: int = 0, patients: bool = False) -> Predictions:
    rng = np.random.default_rng(seed)
    classes = ("a", 'with "quote", comma', "ß\n")
    ids = tuple(f"c{i}, é" for i in range(7))
    target = np.array([0, 1, 2, 0, 1, 2, 0])
    owners = ("p, with comma", *["q"] * 6) if patients else ()
    return Predictions(ids, classes, target, rng.dirichlet(np.ones(3), 7), patients=owners)


def _survival(seed: int = 0, patients: bool = False, train: bool = True) -> Predictions:
    rng = np.random.default_rng(seed)
    target = np.stack([np.arange(9) % 2, rng.exponential(900, 9)], axis=1).astype(float)
    risk, owners = rng.normal(size=(9, 1)), ("p", "p", "q", "r", "s") if patients else ()
    told = Predictions(tuple("abcde"), (), target[:5], risk[:5], patients=owners)
    if not train:
        return told
    more = {"train_ids": tuple("wxyz"), "train_target": target[5:], "train_scores": risk[5:]}
    return replace(told, **more)


def _values(seed: int = 0, patients: bool = False) -> Predictions:
    rng = np.random.default_rng(seed)
    owners = ("p", "p", "q", "r") if patients else ()
    ids, value = tuple("abcd"), rng.normal(size=4)
    return Predictions(ids, (), value, rng.normal(size=(4, 1)), patients=owners)


KINDS: dict[str, Callable[..., Predictions]] = {
    "classes": _classes,
    "survival": _survival,
    "survival without training cases": lambda *a: _survival(*a, train=False),
    "values": _values,
}


def same(one: Predictions, other: Predictions) -> bool:
    texts = ("case_ids", "classes", "train_ids", "patients", "kind")
    arrays = ("target", "scores", "train_target", "train_scores")
    return all(getattr(one, name) == getattr(other, name) for name in texts) and all(
        (getattr(one, name) is None and getattr(other, name) is None)
        or np.array_equal(getattr(one, name), getattr(other, name))
        for name in arrays
    )


@pytest.mark.parametrize("patients", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_keep_every_bit_in_either_layout(
    tmp_path: Path, kind: str, patients: bool
) -> None:
    cells = {f"{i:016d}": KINDS[kind](i, patients) for i in range(3)}
    digests = write_predictions(tmp_path, *PLACE, cells)
    for run_id, told in cells.items():
        back = read_predictions(tmp_path, run_id, sha256=digests[run_id])
        assert same(back, told)
        assert same(StoredPredictions(tmp_path).of(replace(ROW, run_id=run_id)), told)
        assert digests[run_id] == predictions_sha256(told) == predictions_sha256(back)
        file_digest = write_csv_predictions(tmp_path / "old", run_id, told)
        older = read_predictions(tmp_path / "old", run_id, sha256=file_digest)
        assert same(older, told)
        assert predictions_sha256(older) == digests[run_id]


@pytest.mark.parametrize(
    "change",
    [
        lambda told: replace(told, scores=np.nextafter(told.scores, 1)),
        lambda told: replace(told, case_ids=(*told.case_ids[:-1], "other")),
        lambda told: replace(told, target=(told.target + 1) % 3),
        lambda told: replace(told, classes=("b", *told.classes[1:])),
        lambda told: replace(told, patients=("p",) * 7),
    ],
    ids=["a bit of a score", "a case", "labels", "a class", "patients"],
)
def test_the_digest_of_a_cell_is_of_all_that_it_holds(
    change: Callable[[Predictions], Predictions],
) -> None:
    assert predictions_sha256(change(_classes())) != predictions_sha256(_classes())


def test_cells_of_a_place_are_one_file_that_others_read(tmp_path: Path) -> None:
    cells = {f"{i:016d}": _classes(i) for i in range(50)}
    write_predictions(tmp_path, *PLACE, cells)
    (part,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert part.parent == tmp_path / "predictions" / "t" / "uni"
    table = pd.read_parquet(part)
    assert list(table)[:3] == ["run_id", "case_id", "label"]
    assert table["run_id"].nunique() == 50
    one = table[table["run_id"] == f"{7:016d}"]
    np.testing.assert_array_equal(one.filter(like="score:").to_numpy(), _classes(7).scores)


def test_cells_that_are_unlike_lie_in_files_of_their_own(tmp_path: Path) -> None:
    cells = {"a" * 16: _classes(), "b" * 16: _classes(patients=True), "c" * 16: _survival()}
    write_predictions(tmp_path, *PLACE, cells)
    assert len(list((tmp_path / "predictions" / "t" / "uni").iterdir())) == 3
    stored = StoredPredictions(tmp_path)
    assert all(same(stored.of(replace(ROW, run_id=name)), told) for name, told in cells.items())


def test_the_row_says_which_of_two_versions_counts(tmp_path: Path) -> None:
    versions = [_classes(seed) for seed in range(4)]
    digests = [write_predictions(tmp_path, *PLACE, {ROW.run_id: told}) for told in versions]
    for told, digest in zip(versions, digests, strict=True):
        found = StoredPredictions(tmp_path).of(ROW, sha256=digest[ROW.run_id])
        assert same(found, told)
    with pytest.raises(DataError, match=r"not the row's\. Repeat the `spade-bench run`"):
        StoredPredictions(tmp_path).of(ROW, sha256="0" * 64)


def test_what_is_written_while_it_is_read_is_found(tmp_path: Path) -> None:
    stored = StoredPredictions(tmp_path)
    for i in range(3):
        row = replace(ROW, run_id=f"{i:016d}")
        with pytest.raises(DataError, match="no predictions"):
            stored.of(row)
        write_predictions(tmp_path, *PLACE, {row.run_id: _classes(i)})
        assert same(stored.of(row), _classes(i))


def test_heads_and_tasks_with_like_names_are_kept_apart(tmp_path: Path) -> None:
    names = [("a", "b"), ("a-b", "c"), ("a", "b-c"), ("../a", "b/c"), ("[ab]", "*"), ("ab", "ab")]
    for i, (task, head) in enumerate(names):
        write_predictions(tmp_path, "uni", task, head, {ROW.run_id: _classes(i)})
    for i, (task, head) in enumerate(names):
        row = replace(ROW, task=task, head=head)
        assert same(StoredPredictions(tmp_path).of(row), _classes(i))
    assert all(
        path.is_relative_to(tmp_path / "predictions") for path in tmp_path.rglob("*.parquet")
    )


def test_missing_or_damaged_predictions_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no predictions"):
        read_predictions(tmp_path, "e" * 16)
    path = predictions_path(tmp_path, "e" * 16)
    path.parent.mkdir(parents=True)
    path.write_text("case_id,label,score:a,score:b\nc1,z,0.5,0.5\n")
    with pytest.raises(DataError, match="damaged"):
        read_predictions(tmp_path, "e" * 16)


def test_a_table_that_is_not_of_predictions_is_named(tmp_path: Path) -> None:
    digest = write_predictions(tmp_path, *PLACE, {ROW.run_id: _classes()})
    (part,) = tmp_path.rglob("*.parquet")
    pd.DataFrame({"run_id": ["x"], "case_id": ["y"]}).to_parquet(part)
    name = hashlib.sha256(part.read_bytes()).hexdigest()[:16]
    part.rename(part.with_name(f"logistic-{name}.parquet"))
    with pytest.raises(DataError, match="not a file of predictions"):
        StoredPredictions(tmp_path).of(ROW, sha256=digest[ROW.run_id])


def _nulled(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{column: [None, *frame[column][1:]]})


DAMAGED: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no run id": ("classes", _nulled("run_id"), "run_id is empty in 1 of 14 rows"),
    "no case": ("values", _nulled("case_id"), "case_id is empty in 1 of 8 rows"),
    "no label": ("classes", _nulled("label"), "label is empty in 1 of 14 rows"),
    "no part": ("survival", _nulled("part"), "part is empty in 1 of 18 rows"),
    "no number": ("values", _nulled("predicted"), "predicted is empty in 1 of 8 rows"),
    "no case at all": ("values", lambda f: f.assign(case_id=None), "case_id holds "),
    "cases by number": ("values", lambda f: f.assign(case_id=range(8)), "case_id holds int64"),
    "lists": ("values", lambda f: f.assign(case_id=[["a"]] * 8), "case_id holds list"),
    "bytes": ("values", lambda f: f.assign(case_id=[b"a"] * 8), "case_id holds binary"),
    "texts": ("values", lambda f: f.assign(predicted="0.5"), "predicted holds .*string"),
    "truths": ("values", lambda f: f.assign(predicted=True), "predicted holds bool"),
    "days": ("values", lambda f: f.assign(value=pd.Timestamp(0)), "value holds timestamp"),
    "another column": ("classes", lambda f: f.assign(age=60.0), "not a file of predictions"),
    "alternating": (
        "values", lambda f: f.iloc[[0, 4, 1, 5, 2, 6, 3, 7]],
        f"the rows of cell {ROW.run_id} do not stand together",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_a_part_that_nobody_wrote_so_is_named_and_no_row_of_it_counts(
    tmp_path: Path, what: str
) -> None:
    kind, change, said = DAMAGED[what]
    write_predictions(tmp_path, *PLACE, {ROW.run_id: KINDS[kind](), "b" * 16: KINDS[kind](1)})
    (part,) = tmp_path.rglob("*.parquet")
    frame = pd.read_parquet(part)
    plain = dict.fromkeys(frame.select_dtypes("category"), object)
    change(frame.astype(plain)).to_parquet(part, index=False)
    name = hashlib.sha256(part.read_bytes()).hexdigest()[:16]
    part = part.rename(part.with_name(f"logistic-{name}.parquet"))
    with pytest.raises(DataError, match=said) as caught:
        StoredPredictions(tmp_path).of(ROW)
    assert str(caught.value).startswith(str(part))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case_id,label,score:a,score:b\nc1,a,0.5,0.5,0.1\n", "line 2 has 5"),
        ("case_id,label,score:a,score:a\nc1,a,0.9,0.1\n", "not a file of predictions"),
        ("case_id,label,age\nc1,age,0.9\n", "not a file of predictions"),
        ("case_id,part,event,duration_days,risk\nc1,test,1,30,0.5,9\n", "line 2 has 6"),
        ("case_id,value,predicted\nc1,1,2\nc2,1\n", "line 3 has 2"),
    ],
)
def test_an_older_file_that_nobody_wrote_so_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = predictions_path(tmp_path, "e" * 16)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_predictions(tmp_path, "e" * 16)


def _with(array: np.ndarray | None, at: int | tuple[int, int], value: float) -> np.ndarray:
    changed = np.array(array, dtype=float)
    changed[at] = value
    return changed


_SURVIVED = _survival()
IMPOSSIBLE: dict[str, tuple[Predictions, str]] = {
    "score": (replace(_values(), scores=_with(_values().scores, 0, np.nan)), "predictions are not"),
    "risk": (
        replace(_SURVIVED, train_scores=_with(_SURVIVED.train_scores, 0, np.inf)),
        "predictions are not finite",
    ),
    "value": (replace(_values(), target=_with(_values().target, 0, np.nan)), "targets are not"),
    "days": (
        replace(_SURVIVED, train_target=_with(_SURVIVED.train_target, (0, 1), np.nan)),
        "targets are not finite",
    ),
    "days before 0": (
        replace(_SURVIVED, target=_with(_SURVIVED.target, (0, 1), -1)), "days are negative"),
    "two events": (
        replace(_SURVIVED, target=_with(_SURVIVED.target, (0, 0), 2)), "events are not 0 or 1"),
    "percent": (replace(_classes(), scores=100 * _classes().scores), "within 0 and 1"),
    "below 0": (replace(_classes(), scores=_classes().scores - 1), "within 0 and 1"),
    "case twice": (replace(_values(), case_ids=tuple("abca")), "twice"),
    "nobody": (replace(_values(), case_ids=("a", "b", "c", "")), "no name"),
    "nobody's": (replace(_values(patients=True), patients=("p", "p", "q", "")), "no name"),
}  # fmt: skip


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_numbers_and_names_that_cannot_be_do_not_count(
    tmp_path: Path, what: str, older: bool
) -> None:
    told, said = IMPOSSIBLE[what]
    digests = write_predictions(tmp_path, *PLACE, {ROW.run_id: told})
    row = replace(ROW, predictions_sha256=digests[ROW.run_id])
    ResultStore(tmp_path).append([row])
    if older:
        make_older(tmp_path)
        (row,) = ResultStore(tmp_path).rows()
    with pytest.raises(DataError, match=said) as caught:
        whole_predictions(StoredPredictions(tmp_path), row)
    assert row.run_id in str(caught.value)
    assert row.run_id not in Finished(tmp_path, [row])  # it runs again


@pytest.mark.parametrize("metric", ["c_index", "pearson", "nonsense", ""])
def test_a_row_of_another_kind_than_its_predictions_is_named(tmp_path: Path, metric: str) -> None:
    digests = write_predictions(tmp_path, *PLACE, {ROW.run_id: _classes()})
    row = replace(ROW, metrics={"auroc": 0.5, metric: 0.5}, predictions_sha256=digests[ROW.run_id])
    said = f"does not score by {metric}.*{ROW.run_id}"
    with pytest.raises(DataError, match=said):
        whole_predictions(StoredPredictions(tmp_path), row)


def _spots() -> dict[str, np.ndarray]:
    return {
        "genes": np.array(["G1", "G2"]), "barcodes": np.array(["b1", "b2", "b3"]),
        "sections": np.array(["s"]), "patients": np.array(["p"]),
        "section": np.zeros(3, np.int32), "coords": np.zeros((3, 2)),
        "observed": np.ones((3, 2), np.float32), "predicted": np.ones((3, 2), np.float32),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("observed", np.full((3, 2), "1.0")),
        ("predicted", np.ones((3, 2), complex)),
        ("predicted", np.ones((3, 2), bool)),
        ("coords", np.full((3, 2), "0")),
        ("section", np.full(3, np.nan)),
        ("genes", np.array("G1")),
        ("barcodes", np.arange(3)),
    ],
)
def test_spots_that_hold_something_else_are_named(name: str, array: np.ndarray) -> None:
    def content(arrays: dict[str, np.ndarray]) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    assert spots_from(content(_spots()), "x.npz").barcodes == ("b1", "b2", "b3")
    with pytest.raises(DataError, match=f"x.npz: damaged predictions .{name} holds"):
        spots_from(content({**_spots(), name: array}), "x.npz")


def _store(out: Path, start: int, count: int = 40) -> None:
    store = ResultStore(out)
    for i in range(start, start + count):
        cells = {f"{i:08d}{j:08d}": _classes(i + j) for j in range(5)}
        digests = write_predictions(out, *PLACE, cells)
        store.append(
            replace(ROW, run_id=name, n={"test": 7}, predictions_sha256=digests[name])
            for name in cells
        )


def _whole_cells(out: Path) -> int:
    """Number of finished rows, all of which must have their predictions."""
    rows = ResultStore(out).rows()
    finished = Finished(out, rows)
    assert all(row.run_id in finished for row in rows)
    return len(rows)


def test_several_processes_write_side_by_side_and_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    starts = (0, 0, 1000)  # two of them compute the same cells
    workers = [context.Process(target=_store, args=(tmp_path, start, 10)) for start in starts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert _whole_cells(tmp_path) == 100
    assert len(list(tmp_path.rglob("*.parquet"))) == 20  # equal cells are the same file


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_killed_writer_loses_only_what_it_had_not_written(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_store, args=(tmp_path, 0, 100_000))
    worker.start()
    results = tmp_path / "results.jsonl"
    while not results.exists() or results.stat().st_size < 20_000:
        assert worker.is_alive()
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    before = _whole_cells(tmp_path)
    assert before >= 5
    _store(tmp_path, 0, 3)  # goes on beside what the dead one left, and cleans up after it
    assert _whole_cells(tmp_path) >= before
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_folder_of_an_older_version_is_read_and_goes_on(tmp_path: Path) -> None:
    _store(tmp_path, 0, 2)
    parts = {
        row.run_id: read_predictions(tmp_path, row.run_id) for row in ResultStore(tmp_path).rows()
    }
    make_older(tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))
    assert len(list(tmp_path.rglob("*.csv"))) == _whole_cells(tmp_path) == 10
    _store(tmp_path, 5, 1)
    assert _whole_cells(tmp_path) == 15
    stored = StoredPredictions(tmp_path)
    for row in ResultStore(tmp_path).rows()[:10]:
        assert same(stored.of(row, sha256=row.predictions_sha256), parts[row.run_id])
