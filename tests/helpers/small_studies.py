"""A small cohort on disk: a table, and features of an encoder that is registered nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spade_bench.features.bags import write_features

DIM = 12


@dataclass(frozen=True)
class Study:
    """Table and features of a simulated-by-hand cohort."""

    table: Path
    features: Path
    slides: list[str]


def write_study(
    folder: Path, n: int = 40, signal: float = 2.0, encoder: str = "mine", name: str = "case"
) -> Study:
    """Write n cases of two classes; every fifth case has two slides."""
    rng = np.random.default_rng(0)
    lines, slides = ["case_id,slide_id,label"], []
    for i in range(n):
        label = "tumor" if i % 2 else "normal"
        for j in range(2 if i % 5 == 0 else 1):
            slide = f"{name}{i:03d}-s{j}"
            x = rng.normal(size=(int(rng.integers(2, 9)), DIM))
            x[:, 0] += signal * (i % 2)
            write_features(
                folder / f"features_{encoder}" / f"{slide}.h5", x, slide_id=slide, encoder=encoder
            )
            lines.append(f"{name}{i:03d},{slide},{label}")
            slides.append(slide)
    table = folder / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return Study(table, folder / f"features_{encoder}", slides)
