"""A small cohort on disk: a table, and features of an encoder that is registered nowhere."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

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
    written, slides = _once(n, signal, encoder, name)
    # The copies are as new as files that are written now, which the cache of features looks at.
    shutil.copytree(written.name, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return Study(folder / "table.csv", folder / f"features_{encoder}", list(slides))


@cache
def _once(
    n: int, signal: float, encoder: str, name: str
) -> tuple[TemporaryDirectory[str], list[str]]:
    """Write a cohort from which all others of its kind are copied, until the tests end."""
    kept = TemporaryDirectory()
    folder = Path(kept.name)
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
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return kept, slides
