"""What looks like features and is not taken is listed, with the reason, in one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.errors import DataError
from spade_bench.features import lookalikes as nottaken
from spade_bench.features.bags import find_bags, write_features

X = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nottaken, "_said", set())


def _hdf5(path: Path, **datasets: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


def _zarr(path: Path, marker: str) -> None:
    (path / "features").mkdir(parents=True)
    (path / marker).write_text("{}")
    (path / "features" / ".zarray").write_text("{}")
    (path / "features" / "0.0").write_bytes(b"x")


def _linked_folder(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.mkdir()
    np.save(elsewhere / "t.npy", X)
    path.symlink_to(elsewhere)


STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "s.H5": (lambda p: _hdf5(p, features=X), "named .H5, not .h5"),
    "s.NPY": (lambda p: p.write_bytes(b"x"), "named .NPY, not .npy"),
    "s.Pt": (lambda p: torch.save(torch.from_numpy(X), p), "named .Pt, not .pt"),
    "s.zarr": (lambda p: _zarr(p, ".zgroup"), "zarr is not read"),
    "store": (lambda p: _zarr(p, "zarr.json"), "zarr is not read"),
    "list.pt": (lambda p: torch.save([torch.from_numpy(X)], p), "of type list, not a tensor"),
    "number.pt": (lambda p: torch.save(7, p), "of type int, not a tensor"),
    "feats.pt": (
        lambda p: torch.save({"feats": torch.from_numpy(X)}, p),
        "a dict with 'feats', without 'features'",
    ),
    "inner.pt": (lambda p: torch.save({"features": [1.0]}, p), "of type list, not a tensor"),
    "cube.pt": (lambda p: torch.save(torch.ones(2, 3, 4), p), "of shape (2, 3, 4), not (patches"),
    "cube.npy": (lambda p: np.save(p, np.ones((2, 3, 4))), "of shape (2, 3, 4), not (patches"),
    "two.npz": (lambda p: np.savez(p, a=X, b=X), "arrays 'a', 'b', none named 'features'"),
    "named.h5": (lambda p: _hdf5(p, embeddings=X), "its numbers are named 'embeddings'"),
    "cube.h5": (lambda p: _hdf5(p, features=np.ones((2, 3, 4))), "of shape (2, 3, 4)"),
    "gone.h5": (lambda p: p.symlink_to("nowhere.h5"), "a link to nothing"),
    "circle.h5": (lambda p: p.symlink_to("circle.h5"), "a link to nothing"),
    "linked": (_linked_folder, "a link to a folder, which is not followed"),
    "folder.h5": (lambda p: p.mkdir(), "a folder, not a file"),
    "s.safetensors": (lambda p: p.write_bytes(b"x"), ".safetensors files are not read"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_each_is_named_with_the_reason_and_the_rest_taken(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, why = STRANGERS[name]
    folder = tmp_path / "f"
    write_features(folder / "good.h5", X, slide_id="good", encoder="uni")
    write(folder / name)
    for _ in range(2):
        assert list(find_bags(folder)) == ["good"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "not taken" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"not taken: {name}: {why}")


def test_where_nothing_else_is_there_the_reasons_are_said_before_the_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(30):
        (tmp_path / f"s{i:02d}.H5").write_bytes(b"x")
    with pytest.raises(DataError, match="no patch features found"):
        find_bags(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == f"not taken: 10 more files in {tmp_path}"


def test_what_is_known_to_be_something_else_is_not_spoken_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(tmp_path / "good.h5", X, slide_id="good", encoder="uni")
    _hdf5(tmp_path / "good_patches.h5", coords=np.zeros((5, 2), np.int64))
    np.save(tmp_path / "vector.npy", X[0])
    torch.save(torch.from_numpy(X[0]), tmp_path / "vector.pt")
    (tmp_path / "table.csv").write_text("case_id,slide_id\n")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".hidden.H5").write_bytes(b"x")
    assert list(find_bags(tmp_path)) == ["good"]
    assert capsys.readouterr().err == ""


def test_commands_list_them(tmp_path: Path) -> None:
    write_features(tmp_path / "f" / "good.h5", X, slide_id="good", encoder="uni")
    (tmp_path / "f" / "bad.H5").write_bytes(b"x")
    words = ["pack", "--features", str(tmp_path / "f"), "--out", str(tmp_path / "x.pack")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "not taken: bad.H5: named .H5, not .h5" in done.stderr


def test_files_of_other_kinds_are_not_asked_for_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(tmp_path / "a.h5", X, slide_id="a", encoder="uni")
    for i in range(50):
        (tmp_path / f"{i}.jpg").write_bytes(b"")
    asked: list[str] = []
    for name in ("is_dir", "is_file", "exists", "is_symlink", "stat"):
        real = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda p, *a, _r=real, **k: (asked.append(p.suffix), _r(p, *a, **k))[1]
        )
    assert list(find_bags(tmp_path)) == ["a"]
    assert ".jpg" not in asked  # a folder may hold millions of patches, on a slow disk
