"""A small cohort on disk, and a feature encoder to send its features through."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_studies import DIM, Study, write_study

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.features.bags import write_features
from spade_bench.registry import encoders
from spade_bench.types import Control, EncoderCard, LoadOptions

N_GENES = 9  # of SPADE folders


def write_survival(folder: Path, n: int = 60, signal: float = 1.5) -> Study:
    """Write n cases whose hazard follows the first feature; a third is censored or so."""
    rng = np.random.default_rng(1)
    lines, slides = ["case_id,slide_id,event,duration_days,site"], []
    for i in range(n):
        risk = rng.normal()
        x = rng.normal(size=(int(rng.integers(2, 9)), DIM)) * 0.5
        x[:, 0] += 2 * risk
        event = rng.exponential(500 * np.exp(-signal * risk))
        last = rng.exponential(1000)
        slide = f"case{i:03d}-s0"
        write_features(folder / "features_mine" / f"{slide}.h5", x, slide_id=slide, encoder="mine")
        days = max(1.0, min(event, last))
        lines.append(f"case{i:03d},{slide},{int(event <= last)},{days:.1f},S{i % 6}")
        slides.append(slide)
    table = folder / "survival.csv"
    table.write_text("\n".join(lines) + "\n")
    return Study(table, folder / "features_mine", slides)


@pytest.fixture(scope="session")
def _survival(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_survival(tmp_path_factory.mktemp("survival"))


@pytest.fixture
def survival(_survival: Study, tmp_path: Path) -> Study:
    """A cohort of survival, copied: a test may change it."""
    folder = tmp_path / "survival"
    shutil.copytree(_survival.table.parent, folder, copy_function=shutil.copyfile)
    return replace(
        _survival, table=folder / "survival.csv", features=folder / _survival.features.name
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path)


@pytest.fixture
def other_study(tmp_path: Path) -> Study:
    """Another cohort, with features of its own."""
    return write_study(tmp_path / "other", n=24, name="other")


@pytest.fixture
def uni_study(tmp_path: Path) -> Study:
    """The other cohort with features of another encoder."""
    return write_study(tmp_path / "uni", n=24, name="other", encoder="uni")


class HalfEncoder:
    """Keeps the first half of the base features; brings what its controls/k1 makes of them."""

    def __init__(self, card: EncoderCard, weights: Path | None = None) -> None:
        self.card = card
        self.dim = DIM // 2
        self.weights = weights

    def encode(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features[:, : self.dim])

    def controls(self, seed: int) -> tuple[Control, ...]:
        folder = None if self.weights is None else self.weights / "controls" / "k1"
        if folder is None or not folder.is_dir():
            return ()
        return (Control("k1", "-k1", HalfEncoder(self.card), folder),)


@pytest.fixture
def half() -> Iterator[str]:
    """A registered encoder of features called `half`, on top of `mine`."""
    card = EncoderCard(
        "half", "features", None, "Keeps half.", upstream="mine", pretrained_on=("HEST-1k",)
    )

    def load(options: LoadOptions) -> HalfEncoder:
        return HalfEncoder(replace(card, dim=DIM // 2), options.weights)

    encoders.names()
    encoders.add(card, load)
    yield card.name
    del encoders._plugins[card.name]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights folder with a single-expert control inside."""
    for folder in (tmp_path / "weights", tmp_path / "weights" / "controls" / "k1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "experts.safetensors").write_bytes(folder.name.encode())
    return tmp_path / "weights"


def write_spade(folder: Path, experts: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(experts, DIM)).astype(np.float32)
    table = Experts(centroids, np.arange(experts), ("",) * experts, experts)
    pairs = {e: ExpertPair.create(DIM, N_GENES, width, seed=seed, expert=e) for e in range(experts)}
    info = ModelInfo(base_encoder="mine", tau=0.5, pretrained_on=("HEST-1k",))
    SpadeModel(info, table, [f"G{i}" for i in range(N_GENES)], pairs).save(folder)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two models on one base, of different widths, each with its single expert."""
    for name, experts, width, seed in (("a", 3, 8, 1), ("b", 2, 6, 2)):
        write_spade(tmp_path / name, experts, width, seed)
        write_spade(tmp_path / name / "controls" / "k1", 1, width, seed + 10)
    return {"a": tmp_path / "a", "b": tmp_path / "b"}
