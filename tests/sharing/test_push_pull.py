"""push and pull: whole models, no names, no paths, nothing that the manifest does not vouch for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml
from command_line import request_of, run_main
from small_studies import write_study

import spade_bench as sb
from spade_bench.cohorts.contamination import contamination, provenance
from spade_bench.cohorts.hiddennames import WITHHELD, is_hidden
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.encoder import SpadeEncoder
from spade_bench.encoders.spade.modelfolder import ModelInfo, expert_shapes, write_folder
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation import run
from spade_bench.evaluation.modelfitting import fit_model
from spade_bench.evaluation.trainedmodel import TrainedModel
from spade_bench.files import read_json, read_sealed, write_json
from spade_bench.types import Case, Cohort, LoadOptions, TaskCard

PATIENTS = ("HTA9-1", "HTA9-2")
SAMPLES = ("TENX128", "MEND140")
TASK = TaskCard("t", "classification", "t", "c", sources=("elsewhere",))


@pytest.fixture
def spade(tmp_path: Path) -> Path:
    """A SPADE folder as pretraining leaves it: names and paths in many places."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    shapes = expert_shapes(6, 3, 4)
    weights = {
        e: {n: torch.tensor(rng.normal(size=s), dtype=torch.float32) for n, s in shapes.items()}
        for e in (0, 1)
    }
    info = ModelInfo(
        base_encoder="uni",
        samples=SAMPLES,
        patients=PATIENTS,
        pretrained_on=("HEST-1k",),
        notes=("Expert 1 saw little of TENX128",),
        config={
            "samples": {"hest": "/data/clinic/hest", "ids": list(SAMPLES), "mpp": 0.5},
            "split": {"val_fraction": 0.1, "test_patients": ["HTA9-3"]},
            "routing": {"mode": "soft"},
        },
        extra={
            "split": {"TENX128": "train", "MEND140": "train", "NCBI1": "val"},
            "technologies": {"TENX128": "xenium", "MEND140": "visium"},
            "by_rule": {"training.epochs": "as /data/clinic/rules says"},
        },
    )
    experts = Experts(
        rng.normal(size=(2, 6)).astype(np.float32), np.array([0, 1]), ("Breast", "Skin"), 2
    )
    folder = tmp_path / "spade"
    for place in (folder, folder / "controls" / "k1"):
        write_folder(place, info, experts, ("A", "B", "C"), weights, history=[])
    (folder / "samples.csv").write_text("sample,patient\nTENX128,HTA9-1\nNCBI1,HTA9-3\n")
    (folder / "spots.h5ad").write_bytes(b"spots of patients")
    split = {"n_spots": 9, "n_samples": 1, "left_out": ["NCBI1"], "samples": {"NCBI1": {}}}
    write_json(folder / "validation.json", {"n_experts": 2, "tau": 0.1, "splits": {"val": split}})
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Any:
    return write_study(tmp_path / "study", 24)


def texts(folder: Path) -> str:
    kinds = {".json", ".csv", ".md"}
    return "\n".join(p.read_text() for p in folder.rglob("*") if p.suffix in kinds)


