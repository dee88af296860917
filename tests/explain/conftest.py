"""A small cohort whose informative patches are known, with features that say where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from spade_bench.features.bags import write_features
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard

DIM, SIDE, ACROSS = 10, 100, 6


@dataclass(frozen=True)
class Planted:
    """Table and features of a cohort, and which patches of its slides were planted."""

    table: Path
    features: Path
    cases: dict[str, list[str]]
    informative: dict[str, np.ndarray] = field(default_factory=dict)


def write_planted(
    folder: Path, n: int = 40, name: str = "case", encoder: str = "mine", seed: int = 0
) -> Planted:
    """Write n cases of two classes; a quarter of the patches of each carries its class.

    Every fifth case has two slides. Patches lie on a grid of `SIDE` level-0 pixels.
    """
    rng = np.random.default_rng(seed)
    lines = ["case_id,slide_id,label"]
    planted = Planted(folder / "table.csv", folder / f"features_{encoder}", {})
    for i in range(n):
        case, label = f"{name}{i:03d}", "tumor" if i % 2 else "normal"
        for j in range(2 if i % 5 == 0 else 1):
            slide, count = f"{case}-s{j}", int(rng.integers(16, 33))
            cells = np.sort(rng.choice(ACROSS**2, count, replace=False))
            coords = np.stack([cells % ACROSS, cells // ACROSS], axis=1) * SIDE
            inside = np.zeros(count, dtype=bool)
            inside[rng.choice(count, count // 4, replace=False)] = True
            x = rng.normal(size=(count, DIM))
            x[inside, i % 2] += 3.0
            write_features(
                planted.features / f"{slide}.h5", x, coords, slide_id=slide, encoder=encoder,
                attrs={"mpp": 0.5, "patch_size_level0": SIDE},
            )  # fmt: skip
            lines.append(f"{case},{slide},{label}")
            planted.cases.setdefault(case, []).append(slide)
            planted.informative[slide] = inside
    planted.table.write_text("\n".join(lines) + "\n")
    return planted


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A cohort that tests read and never change."""
    return write_planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Another cohort, which trains nothing; never changed either."""
    return write_planted(tmp_path_factory.mktemp("others"), n=12, name="other", seed=1)


class HalfEncoder:
    """Keeps the first half of the base features."""

    dim = DIM // 2

    def __init__(self, card: EncoderCard) -> None:
        self.card = card

    def encode(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features[:, : self.dim])


@pytest.fixture
def half() -> Iterator[str]:
    """A registered encoder of features called `half`, on top of `mine`."""
    card = EncoderCard("half", "features", DIM // 2, "Keeps half.", upstream="mine")
    encoders.names()
    encoders.add(card, lambda options: HalfEncoder(card))
    yield card.name
    del encoders._plugins[card.name]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights folder."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "experts.safetensors").write_bytes(b"w")
    return tmp_path / "weights"
