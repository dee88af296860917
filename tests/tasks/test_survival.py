"""The survival kind: what it reads, leaves out, permutes and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spade_bench.cohorts.labels.recipes import load_recipe, recipe_names
from spade_bench.errors import ConfigError, DataError
from spade_bench.registry import heads, kinds, tasks
from spade_bench.statistics.riskscores import c_index
from spade_bench.types import TaskCard

CARD = TaskCard("t", "survival", "t", "c", metrics=("c_index", "c_index_uno", "ibs"))


def _table(path: Path, rows: list[tuple[int, float]]) -> Path:
    lines = [f"c{i:03d},s{i:03d},{event},{days}" for i, (event, days) in enumerate(rows)]
    path.write_text("case_id,slide_id,event,duration_days\n" + "\n".join(lines) + "\n")
    return path


def test_reads_targets_and_names_cases_without_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = kinds.get("survival").load()
    cohort = kind.cohort(CARD, _table(tmp_path / "t.csv", [(1, 30), (0, 0), (0, 99.5)]))
    assert kind.targets(cohort).tolist() == [[1.0, 30.0], [0.0, 99.5]]
    assert kind.n_outputs(cohort) == 1
    message = capsys.readouterr().err
    assert "1 case(s) with a duration of zero" in message
    assert "c001" in message


def test_refuses_a_cohort_without_events(tmp_path: Path) -> None:
    kind = kinds.get("survival").load()
    with pytest.raises(DataError, match="Write event 1 where it happened"):
        kind.cohort(CARD, _table(tmp_path / "t.csv", [(0, 30), (0, 40), (1, 0)]))


def test_permuting_keeps_event_and_days_together() -> None:
    kind = kinds.get("survival").load()
    target = np.column_stack([np.arange(40) % 2, np.arange(40.0)])
    shuffled = kind.permute(target, 1)
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, target))
    assert not np.array_equal(shuffled, target)


def test_scores_agree_with_the_one_c_index_and_know_good_from_bad() -> None:
    kind = kinds.get("survival").load()
    rng = np.random.default_rng(0)
    hazard = rng.normal(size=200)
    event_days = rng.exponential(1000 * np.exp(-1.5 * hazard))
    censored = rng.exponential(1500, size=200)
    target = np.column_stack([event_days <= censored, np.minimum(event_days, censored)])
    risk = 1.5 * hazard[:, None]
    train = target[:100], risk[:100]
    good = kind.score(CARD.metrics, target[100:], risk[100:], train)
    bad = kind.score(CARD.metrics, target[100:], -risk[100:], (train[0], -train[1]))
    assert good["c_index"] == c_index(target[100:, 0] > 0, target[100:, 1], risk[100:, 0])
    assert good["c_index"] > 0.7
    assert good["c_index"] + bad["c_index"] == pytest.approx(1.0)
    assert good["c_index_uno"] > 0.7 > 0.5 > bad["c_index_uno"]
    assert good["ibs"] < bad["ibs"]
    alone = kind.score(CARD.metrics, target[100:], risk[100:])
    assert alone["c_index"] == good["c_index"]
    assert np.isnan(alone["ibs"])
    with pytest.raises(ConfigError):
        kind.score(["auroc"], target, risk)


@pytest.mark.parametrize(
    "name", [plugin.name for plugin in tasks if plugin.card.kind == "survival"]
)
def test_every_survival_card_can_run(name: str) -> None:
    card = tasks.get(name).card
    kind = kinds.get(card.kind).card
    assert card.metrics[0] == "c_index"
    assert set(card.metrics) <= set(kind.metrics)
    assert kind.head_kind in heads.get(kind.default_head).card.kinds


@pytest.mark.parametrize(
    "name",
    [
        *("tcga_kidney_subtype", "tcga_lung_subtype", "stad_msi"),
        *("tcga_kirc_survival", "tcga_luad_survival"),
    ],
)
def test_cards_beyond_the_paper_are_complete(name: str) -> None:
    card = tasks.get(name).card
    assert card.title
    assert card.definition
    assert card.data
    assert card.sources == ("TCGA",)
    assert card.pitfalls
    assert set(card.metrics) <= set(kinds.get(card.kind).card.metrics)


def test_every_table_that_cohort_makes_belongs_to_a_task() -> None:
    for name in recipe_names():
        recipe, card = load_recipe(name), tasks.get(name).card
        assert (recipe.endpoint, set(recipe.classes)) == (card.endpoint, set(card.classes))


def test_ordinal_tasks_say_so() -> None:
    for name in ("panda", "tcga_prad_grade"):
        assert "kappa_quadratic" in tasks.get(name).card.metrics
