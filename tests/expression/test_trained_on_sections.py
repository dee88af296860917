"""Encoders that were trained on sections: what is refused, what is flagged, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_main
from gene_sections import DIM, GENES, ToySections, write_sections
from toy_pretraining import config, write_hest

import spade_bench as sb
from spade_bench.cohorts.contamination import Provenance, leaks_of_fold
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.pretraining.prepare.gather import without_tasks
from spade_bench.encoders.spade.pretraining.pretrainrequest import resolve_request
from spade_bench.errors import ConfigError, DataError
from spade_bench.types import Episode


def write_model(folder: Path, samples: tuple[str, ...], patients: tuple[str, ...] = ()) -> Path:
    """Write a model of two experts, with its single-expert control."""
    for place, experts in ((folder, 2), (folder / "controls" / "k1", 1)):
        rng = np.random.default_rng(experts)
        centroids = rng.normal(size=(experts, DIM)).astype(np.float32)
        table = Experts(centroids, np.arange(experts), ("",) * experts, experts)
        pairs = {e: ExpertPair.create(DIM, GENES, 8, seed=0, expert=e) for e in range(experts)}
        info = ModelInfo(
            base_encoder="mine", tau=0.5, pretrained_on=("HEST-1k",), samples=samples,
            patients=patients,
        )  # fmt: skip
        SpadeModel(info, table, [f"G{i:02d}" for i in range(GENES)], pairs).save(place)
    return folder


@pytest.fixture
def hest(tmp_path: Path) -> ToySections:
    return write_sections(tmp_path / "hest")


def run_spade(study: ToySections, weights: Path, out: Path, *more: object) -> int:
    return run_main(
        "run", "--encoder", "spade", "--weights", f"spade={weights}", "--task",
        f"hest:{study.root}", "--features", study.features, "--out", out, "--head", "ridge",
        *more,
    )  # fmt: skip


def rows_of(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


BOTH = ("contamination:training-samples", "contamination:training-patients")
PATIENT_OF = {"T0": "A", "T1": "A", "T2": "B", "T3": "Patient 3"}


@pytest.mark.parametrize(
    ("samples", "patients", "test", "flags"),
    [
        ((), (), ("T0",), ()),
        (("t2",), (), ("T2",), BOTH),
        (("T2",), (), ("T0", "T1"), ()),
        (("T1",), (), ("T0", "T1"), BOTH),
        # Another section of a patient that trains in this fold too adds nothing.
        (("T1",), (), ("T0",), ()),
        # Patients by name, unless every study has one of that name.
        (("X9",), ("Patient 3",), ("T3",), ()),
        (("X9",), ("SIM-Breast-07",), ("T3",), ()),
    ],
)  # fmt: skip
def test_leaks_of_a_fold(
    samples: tuple[str, ...], patients: tuple[str, ...], test: tuple[str, ...],
    flags: tuple[str, ...],
) -> None:  # fmt: skip
    train = tuple(name for name in PATIENT_OF if name not in test)
    fold = Episode("leave-one-section-out", train, test)
    assert leaks_of_fold(Provenance((), (), samples, patients), fold, PATIENT_OF) == flags


def test_a_named_patient_leaks_without_its_sections() -> None:
    fold = Episode("leave-one-patient-out", ("T0",), ("T2",))
    seen = Provenance((), (), ("X9",), ("TCGA-AA-0001",))
    assert leaks_of_fold(seen, fold, {"T0": "A", "T2": "tcga-aa-0001"}) == (
        "contamination:training-patients",
    )


def test_a_model_of_all_patients_is_refused(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_model(tmp_path / "spade", ("T0", "T2", "T3"))
    assert run_spade(hest, weights, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "'spade' was trained on" in said
    assert "3 of 3 fold(s)" in said
    assert "--exclude-task hest:PATH" in said
    assert "once for each fold: docs/EXPRESSION.md" in said
    assert not rows_of(tmp_path / "out")


def test_folds_that_leak_fail_and_the_others_run(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_model(tmp_path / "spade", ("T2",))  # patient B, fold 1
    assert run_spade(hest, weights, tmp_path / "out", "--no-controls") == 2
    rows = {row["fold"]: row for row in rows_of(tmp_path / "out")}
    assert [rows[fold]["status"] for fold in range(3)] == ["ok", "failed", "ok"]
    assert "trained on" in rows[1]["error"]


def test_what_is_allowed_is_flagged(hest: ToySections, tmp_path: Path) -> None:
    weights = write_model(tmp_path / "spade", ("T2",))
    assert run_spade(hest, weights, tmp_path / "out", "--allow-leaky-splits") == 0
    rows = rows_of(tmp_path / "out")
    for row in rows:
        held = row["encoder"].startswith("spade")
        assert ("contamination:training-samples" in row["flags"]) == held


def test_a_clean_model_runs_with_its_controls_and_retrieves(
    hest: ToySections, tmp_path: Path
) -> None:
    weights = write_model(tmp_path / "spade", ("X1",))
    assert run_spade(hest, weights, tmp_path / "out", "--head", "retrieval") == 0
    rows = rows_of(tmp_path / "out")
    assert not any(f.startswith("contamination:training") for row in rows for f in row["flags"])
    retrieved = {(row["encoder"], row["control"]) for row in rows if row["head"] == "retrieval"}
    # Only what has gene heads can be searched.
    routed = ("spade-random-routing", "random-routing")
    assert retrieved == {("spade", ""), ("spade-k1", "k1"), routed}
    fitted = {row["control"] for row in rows if row["head"] == "ridge"}
    assert {"", "permuted-spots", "base", "pca", "k1", "random-routing", "total-counts"} <= fitted


def test_an_encoder_without_a_gene_side_says_so(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_model(tmp_path / "spade", ("X1",))
    heads = ("--head", "retrieval", "--head", "ridge", "--no-controls")
    assert run_spade(hest, weights, tmp_path / "out", *heads) == 0
    run = ("--encoder", "mine", "--task", f"hest:{hest.root}", "--features", hest.features)
    assert run_main("run", *run, "--no-controls", "--out", tmp_path / "out") == 0
    results = sb.load_results(tmp_path / "out")
    board = results.leaderboard().set_index(["encoder", "head"])
    assert "no-gene-side" in board.loc[("mine", "retrieval"), "flags"]
    assert "missing" not in board.loc[("mine", "retrieval"), "flags"]
    assert np.isfinite(board.loc[("mine", "ridge"), "mean"])
    capsys.readouterr()
    for form in ([], ["--markdown"]):
        assert run_main("report", tmp_path / "out", "--no-plots", *form) == 0
        said = capsys.readouterr().out
        assert "no gene side" in said
        assert "missing" not in said


def test_each_fold_takes_a_model_that_did_not_see_it(hest: ToySections, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models / "a", ("T0", "T1", "T2"))  # good for fold 2 alone
    write_model(models / "b", ("T3",))  # good for folds 0 and 1
    assert run_spade(hest, models, tmp_path / "out", "--head", "retrieval") == 0
    rows = rows_of(tmp_path / "out")
    assert {row["status"] for row in rows} == {"ok"}
    mine = [row for row in rows if row["encoder"] == "spade" and not row["control"]]
    assert len({row["inputs"]["encoder"] for row in mine}) == 1  # one series
    # Without the model for fold 2 that fold is refused.
    (models / "a").rename(tmp_path / "a")
    assert run_spade(hest, models, tmp_path / "less", "--no-controls") == 2
    states = {row["fold"]: row["status"] for row in rows_of(tmp_path / "less")}
    assert states == {0: "ok", 1: "ok", 2: "failed"}


def test_one_of_several_encoders_that_leaks_does_not_stop_the_others(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_model(tmp_path / "spade", ("T0", "T2", "T3"))
    assert run_spade(hest, weights, tmp_path / "out", "--encoder", "mine") == 2
    done = {row["encoder"] for row in rows_of(tmp_path / "out") if row["status"] == "ok"}
    assert done == {"mine", "mine+random256", "total-counts", "coordinates"}
    assert "was trained on" in capsys.readouterr().err


def task_of(folder: Path, ids: tuple[str, ...], hest: Path) -> Path:
    """A task folder of HEST-Bench that holds some of the toy samples."""
    (folder / "splits").mkdir(parents=True)
    for side in ("train", "test"):
        lines = ["sample_id,patches_path,expr_path"]
        lines += [f"{name},patches/{name}.h5,{hest / 'st' / name}.h5ad" for name in ids[::-1]]
        chosen = [lines[0], lines[1] if side == "train" else lines[-1]]
        (folder / "splits" / f"{side}_0.csv").write_text("\n".join(chosen) + "\n")
    return folder


def test_pretraining_leaves_a_task_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hest").mkdir()
    hest = write_hest(tmp_path / "hest")
    csv = hest / "HEST_v1_0_0.csv"
    csv.write_text(csv.read_text().replace("P2", "P1"))  # S2 is of the patient of S1
    task = task_of(tmp_path / "bench" / "TOY", ("S0", "S1"), hest)
    made = resolve_request(config=config(hest), out=tmp_path / "out", exclude_task=f"hest:{task}")
    assert made.config.samples.exclude_ids == ("S0", "S1", "S2")
    assert "3 sample(s) left out, 1 of them for their patient" in capsys.readouterr().err


def test_a_patient_of_the_same_name_in_another_study_stays(tmp_path: Path) -> None:
    (tmp_path / "hest").mkdir()
    hest = write_hest(tmp_path / "hest")
    csv = hest / "HEST_v1_0_0.csv"
    lines = csv.read_text().replace("P2", "P1").splitlines()
    titled = [lines[0] + ",dataset_title"]
    titled += [f"{line},study {i // 2}" for i, line in enumerate(lines[1:])]
    csv.write_text("\n".join(titled) + "\n")
    task = task_of(tmp_path / "bench" / "TOY", ("S0", "S1"), hest)
    assert without_tasks(config(hest).samples, [f"hest:{task}"]).exclude_ids == ("S0", "S1")


def test_a_task_with_everything_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hest").mkdir()
    hest = write_hest(tmp_path / "hest")
    with pytest.raises(DataError, match="holds all 4 samples"):
        without_tasks(config(hest).samples, [f"hest:{hest}"])
    with pytest.raises(ConfigError, match="no task of expression"):
        without_tasks(config(hest).samples, ["crc_braf"])
