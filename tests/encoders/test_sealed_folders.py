"""One store for the folders of trained models: strict, whole or refused, read to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spade_bench.encoders.common.sealedfolder import (
    FolderFormat,
    check_tensors,
    read_genes,
    read_tensors,
    write_genes,
    write_tensors,
)
from spade_bench.errors import WeightsError
from spade_bench.files import hash_file, write_sealed

FORMAT = FolderFormat(
    model="TOY",
    schema="toy/1",
    description="toy.json",
    files=("genes.csv", "toy.safetensors"),
    made_by="Make one",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_genes(tmp_path / "genes.csv", ["A", "B c", "Ü"])
    write_tensors(tmp_path / "toy.safetensors", {"w": torch.arange(6.0).reshape(2, 3).T})
    FORMAT.seal(tmp_path, {"width": 3, "notes": ("x",)})
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    assert FORMAT.unseal(folder, {"width", "notes"}) == {"width": 3, "notes": ["x"]}
    assert read_genes(folder / "genes.csv", 3, "toy.json") == ("A", "B c", "Ü")
    tensors, metadata = read_tensors(folder / "toy.safetensors")
    torch.testing.assert_close(tensors["w"], torch.arange(6.0).reshape(2, 3).T, rtol=0, atol=0)
    assert metadata == {}


def test_the_bytes_are_those_of_every_version_before(folder: Path) -> None:
    assert hash_file(folder / "genes.csv") == "0631989c06bff6bb"
    save_file({"w": torch.arange(6.0).reshape(2, 3).T.contiguous()}, folder / "plain.safetensors")
    assert hash_file(folder / "toy.safetensors") == hash_file(folder / "plain.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "toy/2"}, "unknown schema 'toy/2'; this version reads 'toy/1'"),
        ({"later": 1}, "unknown keys: later"),
        ({"width": None}, "keys missing: width"),
        ({"files": {}}, "genes.csv is not the file that toy.json describes"),
    ],
)
def test_a_description_is_read_strictly(
    folder: Path, change: dict[str, object], message: str
) -> None:
    content = json.loads((folder / "toy.json").read_text()) | change
    content = {key: value for key, value in content.items() if value is not None}
    write_sealed(folder / "toy.json", content)
    with pytest.raises(WeightsError, match=message):
        FORMAT.unseal(folder, {"width", "notes"})


def test_an_edited_description_is_refused(folder: Path) -> None:
    text = (folder / "toy.json").read_text()
    (folder / "toy.json").write_text(text.replace('"width": 3', '"width": 4'))
    with pytest.raises(WeightsError, match="checksum"):
        FORMAT.unseal(folder, {"width", "notes"})


@pytest.mark.parametrize("name", FORMAT.files)
def test_missing_and_torn_files_are_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match=f"{name} is not the file"):
        FORMAT.unseal(folder, {"width", "notes"})
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        FORMAT.unseal(folder, {"width", "notes"})


def test_a_folder_of_another_kind_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"not a TOY folder: it has no toy\.json.*Make one"):
        FORMAT.unseal(tmp_path, {"width"})


def test_tensors_must_be_the_expected_ones(folder: Path) -> None:
    tensors, _ = read_tensors(folder / "toy.safetensors")
    check_tensors(tensors, {"w": (3, 2)}, "toy")
    with pytest.raises(WeightsError, match="missing keys: v; unexpected keys: w"):
        check_tensors(tensors, {"v": (3, 2)}, "toy")
    with pytest.raises(WeightsError, match=r"w has shape \(3, 2\), expected \(2, 3\)"):
        check_tensors(tensors, {"w": (2, 3)}, "toy")
    (folder / "bad.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        read_tensors(folder / "bad.safetensors")
