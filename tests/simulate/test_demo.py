"""The demo: its workspace is valid, and the literal commands run on it to a leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spade_bench import config, workspace
from spade_bench.cli import demo as module
from spade_bench.config import nested
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.registry import encoders, heads, tasks


def test_workspace_is_valid_and_names_what_exists(tmp_path: Path) -> None:
    (tmp_path / workspace.FILE_NAME).write_text(module.WORKSPACE)
    space = workspace.load(tmp_path / workspace.FILE_NAME)
    assert space is not None
    settings = config.build(PretrainConfig, nested(space.pretrain.set, deep=True), "demo")
    assert settings.clustering.k_experts == 2
    assert settings.training.epochs < 100
    for cohort in space.cohorts.values():
        for task in cohort.tables:
            tasks.get(task)
        for encoder in cohort.features:
            encoders.get(encoder)
    for head in space.run["heads"]:
        heads.get(head)


@pytest.mark.slow
def test_demo_runs_to_a_leaderboard_and_again(
    study: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "_simulate", lambda seed, size: _link(study[0]))
    short = module.WORKSPACE.replace("training.epochs: 60", "training.epochs: 4")
    short = short.replace("device: auto", "device: cpu").replace("draws: 20", "draws: 3")
    monkeypatch.setattr(module, "WORKSPACE", short.replace("[1, 2, 4, 8]", "[1, 2]"))
    module.demo(out=tmp_path / "demo")
    printed = capsys.readouterr()
    assert "SIMULATED DATA" in printed.out
    assert "All numbers above are SIMULATED" in printed.out
    for command in ("pretrain", "run --encoder spade --task crc_braf"):
        assert f"spade-bench {command}" in printed.err
    lines = (tmp_path / "demo" / "runs" / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row["status"] == "ok" and "simulated" in row["flags"] for row in rows)
    shown = {(row["encoder"], *[f for f in row["flags"] if f.startswith("control:")])
             for row in rows}  # fmt: skip
    assert {
        ("spade",),
        ("spade", "control:permuted-labels"),
        ("efficientnet-lite0", "control:base"),
        ("random-lite0", "control:random-weights"),
        ("spade-k1", "control:k1"),
    } <= shown
    folder = tmp_path / "demo"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Simulated data" in page
    assert (folder / "maps" / "viewer" / "index.html").exists()
    assert list((folder / "maps" / "geojson").glob("*.geojson"))
    listing = json.loads((folder / "maps" / "explain.json").read_text())
    assert {one["models"] for one in listing["maps"]} == {2}
    for one in listing["maps"]:
        assert (folder / "maps" / one["files"]["sd"]).is_file()  # how far the models disagree
        page = folder / "maps" / "viewer" / "slides" / one["slide_id"] / "slide.js"
        assert "dispersion" in page.read_text()
    scores = json.loads((folder / "planted" / "region_scores.json").read_text())
    base = {
        mean["metric"]: mean for mean in scores["means"] if mean["encoder"] == "efficientnet-lite0"
    }
    assert base["contribution_auroc"]["cases"] > 20  # the whole of this small study
    assert base["contribution_auroc"]["mean"] > 0.53  # what was planted is found
    module.demo(out=tmp_path / "demo")
    again = (tmp_path / "demo" / "runs" / "results.jsonl").read_text().splitlines()
    assert again == lines


def _link(folder: Path) -> None:
    if not Path("data").exists():
        Path("data").symlink_to(folder, target_is_directory=True)


def test_sections_that_trained_the_model_are_left_out(tmp_path: Path) -> None:
    samples = tmp_path / "samples.csv"
    samples.write_text(
        "sample,status,split,organ,patient,spots,reason,findings\n"
        "S1,kept,train,Bowel,P1,44,,\nS2,kept,val,Bowel,P2,43,,\nS3,dropped,,Bowel,P3,0,why,\n"
    )
    held = module._held_out(samples, Path("data/hest/st"), tmp_path / "held_out.csv")
    assert held == ["P2"]
    lines = (tmp_path / "held_out.csv").read_text().splitlines()
    assert lines[1:] == ["S2,data/hest/st/S2.h5ad,Bowel,P2,1"]
