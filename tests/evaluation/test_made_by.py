"""What feature files say of their making is held against each other and against their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import request_of

from spade_bench.errors import DataError
from spade_bench.evaluation import run
from spade_bench.evaluation.encoderfeatures import MIXED
from spade_bench.evaluation.request import resolve_task
from spade_bench.features import bags
from spade_bench.features.bags import read_bag, write_features
from spade_bench.features.identity import Identity
from spade_bench.results import ResultStore

FEW = {"shots": (2,), "draws": 1, "controls": False}


def say(folder: Path, **makers: Identity) -> None:
    """Let files say what made them: those whose slide ends like a key, `rest` the others."""
    for path in sorted(folder.glob("*.h5")):
        maker = makers.get(path.stem[-2:], makers["rest"])
        bag = read_bag(path)
        write_features(
            path, bag.features, slide_id=path.stem, encoder="mine",
            attrs={"identity": maker.to_json()},
        )  # fmt: skip


def rows(out: Path) -> list[Any]:
    return ResultStore(out).rows()


def test_files_of_one_making_carry_no_flag(study: Any, tmp_path: Path) -> None:
    say(study.features, rest=Identity("mine"))
    run(request_of(study, tmp_path / "out", **FEW))
    assert {row.identity for row in rows(tmp_path / "out")} == {Identity("mine").digest}
    assert not any(MIXED in row.flags for row in rows(tmp_path / "out"))


def test_files_of_two_makings_are_flagged(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(study.features, rest=Identity("mine"), s1=Identity("mine", options={"a": 1}))
    run(request_of(study, tmp_path / "out", **FEW))
    assert all(MIXED in row.flags for row in rows(tmp_path / "out"))
    assert "made in 2 different ways" in capsys.readouterr().err


def test_a_file_that_says_another_encoder_made_it_is_refused(study: Any, tmp_path: Path) -> None:
    say(study.features, rest=Identity("uni"))
    with pytest.raises(DataError, match="'uni' made it, not 'mine'"):
        run(request_of(study, tmp_path / "out", **FEW))
    run(request_of(study, tmp_path / "out", as_is=True, **FEW))
    assert all("encoder-mismatch:uni" in row.flags for row in rows(tmp_path / "out"))


def test_the_cohort_to_test_on_is_held_to_the_same(
    study: Any, other_study: Any, tmp_path: Path
) -> None:
    say(study.features, rest=Identity("mine"))
    say(other_study.features, rest=Identity("uni"))
    task = resolve_task("my_task", study.table, None, test_table=other_study.table)
    values = {"tasks": (task,), "test_features": {"*": other_study.features}, "controls": False}
    with pytest.raises(DataError, match="'uni' made it, not 'mine'"):
        run(request_of(study, tmp_path / "out", **values))


def test_a_run_asks_each_file_once(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(bags, "stored_identity", asked.append)
    tasks = tuple(resolve_task(name, study.table, None) for name in ("one", "two"))
    run(request_of(study, tmp_path / "out", tasks=tasks, **FEW))
    assert len(asked) == len(set(asked)) == len(study.slides)
