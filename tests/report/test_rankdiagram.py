"""The bars of a rank diagram join exactly what the paired test does not tell apart."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests

from spade_bench.report import Resampler, collect
from spade_bench.report.figures.rankdiagram import _note, rank_pictures, undecided
from spade_bench.report.pictures import Look


@pytest.mark.parametrize("seed", range(12))
def test_groups_equal_the_decisions_of_the_paired_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, tasks = int(rng.integers(2, 8)), int(rng.integers(6, 16))
    scores = rng.normal(size=(n, tasks)) + np.sort(rng.uniform(0, 6, n))[:, None]
    found = undecided(scores)
    pairs = list(itertools.combinations(range(n), 2))
    raw = [wilcoxon(scores[i], scores[j], method="exact").pvalue for i, j in pairs]
    different = multipletests(raw, 0.05, "holm")[0]
    for (i, j), apart in zip(pairs, different, strict=True):
        joined = any({i, j} <= set(group) for group in found.groups)
        assert joined != apart
    for one, other in itertools.permutations(found.groups, 2):
        assert not set(one) <= set(other)


def test_few_tasks_tell_nothing_apart_and_many_tell_all() -> None:
    clear = np.arange(4)[:, None] + np.zeros((4, 5))
    assert undecided(clear).groups == ((0, 1, 2, 3),)
    assert undecided(np.arange(4)[:, None] + np.zeros((4, 12))).groups == ()


def test_bars_and_ranks_of_the_picture_are_those_of_the_csv(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    label = (np.arange(60) % 3 == 0).astype(int)
    strength = {"uni": 3.0, "gigapath": 2.9, "resnet50": 0.2}
    for task in range(9):
        for encoder, far in strength.items():
            rng = np.random.default_rng([task, len(encoder)])
            z = rng.normal(size=60) + far * label
            place = {"encoder": encoder, "task": f"t{task}"}
            store(tmp_path, place, classes(1 / (1 + np.exp(-z)), label))
    series = collect(tmp_path)
    resampler = Resampler(tmp_path, n_boot=50)
    (picture,) = rank_pictures(series, resampler, Look.of(series))
    drawn = picture.drawn()
    rows = {str(row["encoder"]): row for row in drawn.numbers}
    for one, other in itertools.combinations(rows, 2):
        p = rows[one][f"p against {other}"]
        assert p == rows[other][f"p against {one}"]
        joined = set(str(rows[one]["groups"]).split()) & set(str(rows[other]["groups"]).split())
        assert bool(joined) == (p >= 0.05)
    (axes,) = drawn.figure.axes
    thick = [line for line in axes.lines if line.get_linewidth() > 2]
    assert len(thick) == len({n for row in rows.values() for n in str(row["groups"]).split()}) == 1
    words = [text.get_text() for text in axes.texts]
    for row in rows.values():
        assert f"{row['name']} ({row['mean_rank']:.2f})" in words


@pytest.mark.parametrize(
    ("encoders", "tasks", "caveat"),
    [(8, 8, True), (2, 8, False), (2, 5, True), (2, 6, False), (8, 11, False), (8, 10, True)],
)
def test_the_note_says_where_no_pair_could_be_told_apart(
    encoders: int, tasks: int, caveat: bool
) -> None:
    """Ordered the same on every task, encoders are as far apart as the test can tell."""
    ordered = np.arange(encoders)[:, None] + np.zeros((encoders, tasks))
    assert bool(undecided(ordered).groups) == caveat
    assert ("cannot fall below 0.05" in _note(tasks, encoders)) == caveat


def test_the_picture_of_ordered_encoders_on_eight_tasks_shows_the_caveat(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    label = np.arange(40) % 2
    for task, encoder in itertools.product(range(8), range(8)):
        p = np.where(np.arange(40) < 2 + 4 * encoder, 1 - label, label)
        store(tmp_path, {"encoder": f"e{encoder}", "task": f"t{task}"}, classes(p, label))
    series = collect(tmp_path)
    (picture,) = rank_pictures(series, Resampler(tmp_path, n_boot=20), Look.of(series))
    words = " ".join(text.get_text() for text in picture.drawn().figure.axes[0].texts)
    assert "with 8 tasks and 28 pairs it cannot fall below 0.05" in " ".join(words.split())
