"""A run lists a features folder once and looks at each of its files once."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import request_of

from spade_bench.errors import DataError
from spade_bench.evaluation import run
from spade_bench.evaluation.request import EncoderRequest
from spade_bench.features import bags
from spade_bench.features.bags import FeatureFolder, FeatureFolders, find_bags, write_features


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[Path]]:
    """How often each folder was walked from, and each file was looked at to find bags."""
    walks: Counter[Path] = Counter()
    looks: Counter[Path] = Counter()
    walk, look = os.walk, bags._headers_of

    def counted_walk(root: Any, *args: Any, **kwargs: Any) -> Any:
        walks[Path(root)] += 1
        return walk(root, *args, **kwargs)

    def counted_look(path: Path, known: Any) -> Any:
        looks[path] += 1
        return look(path, known)

    monkeypatch.setattr(os, "walk", counted_walk)
    monkeypatch.setattr(bags, "_headers_of", counted_look)
    return {"walks": walks, "looks": looks}


def test_three_encoders_and_three_tasks_walk_one_folder_once(
    study: Any, tmp_path: Path, counts: dict[str, Counter[Path]]
) -> None:
    request = request_of(study, tmp_path / "o", shots=(1,), draws=1, heads=("knn",))
    (task,) = request.tasks
    tasks = tuple(replace(task, card=replace(task.card, name=f"t{i}")) for i in range(3))
    encoders = tuple(EncoderRequest("mine", label) for label in ("mine", "twin", "third"))
    assert run(replace(request, tasks=tasks, encoders=encoders)).failed == 0
    assert counts["walks"][study.features] == 1
    assert counts["looks"] == dict.fromkeys(sorted(study.features.iterdir()), 1)


def test_an_encoder_that_is_not_there_is_asked_for_without_another_look(
    study: Any, tmp_path: Path, counts: dict[str, Counter[Path]]
) -> None:
    folder = FeatureFolder(study.features)
    for _ in range(2):
        with pytest.raises(DataError, match="no features of encoder 'uni', only of mine"):
            folder.bags("uni")
    assert folder.bags() == folder.bags("mine")
    assert counts["walks"] == {study.features: 1}
    assert set(counts["looks"].values()) == {1}
    assert folder.bags() == find_bags(study.features)  # which lists anew
    assert counts["walks"][study.features] == 2


def test_a_file_that_cannot_be_read_is_refused_alike_each_time(tmp_path: Path) -> None:
    for name in "ab":
        write_features(tmp_path / f"{name}.h5", [[1.0, 2.0]], slide_id=name, encoder="mine")
    (tmp_path / "b.h5").write_bytes(b"cut")
    folder = FeatureFolder(tmp_path)
    messages = []
    for _ in range(2):
        with pytest.raises(DataError) as refused:
            folder.bags("mine")
        messages.append(str(refused.value))
        broken: list[DataError] = []
        assert list(folder.bags("mine", unreadable=broken)) == ["a"]
        assert len(broken) == 1
        assert messages[-1].startswith(str(broken[0]).removesuffix("."))  # what to do follows
    assert messages[0] == messages[1]


def test_folders_are_kept_by_their_path(tmp_path: Path) -> None:
    write_features(tmp_path / "f" / "a.h5", [[1.0, 2.0]], slide_id="a", encoder="mine")
    folders = FeatureFolders()
    assert list(folders.bags(tmp_path / "f", "mine")) == ["a"]
    write_features(tmp_path / "f" / "b.h5", [[1.0, 2.0]], slide_id="b", encoder="mine")
    assert list(folders.bags(tmp_path / "f")) == ["a"]  # as it was when the run began
    assert list(FeatureFolders().bags(tmp_path / "f")) == ["a", "b"]
    with pytest.raises(DataError, match="no such features folder"):
        folders.bags(tmp_path / "g")
