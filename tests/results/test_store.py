"""results.jsonl: append, resume, crash, two writers."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from spade_bench.results import ResultStore, Row
from spade_bench.results import store as storing

ROW = Row("a" * 16, "ok", "uni", "t", "logistic", "few-shot", 1, 0, metrics={"auroc": 0.5})

CONTRACT = {
    *("schema", "run_id", "status", "encoder", "task", "head", "protocol", "k_shot", "draw"),
    *("fold", "seed", "metrics", "n", "inputs", "flags", "env", "seconds", "created_utc", "error"),
    *("predictions_sha256", "control", "control_of", "identity", "row_sha256"),
}


def test_fields_are_the_contract_and_survive_a_round_trip(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "out")
    row = replace(ROW, flags=("control:base", "simulated"), n={"train": 2, "test": 9})
    row = replace(row, control="base", control_of="spade", identity="0" * 16)
    store.append([row])
    content = json.loads(store.path.read_text())
    assert set(content) == CONTRACT
    assert content["flags"] == ["control:base", "simulated"]
    assert store.rows() == [row]


# A line as it was written before rows had control, control_of and identity.
OLDER = (
    '{"schema": "spade-bench/results/1", "run_id": "f965239d41c2da47", "status": "ok", '
    '"encoder": "a-k1", "task": "my_task", "head": "logistic", "protocol": "few-shot", '
    '"k_shot": 1, "draw": 0, "fold": null, "seed": 0, "metrics": {"auroc": 0.58, '
    '"balanced_accuracy": 0.55}, "n": {"train": 2, "test": 20, "events": null, "pool": 10}, '
    '"inputs": {"cohort": "0b263386f01cf37f", "task": "5aa0b3ea104bc875", '
    '"features": "72f4d4b7a8ae6a19", "encoder": "9110779d2105dd8f", '
    '"head": "85b0b8f104993146", "episode": "96e7fd05b67984d6"}, '
    '"flags": ["control:k1", "unregistered", "contamination:unknown"], '
    '"env": {"spade_bench": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "torch": "2.14.1", '
    '"system": "Linux x86_64", "device": "cpu", "cohort": "40 cases of table", '
    '"head": "logistic defaults"}, "seconds": 0.0091, "created_utc": "2026-11-26T09:35:27Z", '
    '"error": null, '
    '"predictions_sha256": "f5ebe16d8548ea98913a5061b2eee16996b92d38839238f305ffa2447d2521d0", '
    '"row_sha256": "c3d18ac756b5e9ed58c7c3b1acb590d44961134f77be48358eea5c4927f82806"}\n'
)


def test_a_row_of_an_older_version_is_read_and_its_checksum_holds(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.path.write_text(OLDER)
    (row,) = store.rows()
    assert store.problems == []
    assert (row.control, row.control_of, row.identity) == ("k1", "a", "")
    store.path.write_text(OLDER.replace('"control:k1"', '"control:k2"'))
    assert store.rows() == []
    assert "edited" in store.problems[0]


@pytest.mark.parametrize(
    ("encoder", "control", "control_of"),
    [
        ("spade", "", ""),
        ("spade", "permuted-labels", "spade"),
        ("spade-k1", "k1", "spade"),
        ("my-k1-k1", "k1", "my-k1"),
        ("spade-random-routing", "random-routing", "spade"),
        ("uni", "base", ""),
        ("uni@spade", "base", "spade"),
        ("uni@spade+pca512", "pca", "spade"),
        ("uni+pca512", "pca", "uni"),
        ("uni+random256", "random-projection", "uni"),
        ("my-k1", "", ""),
    ],
)
def test_the_control_of_an_older_row_stands_in_its_flag_and_label(
    encoder: str, control: str, control_of: str, tmp_path: Path
) -> None:
    flags = ("simulated", f"control:{control}") if control else ("simulated",)
    content = json.loads(replace(ROW, encoder=encoder, flags=flags).to_line())
    for name in ("control", "control_of", "identity", "row_sha256"):
        del content[name]
    store = ResultStore(tmp_path)
    store.path.write_text(json.dumps(content) + "\n")
    (row,) = store.rows()
    assert (row.control, row.control_of) == (control, control_of)


def test_undefined_metric_becomes_null(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append([replace(ROW, metrics={"auroc": float("nan")})])
    assert json.loads(store.path.read_text())["metrics"] == {"auroc": None}


def test_finished_stands_against_failed_in_any_order(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    bad = replace(ROW, status="failed", error="no")
    other = replace(ROW, run_id="b" * 16, status="failed", error="no")
    store.append([bad, ROW])
    store.append([bad, other])
    assert store.rows() == [ROW, other]
    assert [row.run_id for row in store.rows() if row.status == "ok"] == [ROW.run_id]


def test_a_line_whose_rest_arrives_while_it_is_read_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultStore(tmp_path)
    second, third = (replace(ROW, run_id=of * 16) for of in "bc")
    store.append([ROW, second, third])
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[: whole.index(b"\n") + 40])
    monkeypatch.setattr(storing, "warn", lambda _: store.path.write_bytes(whole))
    assert store.rows() == [ROW]
    assert store.problems == []
    assert store.appended() == [second, third]


@pytest.mark.parametrize("known", ["less", "more"])
def test_rows_of_others_are_seen_whatever_a_client_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    """Clients of shared file systems may know an old length, or the new one before the content."""
    second = replace(ROW, run_id="b" * 16)
    store, other = ResultStore(tmp_path), ResultStore(tmp_path)
    store.append([ROW])
    assert len(store.rows()) == 1
    old, real = store.path.stat(), os.fstat
    other.append([second])
    looks: list[int] = []

    def told(handle: int) -> os.stat_result:
        looks.append(handle)
        if known == "more" and len(looks) < 4:
            return os.stat_result([*real(handle)[:6], 10**6, *real(handle)[7:]])
        return real(handle)

    monkeypatch.setattr(os, "fstat", told)
    if known == "less":
        monkeypatch.setattr(Path, "stat", lambda *_, **__: old)
    assert [row.run_id for row in store.appended()] == [second.run_id]
    assert len(looks) >= (4 if known == "more" else 1)


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_torn_last_line_is_mended(tmp_path: Path, cut: int, capsys) -> None:
    store = ResultStore(tmp_path)
    second = replace(ROW, run_id="b" * 16)
    store.append([ROW, second])
    store.path.write_bytes(store.path.read_bytes()[:-cut])
    assert store.rows() == [ROW]
    store.append([second])
    assert store.rows() == [ROW, second]
    assert "incomplete last line" in capsys.readouterr().err
    assert len(store.path.read_text().splitlines()) == 2


def test_only_line_torn(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.path.write_text('{"schema": "spade')
    store.append([ROW])
    assert store.rows() == [ROW]


def test_damage_in_the_middle_is_named_and_the_rest_stands(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.path.write_text("rubbish\n" + ROW.to_line() + '{"schema": "other/9"}\n')
    assert store.rows() == [ROW]
    first, second = store.problems
    assert "line 1" in first
    assert "line 3" in second
    assert "other/9" in second


def _write(out: Path, start: int) -> None:
    store = ResultStore(out)
    for i in range(start, start + 50):
        store.append([replace(ROW, run_id=f"{i:016d}", error="x" * 5000)])


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path, 100 * i)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(ResultStore(tmp_path).rows()) == 100


ODD_VALUES: dict[str, list[object]] = {
    "run_id": [None, 3, [], True],
    "status": [None, "x", [], {}],
    "encoder": [None, 3, ["uni"]],
    "task": [None, {}],
    "head": [1.5, {"a": 1}],
    "protocol": [True, []],
    "k_shot": ["1", [1], 1.5, True],
    "draw": ["0", {}],
    "fold": ["0", [0], 1 << 63],
    "seed": [None, "0", [0]],
    "metrics": [
        None,
        3,
        [1],
        {"auroc": "0.5"},
        {"auroc": True},
        {"auroc": [1]},
        {"auroc": float("nan")},
        {"auroc": float("-inf")},
        {"auroc": 10**400},
    ],
    "n": [None, "x", [1], {"test": "20"}, {"pool": 0.5}, {"train": 10**400}],
    "inputs": [
        {"permutation": 10**30},
        {"permutation": "1"},
        {"permutation": None},
        {"cohort": [1]},
        "x",
        None,
        [1],
    ],
    "flags": [None, 3, "x", [1], [None]],
    "env": [None, "x", [], {"cohort": 5}],
    "seconds": ["1", float("nan"), float("inf"), 10**400],
    "created_utc": [None, 5],
    "error": [5, []],
    "predictions_sha256": [None, []],
    "control": [None, 1],
    "control_of": [None, [], "\ud800"],
    "identity": [None, {}],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in ODD_VALUES for value in ODD_VALUES[field]]
)
def test_a_field_that_cannot_be_is_named_and_the_rest_stands(
    tmp_path: Path, field: str, value: object
) -> None:
    store = ResultStore(tmp_path)
    store.append([ROW])
    content = {**json.loads(store.path.read_text()), "run_id": "c" * 16, field: value}
    del content["row_sha256"]  # a row of an older version, or of a stranger
    with store.path.open("a") as file:
        file.write(json.dumps(content) + "\n")
    assert store.rows() == [ROW]
    (problem,) = store.problems
    assert f"line 2: {field} is not" in problem


@pytest.mark.parametrize("line", ["[" * 100_000, "1" * 5000, '{"a":' * 100_000], ids=len)
def test_a_line_beyond_what_python_reads_is_named(tmp_path: Path, line: str) -> None:
    store = ResultStore(tmp_path)
    store.append([ROW])
    with store.path.open("a") as file:
        file.write(line + "\n")
    assert store.rows() == [ROW]
    (problem,) = store.problems
    assert "line 2: not valid JSON" in problem
