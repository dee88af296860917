"""The single-expert baseline takes K = 1 or the control of a folder with more, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.errors import WeightsError
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

D, G, P = 12, 9, 8


def write(folder: Path, k: int, seed: int = 0) -> SpadeModel:
    rng = np.random.default_rng(seed)
    table = Experts(rng.normal(size=(k, D)).astype(np.float32), np.arange(k), ("",) * k, k)
    pairs = {e: ExpertPair.create(D, G, P, seed=seed, expert=e) for e in range(k)}
    info = ModelInfo(base_encoder="base", tau=0.5, pretrained_on=("HEST-1k",))
    model = SpadeModel(info, table, [f"G{i}" for i in range(G)], pairs)
    model.save(folder)
    return model


def test_one_expert_loads_and_several_need_their_control(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, D)).astype(np.float32)
    write(tmp_path / "many", 3)
    with pytest.raises(WeightsError, match=r"3 experts and no controls/k1"):
        encoders.get("bleep").load(LoadOptions(tmp_path / "many", "cpu"))
    single = write(tmp_path / "many" / "controls" / "k1", 1, seed=1)
    for folder in (tmp_path / "many", tmp_path / "many" / "controls" / "k1"):
        encoder = encoders.get("bleep").load(LoadOptions(folder, "cpu"))
        assert encoder.card.name == "bleep"
        assert encoder.card.upstream == "base"
        assert encoder.card.pretrained_on == ("HEST-1k",)
        np.testing.assert_allclose(encoder.encode(x), single.encode(x, "soft", 0.5), atol=1e-6)
    with pytest.raises(WeightsError, match="no weights of its own"):
        encoders.get("bleep").load(LoadOptions())
