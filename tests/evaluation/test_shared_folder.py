"""Several runs on one folder share the work: every cell once, and what a killed one held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from shared_runs import FLAGS, assert_same, settings_of, written

from spade_bench import evaluation, leases
from spade_bench.evaluation.runcontext import LEASES, Context
from spade_bench.results import Finished, ResultStore, Row


def start(study: Any, out: Path, *more: str) -> subprocess.Popen[str]:
    paths = ["--table", str(study.table), "--features", str(study.features), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "spade_bench.cli.main", "run", *FLAGS, *paths, *more],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def plain(study: Any, out: Path) -> ResultStore:
    """The same, by one process."""
    evaluation.run_settings(settings_of(study, out))
    return ResultStore(out)


def test_rows_and_heads_are_asked_for_anew_before_work_begins(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(leases, "ask_anew", asked.append)
    plain(study, tmp_path / "out")
    assert {path.name for path in asked} == {"results.jsonl", "heads"}
    assert {path.parent for path in asked} == {tmp_path / "out"}


@pytest.mark.slow
def test_four_equal_runs_compute_each_cell_once(study: Any, tmp_path: Path) -> None:
    expected = plain(study, tmp_path / "one").rows()
    runs = [start(study, tmp_path / "four") for _ in range(4)]
    said = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, said
    counts = written(tmp_path / "four")
    assert set(counts) == {row.run_id for row in expected}
    assert set(counts.values()) == {1}
    assert_same(tmp_path / "one", tmp_path / "four")
    assert not (tmp_path / "four" / LEASES).exists()
    done = [int(text.split(" cells done")[0].split()[-1]) for text in said]
    assert sum(done) == len(expected)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes cannot be asked there")
def test_what_a_killed_run_held_is_taken_over(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = start(study, out)
    while not list(out.glob(f"{LEASES}/*.lease")):
        time.sleep(0.01)
        assert killed.poll() is None, killed.stderr
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    other = start(study, out)
    text = other.communicate(timeout=300)[1]
    assert other.returncode == 0, text
    plain(study, tmp_path / "one")
    assert_same(tmp_path / "one", out)
    assert set(written(out).values()) == {1}


@pytest.mark.slow
def test_cells_that_fail_elsewhere_are_not_tried_again_meanwhile(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this run waits for a cell, another process stores that it failed."""
    from spade_bench import leases
    from spade_bench.evaluation.runcontext import Context, make_row

    monkeypatch.setattr(leases, "_POLL", 0.01)
    plain(study, tmp_path / "full")
    out = tmp_path / "out"
    theirs: dict[str, Any] = {}
    take = leases.Leases.take

    def held_by_others(self: Any, key: str) -> Any:
        if key in theirs:
            return None
        return take(self, key)

    in_turn = Context.in_turn

    def meanwhile(self: Any, groups: Any, cells_of: Any, key: Any, bar: Any) -> Any:
        first = cells_of(groups[0])
        theirs[key(groups[0])] = first
        ended = False
        for group in in_turn(self, groups, cells_of, key, bar):
            yield group
            if not ended:
                ended = True
                ResultStore(out).append(
                    [make_row(cell, "failed", "cpu", 0.0, error="no luck") for cell in first]
                )
                theirs.clear()

    monkeypatch.setattr(leases.Leases, "take", held_by_others)
    monkeypatch.setattr(Context, "in_turn", meanwhile)
    summary = evaluation.run_settings(settings_of(study, out))
    assert summary.first_error == "no luck"
    assert summary.failed > 0
    assert set(written(out).values()) == {1}
    assert summary.done + summary.failed == len(written(tmp_path / "full"))


def test_the_failure_of_another_encoder_is_not_that_of_this_run(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    context = Context(store, Finished(tmp_path, store.rows()), "cpu")
    theirs = Row("f" * 16, "failed", "other", "t", "h", "cv", inputs={"a": "1"}, error="not ours")
    ResultStore(tmp_path).append([theirs])
    context._look_again([])
    assert (context.first_error, context.failed) == ("", 0)
