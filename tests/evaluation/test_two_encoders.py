"""Two precomputed encoders in one command: each is scored on its own features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from command_line import make_request

from spade_bench.evaluation import run
from spade_bench.evaluation.request import EncoderRequest, resolve_task
from spade_bench.features.bags import write_features


def test_each_encoder_sees_its_own_features(study: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for slide in study.slides:  # as wide as the others, but noise
        bag = rng.normal(size=(5, 12))
        write_features(tmp_path / "noise" / f"{slide}.h5", bag, slide_id=slide, encoder="noise")

    def auroc(out: Path, *names: str) -> dict[str, list[float]]:
        run(
            make_request(
                encoders=tuple(EncoderRequest(name, name) for name in names),
                tasks=(resolve_task("my_task", study.table, None),),
                out=out,
                features={"mine": study.features, "noise": tmp_path / "noise"},
                shots=(8,),
                draws=3,
                device="cpu",
                controls=False,
            )
        )
        rows = map(json.loads, (out / "results.jsonl").read_text().splitlines())
        found: dict[str, list[float]] = {}
        for row in rows:
            found.setdefault(row["encoder"], []).append(row["metrics"]["auroc"])
        return found

    together = auroc(tmp_path / "both", "mine", "noise")
    assert together["mine"] == auroc(tmp_path / "one", "mine")["mine"]
    assert together["noise"] == auroc(tmp_path / "other", "noise")["noise"]
    assert min(together["mine"]) > 0.85 > max(together["noise"])
