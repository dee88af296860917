from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import TRAINING_COLUMNS, ModelInfo
from spade_bench.errors import WeightsError
from spade_bench.files import hash_file, write_sealed

K, D, G, P = 4, 12, 20, 8
GENES = tuple(f"gene{i}" for i in range(G))
INFO = ModelInfo(
    base_encoder="uni",
    base_revision="abc",
    temperature=2.0,
    tau=0.2,
    seed=5,
    config={"training": {"epochs": 3}},
    samples=("S1", "S2"),
    patients=("A",),
    pretrained_on=("HEST-1k",),
    notes=("expert 3 has no validation spots: its last epoch is kept",),
)
HISTORY = [
    {"expert": 0, "epoch": 1, "train_loss": 4.5, "val_loss": 4.25, "lr": 1e-4, "seconds": 1.5},
    {"expert": 3, "epoch": 1, "train_loss": 4.5, "val_loss": None, "lr": 1e-4, "seconds": 1.5},
]


@pytest.fixture
def model(spade_experts: Experts) -> SpadeModel:
    weights = {e: ExpertPair.create(D, G, P, seed=0, expert=e) for e in range(K)}
    return SpadeModel(INFO, spade_experts, GENES, weights)


@pytest.fixture
def folder(model: SpadeModel, tmp_path: Path) -> Path:
    path = tmp_path / "spade"
    model.save(path, HISTORY)
    return path


def _rewrite(folder: Path, **changes: object) -> None:
    """Change spade.json, with the hashes of the other files brought up to date."""
    content = json.loads((folder / "spade.json").read_text())
    content["files"] = {name: hash_file(folder / name) for name in content["files"]}
    content |= changes
    write_sealed(folder / "spade.json", content)


def test_a_folder_holds_the_whole_model(model: SpadeModel, folder: Path) -> None:
    again = SpadeModel.load(folder, device="cpu")
    x = np.random.default_rng(0).normal(size=(9, D)).astype(np.float32)
    g = np.random.default_rng(0).random((9, G)).astype(np.float32)
    np.testing.assert_array_equal(again.encode(x), model.encode(x))
    np.testing.assert_array_equal(again.route(x), model.route(x))
    np.testing.assert_array_equal(again.score(x, g, GENES), model.score(x, g, GENES))
    assert again.genes == GENES
    assert again.experts.centroid_organ == model.experts.centroid_organ
    assert (again.tau, again.base_encoder, again.pretrained_on) == (0.2, "uni", ("HEST-1k",))
    info = again.info
    assert info.versions["torch"] == str(torch.__version__)
    for name in ("temperature", "seed", "config", "samples", "patients", "notes"):
        assert getattr(info, name) == getattr(INFO, name)


def test_the_files_are_the_documented_ones(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {
        "spade.json",
        "genes.csv",
        "centroids.safetensors",
        "experts.safetensors",
        "training.csv",
    }
    content = json.loads((folder / "spade.json").read_text())
    wanted = {"schema": "spade/1", "D": D, "G": G, "K": K, "P": P, "T": 2.0, "tau": 0.2, "seed": 5}
    assert wanted.items() <= content.items()
    assert content["samples"] == ["S1", "S2"]
    assert (folder / "genes.csv").read_text().splitlines() == ["gene", *GENES]
    with (folder / "training.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == TRAINING_COLUMNS
    assert rows[0]["val_loss"] == "4.25"
    assert rows[1]["val_loss"] == ""
    assert tuple(load_file(folder / "centroids.safetensors")["centroids"].shape) == (7, D)


def test_saving_again_leaves_other_files_alone(model: SpadeModel, folder: Path) -> None:
    (folder / "validation.json").write_text("{}")
    before = (folder / "training.csv").read_text()
    SpadeModel.load(folder, device="cpu").save(folder)
    assert (folder / "validation.json").read_text() == "{}"
    assert (folder / "training.csv").read_text() == before
    assert not list(folder.glob(".*"))


def test_a_folder_without_a_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a SPADE folder"):
        SpadeModel.load(tmp_path)


@pytest.mark.parametrize("schema", ["spade/2", None, 1])
def test_unknown_schemas_are_refused(folder: Path, schema: object) -> None:
    _rewrite(folder, schema=schema)
    with pytest.raises(WeightsError, match="unknown schema"):
        SpadeModel.load(folder)


@pytest.mark.parametrize("name", ["genes.csv", "centroids.safetensors", "experts.safetensors"])
def test_missing_altered_and_torn_files_are_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="is not the file that"):
        SpadeModel.load(folder)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        SpadeModel.load(folder)


def test_weights_are_loaded_strictly(folder: Path) -> None:
    """The public code loads with strict=False into another module and goes on at random."""
    path = folder / "experts.safetensors"
    tensors = load_file(path)
    renamed = {k.replace("image.projection", "image_projection.net"): v for k, v in tensors.items()}
    save_file(renamed, path)
    _rewrite(folder)
    with pytest.raises(WeightsError, match="missing keys: ") as error:
        SpadeModel.load(folder)
    assert "unexpected keys: " in str(error.value)
    assert "0.image.projection.weight" in str(error.value)
    assert "0.image_projection.net.weight" in str(error.value)
    assert "and 2 more" in str(error.value)
    tensors["1.spot.fc.weight"] = torch.zeros(P, P + 1)
    save_file(tensors, path)
    _rewrite(folder)
    with pytest.raises(WeightsError, match=r"1\.spot\.fc\.weight has shape"):
        SpadeModel.load(folder)


def test_files_that_are_not_safetensors_are_never_unpickled(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "experts.safetensors")
    _rewrite(folder)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        SpadeModel.load(folder)


def test_a_description_without_its_keys_is_refused(folder: Path) -> None:
    content = json.loads((folder / "spade.json").read_text())
    del content["T"], content["samples"]
    write_sealed(folder / "spade.json", content)
    with pytest.raises(WeightsError, match="keys missing: T, samples"):
        SpadeModel.load(folder)


def test_genes_must_be_as_many_as_described(folder: Path) -> None:
    (folder / "genes.csv").write_text("gene\nA\n")
    _rewrite(folder)
    with pytest.raises(WeightsError, match=r"genes\.csv has 1 genes"):
        SpadeModel.load(folder)


def test_a_partly_trained_folder(spade_experts: Experts, tmp_path: Path) -> None:
    weights = {e: ExpertPair.create(D, G, P, seed=0, expert=e) for e in (1, 3)}
    SpadeModel(INFO, spade_experts, GENES, weights).save(tmp_path / "part")
    again = SpadeModel.load(tmp_path / "part", device="cpu")
    assert set(again.heads) == {1, 3}
    assert again.n_experts == K


def test_the_loaded_model_outlives_its_folder(folder: Path) -> None:
    model = SpadeModel.load(folder, device="cpu")
    x = np.zeros((2, D), np.float32)
    before = model.encode(x)
    (folder / "experts.safetensors").write_bytes(b"")
    np.testing.assert_array_equal(model.encode(x), before)
