from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from spade_bench.cli.extract import extract
from spade_bench.cli.pretrain import pretrain
from spade_bench.simulate import simulate
from spade_bench.simulate.studysettings import Size

MINI = Size(
    organs=2,
    patients=3,
    second_samples=1,
    st_side_um=600.0,
    st_sites=2,
    cases=24,
    second_slides=2,
    slide_side_um=450.0,
    slide_sites=2,
)


@pytest.fixture(scope="session")
def mini() -> Size:
    return MINI


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A simulated study that tests read and never change, and its truth."""
    out = tmp_path_factory.mktemp("simulate") / "study"
    return out, simulate(out, 3, MINI)


BASE = "efficientnet-lite0"
SETTINGS = [
    "clustering.k_organ=2",
    "clustering.k_experts=2",
    "training.epochs=10",
    "training.lr=0.001",
    "training.workers=1",
    "controls.untrained_seeds=2",
]


@pytest.fixture(scope="session")
def chain(
    study: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Features of the slides and a SPADE pretrained on the sections."""
    folder, _ = study
    work = tmp_path_factory.mktemp("chain")
    slides = folder / "slides"
    with contextlib.chdir(work):
        code = extract(
            encoder=BASE, slides=slides, out=work / "features", device="cpu", preview=False
        )
        assert code == 0
        pretrain(
            hest=folder / "hest",
            encoder=BASE,
            out=work / "spade",
            settings=SETTINGS,
            device="cpu",
            workers=1,
        )
    return work / "features", work / "spade"