def front_matter(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    return dict(yaml.safe_load(head))


@pytest.mark.parametrize("hashes", [True, False])
def test_a_spade_goes_out_without_names_and_computes_the_same(
    spade: Path, tmp_path: Path, hashes: bool
) -> None:
    sb.push(spade, to=tmp_path / "out", licence="Apache-2.0", hashes=hashes)
    said = texts(tmp_path / "out")
    for name in (*SAMPLES, *PATIENTS, "HTA9-3", "NCBI1", "/data/clinic"):
        assert name not in said
    assert not (tmp_path / "out" / "spots.h5ad").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| samples | 2 |" in card
    assert "| patients | 2 |" in card
    assert "CC-BY-NC-ND-4.0" in card.replace("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0")
    matter = front_matter(tmp_path / "out")
    assert matter["license_name"] == "Apache-2.0"
    assert matter["base_model"] == ["MahmoodLab/UNI"]
    pulled = sb.pull(tmp_path / "out", out=tmp_path / "back")
    assert pulled.names == ("hashed" if hashes else "none")
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    before, after = (
        SpadeEncoder.load(LoadOptions(weights=folder, device="cpu"))
        for folder in (spade, tmp_path / "back")
    )
    np.testing.assert_array_equal(after.encode(x), before.encode(x))
    assert len(after.controls(0)) == len(before.controls(0)) == 2


def test_the_ledger_of_a_pulled_spade_still_knows_its_patients(spade: Path, tmp_path: Path) -> None:
    cohort = Cohort("c", (Case("hta9-2", ("tenx128",)), Case("x", ("y",))))
    clean = Cohort("c", (Case("x", ("y",)),))

    def flags(folder: Path, of: Cohort) -> tuple[str, ...]:
        encoder = SpadeEncoder.load(LoadOptions(weights=folder, device="cpu"))
        return contamination(provenance(encoder.card, encoder), TASK, cohort=of)

    for name, more in (("hashed", {}), ("none", {"hashes": False})):
        sb.push(spade, to=tmp_path / name, **more)
        sb.pull(tmp_path / name, out=tmp_path / f"{name}-back")
    assert flags(tmp_path / "hashed-back", cohort) == flags(spade, cohort)
    assert flags(tmp_path / "hashed-back", clean) == flags(spade, clean)
    assert "contamination:training-patients" in flags(spade, cohort)
    assert "trained-on:xenium" in flags(tmp_path / "hashed-back", clean)
    assert "contamination:unknown" in flags(tmp_path / "none-back", clean)


def test_with_patients_everything_is_named(spade: Path, tmp_path: Path) -> None:
    sb.push(spade, to=tmp_path / "out", with_patients=True)
    assert read_sealed(tmp_path / "out" / "spade.json")["patients"] == list(PATIENTS)
    assert "/data/clinic" not in texts(tmp_path / "out")
    with pytest.raises(UserError, match="contradict"):
        sb.push(spade, to=tmp_path / "o", with_patients=True, hashes=False)


def test_a_model_of_fit_still_marks_its_training_cases(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(request_of(study, tmp_path / "runs", heads=("logistic",), controls=False))
    model = fit_model(request_of(study, tmp_path / "unused", heads=("logistic",)))
    model.save(tmp_path / "model")
    before = model.predict(study.features)
    sb.push(tmp_path / "model", to=tmp_path / "out", results=tmp_path / "runs")
    said = texts(tmp_path / "out")
    assert not any(case in said for case in model.info.trained_on)
    assert "| auroc, " in said
    sb.pull(tmp_path / "out", out=tmp_path / "back")
    again = TrainedModel.load(tmp_path / "back")
    assert all(map(is_hidden, again.info.trained_on))
    after = again.predict(study.features)
    assert after["trained_on"].all()
    assert len(after) == len(before)  # slides of a training case stay together
    columns = [name for name in before if name.startswith("probability")]
    np.testing.assert_array_equal(
        after.sort_values("slide_id")[columns], before.sort_values("slide_id")[columns]
    )
    sb.push(tmp_path / "model", to=tmp_path / "none", hashes=False)
    sb.pull(tmp_path / "none", out=tmp_path / "none-back")
    blind = TrainedModel.load(tmp_path / "none-back")
    assert set(blind.info.trained_on) == {WITHHELD}
    assert blind.predict(study.features)["trained_on"].isna().all()
    assert "trained_on cannot be told" in capsys.readouterr().err


def test_a_kept_head_goes_out_with_the_figures_of_its_row(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run(request_of(study, out, heads=("logistic",), controls=False, keep_heads="folds",
                   protocol="cv", folds=3))  # fmt: skip
    folder = next((out / "heads").iterdir())
    cases = read_sealed(folder / "cell.json")
    sb.push(folder, to=tmp_path / "out")
    said = texts(tmp_path / "out")
    assert not any(case in said for key in ("train", "test") for case in cases[key])
    assert "| auroc, held-out cases" in said
    assert sb.pull(tmp_path / "out", out=tmp_path / "back").kind == "head"


def test_features_of_single_cases_stay_at_home(study: Any, tmp_path: Path) -> None:
    fit_model(request_of(study, tmp_path / "x", heads=("knn",))).save(tmp_path / "model")
    with pytest.raises(UserError, match="holds the features of each training case"):
        sb.push(tmp_path / "model", to=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sb.push(tmp_path / "model", to=tmp_path / "out", with_patients=True)


def test_what_does_not_match_is_refused_and_leaves_nothing(spade: Path, tmp_path: Path) -> None:
    sb.push(spade, to=tmp_path / "good")

    def refuse(words: str) -> None:
        with pytest.raises(DataError, match=words):
            sb.pull(tmp_path / "bad", out=tmp_path / "back")
        assert not (tmp_path / "back").exists()
        shutil.rmtree(tmp_path / "bad")

    def bad() -> Path:
        return Path(shutil.copytree(tmp_path / "good", tmp_path / "bad"))

    path = bad() / "experts.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refuse("'experts.safetensors' is not what manifest.json says")
    (bad() / "genes.csv").unlink()
    refuse("'genes.csv' is absent")
    (bad() / "manifest.json").unlink()
    refuse("holds no manifest.json")
    for name, words in (("../x.json", "no name of a file"), ("/x.json", "no name of a file"),
                        ("model.pkl", "only JSON, csv and safetensors")):  # fmt: skip
        manifest = read_json(bad() / "manifest.json")
        manifest["files"][0]["path"] = name
        write_json(tmp_path / "bad" / "manifest.json", manifest)
        refuse(words)
    manifest = read_json(bad() / "manifest.json")
    write_json(tmp_path / "bad" / "manifest.json", {**manifest, "kind": "model"})
    refuse("no model of kind 'model'")


def test_only_what_the_manifest_lists_is_taken_over(
    spade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sb.push(spade, to=tmp_path / "out")
    (tmp_path / "out" / "pytorch_model.bin").write_bytes(b"anything")
    (tmp_path / "out" / "README.md").write_text("edited on the hub")
    sb.pull(tmp_path / "out", out=tmp_path / "back")
    assert not (tmp_path / "back" / "pytorch_model.bin").exists()
    assert (tmp_path / "back" / "README.md").read_text() == "edited on the hub"
    assert "does not list" in capsys.readouterr().err


def test_a_push_replaces_a_push_and_nothing_else(spade: Path, tmp_path: Path) -> None:
    sb.push(spade, to=tmp_path / "out")
    sb.push(spade, to=tmp_path / "out", licence="MIT")
    assert front_matter(tmp_path / "out")["license_name"] == "MIT"
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        sb.push(spade, to=tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"
    with pytest.raises(UserError, match="lie in each other"):
        sb.push(spade, to=spade / "out")
    with pytest.raises(UserError, match="no model that can be passed on"):
        sb.push(tmp_path, to=tmp_path / "elsewhere" / "x")


def test_the_hub_is_asked_for_the_same_folder(
    spade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a fake of the five calls; the hub itself was not at hand."""
    calls: list[tuple[str, Any]] = []
    there = tmp_path / "hub"
    there.mkdir()
    (there / ".gitattributes").write_text("")  # the hub's own

    def upload(*, repo_id: str, folder_path: str, **more: Any) -> None:
        calls.append(("upload", repo_id))
        for name in more["delete_patterns"] or ():
            (there / name).unlink()
        shutil.copytree(folder_path, there, dirs_exist_ok=True)

    def listed(repo_id: str, *, revision: str | None) -> list[str]:
        return [p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file()]

    def manifest(repo_id: str, name: str, *, revision: str | None) -> str:
        return str(there / name)

    def download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append(("download", (repo_id, revision)))
        assert {"*.safetensors", "manifest.json"} <= set(allow_patterns)
        return str(there)

    monkeypatch.setattr(
        huggingface_hub, "create_repo", lambda repo, **more: calls.append((repo, more["private"]))
    )
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", listed)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", manifest)
    sb.push(spade, to="hf://lab/spade")
    sb.pull("hf://lab/spade@v1", out=tmp_path / "back")
    assert calls == [
        ("lab/spade", True), ("upload", "lab/spade"), ("download", ("lab/spade", "v1")),
    ]  # fmt: skip
    assert (tmp_path / "back" / "spade.json").is_file()
    sb.push(spade, to="hf://lab/spade")  # an earlier push is replaced
    (there / "thesis.pdf").write_text("the only copy")
    with pytest.raises(UserError, match=r"holds what no push put there: thesis\.pdf"):
        sb.push(spade, to="hf://lab/spade")
    assert (there / "thesis.pdf").is_file()

    def refuse(*_: Any, **__: Any) -> None:
        raise huggingface_hub.errors.LocalTokenNotFoundError("no token")

    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    with pytest.raises(UserError, match="hf auth login"):
        sb.push(spade, to="hf://lab/spade")
    with pytest.raises(UserError, match="hf://OWNER/NAME"):
        sb.push(spade, to="s3://bucket/spade")


def test_the_commands(spade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("push", spade, "--to", tmp_path / "out", "--no-hashes", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema"], shown["kind"], shown["names"]) == (
        "spade-bench/push/1", "spade", "none",
    )  # fmt: skip
    assert run_main("pull", tmp_path / "out", "--out", tmp_path / "back", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["schema"] == "spade-bench/pull/1"
    assert "cannot be checked" in told.err.replace("\n", " ")
    assert run_main("pull", tmp_path / "out", "--out", tmp_path / "back") == 2
