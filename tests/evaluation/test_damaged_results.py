"""Predictions that are not numbers never become a result, and damaged results never a table."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spade_bench.cli.main import main
from spade_bench.heads._pooled import PooledHead
from spade_bench.results import ResultStore, read_predictions
from spade_bench.results.predictionstore import predictions_path
from tests.helpers.older_predictions import make_older
from tests.helpers.stored_cells import part_of

FAST = ["--shots", "4", "--no-controls"]


def run_main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def ask(study: Any, out: Path, head: str = "logistic", draws: int = 2) -> int:
    given = ["--table", str(study.table), "--features", str(study.features), "--out", str(out)]
    return run_main("run", "--encoder", "mine", "--task", "my_task", "--head", head, *given, *FAST,
                    "--draws", str(draws))  # fmt: skip


def nan(good: np.ndarray) -> Any:
    good = good.copy()
    good[0, 0] = np.nan
    return good


BROKEN: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "nan": (nan, "are not finite for 1 of 20 cases"),
    "inf": (lambda x: x * np.inf, "not finite"),
    "extra rows": (lambda x: np.vstack([x, x]), "have shape (40, 2), not (20, 2)"),
    "too few rows": (lambda x: x[:11], "have shape (11, 2)"),
    "one column": (lambda x: x[:, :1], "have shape (20, 1)"),
    "flat": (lambda x: x[:, 0], "have shape (20,)"),
    "too large": (lambda x: x * 3, "probabilities lie within 0 and 1"),
    "negative": (lambda x: x - 0.5, "probabilities lie within 0 and 1"),
    "None": (lambda x: None, "are a NoneType, not an array (20, 2)"),
    "a list": (lambda x: x.tolist(), "are a list, not an array"),
    "text": (lambda x: x.astype(str).astype(object) + "x", "no real numbers"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_predictions_that_are_not_numbers_are_a_failed_cell(
    kind: str, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    spoil, said = BROKEN[kind]
    fit = PooledHead.fit_predict

    def broken(self: Any, bags: Any, fits: Any, n_outputs: int) -> Any:
        found = fit(self, bags, fits, n_outputs)
        return [spoil(found[0]), *found[1:]]

    monkeypatch.setattr(PooledHead, "fit_predict", broken)
    assert ask(study, tmp_path) == 2
    printed = capsys.readouterr().err
    assert "head 'logistic'" in printed
    assert printed.count(said) == 1  # as it happens, and not again at the end
    assert "1 cell(s) failed, see the warnings above" in printed
    assert "bug" not in printed
    rows = ResultStore(tmp_path).rows()
    assert sorted(row.status for row in rows) == ["failed", "ok"]
    assert said in str(next(row.error for row in rows if row.status == "failed"))


@pytest.mark.parametrize(
    ("returned", "said"), [(None, "NoneType"), ([], "0 results"), (7, "int")], ids=str
)
def test_a_head_that_returns_something_else_is_named(
    returned: Any, said: str, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:  # fmt: skip
    monkeypatch.setattr(PooledHead, "fit_predict", lambda *_: returned)
    assert ask(study, tmp_path) == 2
    assert f"Head 'logistic' returned {said} for 2 fits" in capsys.readouterr().err


def test_a_head_that_prints_or_exits_spoils_no_output(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fit = PooledHead.fit_predict

    def loud(self: Any, bags: Any, fits: Any, n_outputs: int) -> Any:
        print("chatter")
        return fit(self, bags, fits, n_outputs)

    monkeypatch.setattr(PooledHead, "fit_predict", loud)
    assert ask(study, tmp_path / "loud") == 0
    printed = capsys.readouterr()
    assert "chatter" not in printed.out
    assert "chatter" in printed.err
    monkeypatch.setattr(PooledHead, "fit_predict", lambda *_: sys.exit(0))
    assert ask(study, tmp_path / "exit") == 2
    assert "Head 'logistic' called sys.exit(0)" in capsys.readouterr().err


def test_a_folder_where_everything_failed_says_so_when_asked_for_a_metric(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PooledHead, "fit_predict", lambda *_: None)
        assert ask(study, tmp_path) == 2
    capsys.readouterr()
    assert run_main("report", str(tmp_path), "--metric", "auroc", "--no-plots") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "because no cell has finished. Leave --metric out" in told
    assert ask(study, tmp_path) == 0
    capsys.readouterr()
    for metric, said in (("auroq", "Did you mean 'auroc'?"), ("zzz", "Use primary, all, auroc, ")):
        assert run_main("report", str(tmp_path), "--metric", metric, "--no-plots") == 2
        assert said in " ".join(capsys.readouterr().err.split())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path: Path) -> None:
    table = pd.read_parquet(path)
    table.iloc[3, -1] = 0.5
    table.to_parquet(path)


def edit_and_rename(path: Path) -> None:
    """Change a number and give the file the name that its content asks for."""
    edit(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{digest}.parquet"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut": cut,
    "edited": edit,
    "edited and renamed": edit_and_rename,
    "flipped": flip,
    "missing": Path.unlink,
    "empty": lambda path: path.write_text(""),
    "binary": lambda path: path.write_bytes(b"\xff\x00" * 40),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_predictions_are_left_out_and_made_again(
    kind: str, study: Any, tmp_path: Path, capsys: Any
) -> None:
    assert ask(study, tmp_path, draws=1) == 0
    assert ask(study, tmp_path) == 0
    rows = ResultStore(tmp_path).rows()
    assert all(len(row.predictions_sha256) == 64 for row in rows)
    before = read_predictions(tmp_path, rows[1].run_id)
    DAMAGE[kind](part_of(tmp_path, rows[1]))
    capsys.readouterr()
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 2
    printed = capsys.readouterr()
    assert "mine logistic on my_task" in printed.err
    assert "1 stored result(s) are damaged and were left out" in printed.err
    shown = next(row for row in json.loads(printed.out)["rows"] if row["metric"] == "auroc")
    assert shown["mean"] == pytest.approx(rows[0].metrics["auroc"])
    assert "failed" in shown["flags"]
    assert ask(study, tmp_path) == 0
    assert "1 cells done, 1 finished before" in capsys.readouterr().err
    again = next(row for row in ResultStore(tmp_path).rows() if row.run_id == rows[1].run_id)
    after = read_predictions(tmp_path, again.run_id, sha256=again.predictions_sha256)
    assert after.case_ids == before.case_ids
    # Fitted alone instead of beside the other draw, which may change the last bit.
    np.testing.assert_allclose(after.scores, before.scores, rtol=1e-9)
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 0


def test_rows_without_a_checksum_are_held_against_their_count(
    study: Any, tmp_path: Path, capsys: Any
) -> None:
    assert ask(study, tmp_path) == 0
    make_older(tmp_path)
    path = tmp_path / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["predictions_sha256"], row["row_sha256"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 0
    path = predictions_path(tmp_path, rows[1]["run_id"])
    path.write_text(path.read_text().replace(path.read_text().split(",")[5], "nan", 1))
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 2
    assert "are not finite" in capsys.readouterr().err
    path = predictions_path(tmp_path, rows[0]["run_id"])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:12]))
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 2
    assert "hold 11 of 20 cases" in capsys.readouterr().err


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "metric": lambda row: row["metrics"].update(auroc=0.999),
    "metric added": lambda row: row["metrics"].update(extra=1.0),
    "encoder": lambda row: row.update(encoder="best"),
    "flags": lambda row: row.update(flags=[]),
    "counts": lambda row: row["n"].update(train=400),
    "status": lambda row: row.update(status="failed", error="no"),
    "draw": lambda row: row.update(draw=7),
    "checksum of predictions": lambda row: row.update(predictions_sha256=""),
    "field removed": lambda row: row.pop("seed"),
    "checksum": lambda row: row.update(row_sha256="0" * 64),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_row_is_named_left_out_and_made_again(
    kind: str, study: Any, tmp_path: Path, capsys: Any
) -> None:
    assert ask(study, tmp_path) == 0
    path = tmp_path / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    before = rows[0]["metrics"]["auroc"], rows[1]["metrics"]["auroc"]
    EDITS[kind](rows[1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 2
    printed = capsys.readouterr()
    assert "results.jsonl line 2: edited after it was written" in printed.err
    assert "1 stored result(s) are damaged and were left out" in printed.err
    shown = next(row for row in json.loads(printed.out)["rows"] if row["metric"] == "auroc")
    assert shown["mean"] == pytest.approx(before[0])
    assert ask(study, tmp_path) == 0
    printed = capsys.readouterr()
    assert "line 2: edited after it was written" in printed.err
    assert "1 cells done, 1 finished before" in printed.err
    # The line stays in the file; the row that was computed again stands for it.
    assert len(path.read_text().splitlines()) == 3
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 0
    shown = next(r for r in json.loads(capsys.readouterr().out)["rows"] if r["metric"] == "auroc")
    assert shown["mean"] == pytest.approx(np.mean(before))


def test_an_order_of_keys_or_spaces_is_no_edit(study: Any, tmp_path: Path) -> None:
    assert ask(study, tmp_path) == 0
    path = tmp_path / "results.jsonl"
    before = ResultStore(tmp_path).rows()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r, sort_keys=True, indent=None) + "\n" for r in rows))
    store = ResultStore(tmp_path)
    assert store.rows() == before
    assert not store.problems


@pytest.mark.parametrize(
    "line", ["{not json", '{"schema": "spade-bench/results/9"}', "[]", "null", '{"schema": 1'],
)  # fmt: skip
def test_a_bad_line_is_named_and_the_rest_goes_on(
    line: str, study: Any, tmp_path: Path, capsys: Any
) -> None:
    assert ask(study, tmp_path) == 0
    path = tmp_path / "results.jsonl"
    path.write_text(f"{line}\n" + path.read_text())
    capsys.readouterr()
    assert run_main("report", str(tmp_path), "--json", "--no-plots") == 2
    printed = capsys.readouterr()
    assert "results.jsonl line 1" in printed.err
    assert json.loads(printed.out)["rows"]
    assert ask(study, tmp_path) == 0
    assert "0 cells done, 2 finished before" in capsys.readouterr().err
    assert path.read_text().startswith(line)  # nothing is thrown away
