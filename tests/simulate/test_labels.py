"""Labels follow the planted programmes and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spade_bench.simulate.labels import LABELS, draw_labels
from spade_bench.simulate.studysettings import ORGANS, PROGRAMMES, LabelSettings
from spade_bench.simulate.tissuemap import CaseLevels, draw_case
from spade_bench.statistics.riskscores import c_index


def _cases(n: int) -> list[CaseLevels]:
    rng = np.random.default_rng(0)
    return [draw_case(ORGANS[0], rng) for _ in range(n)]


def test_labels_follow_their_programme_with_the_stated_weight() -> None:
    cases = _cases(5000)
    settings = LabelSettings()
    labels = draw_labels(cases, settings, np.random.default_rng(1))
    levels = np.stack([case.molecular for case in cases])
    names = [programme.name for programme in PROGRAMMES]
    for table, (programme, _, positive) in LABELS.items():
        flag = np.array(labels.classes[table]) == positive
        assert flag.mean() == pytest.approx(settings.positive[table], abs=1e-3)
        for i, name in enumerate(names):
            seen = abs(np.corrcoef(flag, levels[:, i])[0, 1])
            assert seen > 0.7 if name == programme else seen < 0.06


def test_without_weight_labels_are_noise() -> None:
    cases = _cases(2000)
    labels = draw_labels(cases, replace(LabelSettings(), weight=0.0), np.random.default_rng(1))
    for table in LABELS:
        assert labels.describe()[table]["auroc_of_programme"] == pytest.approx(0.5, abs=0.05)


def test_high_mesenchymal_level_shortens_survival() -> None:
    labels = draw_labels(_cases(1000), LabelSettings(), np.random.default_rng(1))
    assert 0.3 < labels.event.mean() < 0.9
    risk = labels.scores["sim_survival"]
    assert c_index(labels.event, labels.duration_days.astype(float), risk) > 0.68
    assert c_index(labels.event, labels.duration_days.astype(float), -risk) < 0.32


def test_labels_do_not_read_the_drawing() -> None:
    cases = _cases(50)
    blind = [replace(case, drawn=np.zeros_like(case.drawn)) for case in cases]
    first, other = (
        draw_labels(some, LabelSettings(), np.random.default_rng(1)) for some in (cases, blind)
    )
    assert first.classes == other.classes
    assert np.array_equal(first.duration_days, other.duration_days)
