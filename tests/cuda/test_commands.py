"""The commands from slides to results, on a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import run_main
from toy_pretraining import config, write_hest

from spade_bench.config import to_dict
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.pretraining.pipeline import run_pretrain

pytestmark = pytest.mark.cuda


def call(*arguments: object) -> None:
    assert run_main(*arguments, "--device", "cuda") == 0


def test_extract_and_run(write_slide: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,label"]
    for i in range(8):
        tissue = rng.integers(90, 200, size=(300, 300, 3), dtype=np.uint8)
        tissue[..., i % 2] //= 2
        write_slide(tmp_path / "slides" / f"s{i}.tif", tissue)
        lines.append(f"c{i},s{i},{'ab'[i % 2]}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    features = tmp_path / "features"
    encoder = ["--encoder", "efficientnet-lite0"]
    call("extract", *encoder, "--slides", tmp_path / "slides", "--out", features)
    (tmp_path / "task.yaml").write_text(
        "name: toy_task\ntitle: A toy\nkind: classification\ncohort: toy\nclasses: [a, b]\n"
        "metrics: [auroc]\nsources: []\ndefinition: Made up.\n"
    )
    task = ["--task", tmp_path / "task.yaml"]
    given = ["--table", tmp_path / "table.csv", "--features", features, "--out", tmp_path / "runs"]
    heads = ["--head", "abmil", "--head", "logistic", "--shots", 1, "--draws", 2]
    call("run", *encoder, *task, *given, *heads, "--set", "abmil.min_steps=4")
    rows = [json.loads(r) for r in (tmp_path / "runs" / "results.jsonl").read_text().splitlines()]
    assert {row["head"] for row in rows} == {"abmil", "logistic"}
    assert {row["status"] for row in rows} == {"ok"}


def test_pretrain_with_its_control_beside_and_encode(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hest").mkdir()
    hest = write_hest(tmp_path / "hest")
    content = json.loads(json.dumps(to_dict(config(hest)), default=str))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content))
    call("pretrain", "--config", tmp_path / "p.yaml", "--out", tmp_path / "gpu")
    assert "The K = 1 control trains beside the experts" in capfd.readouterr().err
    run_pretrain(config(hest), tmp_path / "cpu", device="cpu")
    for name in ("", "controls/k1"):
        gpu, cpu = (SpadeModel.load(tmp_path / p / name, device="cpu") for p in ("gpu", "cpu"))
        for expert, weights in cpu.heads.items():
            for key, tensor in weights.items():
                apart = (gpu.heads[expert][key] - tensor).abs().max()
                assert float(apart) < 1e-3, (name, expert, key)
    out = tmp_path / "encoded"
    weights = ["--encoder", "spade", "--weights", tmp_path / "gpu"]
    call("encode", *weights, "--features", hest / "features", "--out", out)
    assert len(list(out.rglob("*.h5"))) == 4
