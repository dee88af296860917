"""Kind `regression`: reading values, quarters for few shots and folds, checks of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spade_bench.cohorts.checks.validation import Question, validate_cohort
from spade_bench.cohorts.episodes import strata_of
from spade_bench.cohorts.tables import cohort_hash
from spade_bench.errors import DataError
from spade_bench.registry import kinds, tasks
from spade_bench.types import Case, TaskCard

CARD = TaskCard("age", "regression", "Age", "c", label_column="age")


def _table(path: Path, values: list[object]) -> Path:
    rows = [f"c{i:03d},s{i:03d},S{i % 3},{value}" for i, value in enumerate(values)]
    path.write_text("case_id,slide_id,site,age\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def _values(n: int = 40) -> list[object]:
    return [float(v) for v in np.random.default_rng(0).normal(60, 10, n).round(2)]


def test_reads_values_of_the_column_that_the_card_names(tmp_path: Path) -> None:
    kind = kinds.get("regression").load()
    cohort = kind.cohort(CARD, _table(tmp_path / "t.csv", _values()))
    assert cohort.classes == ()
    assert kind.targets(cohort).tolist() == _values()
    assert kind.n_outputs(cohort) == 1
    other = kind.cohort(CARD, _table(tmp_path / "u.csv", [1.0, *_values()[1:]]))
    assert cohort_hash(cohort) != cohort_hash(other)


def test_slides_of_a_case_may_spell_its_value_in_two_ways(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,slide_id,age\na,s1,63\na,s2,63.0\nb,s3,40\n")
    cohort = kinds.get("regression").load().cohort(CARD, path)
    assert [case.value for case in cohort.cases] == [63.0, 40.0]


@pytest.mark.parametrize(
    ("bad", "words"),
    [("63 years", "without units"), ("63,5", "decimal point"), ("inf", "age|target of case")],
)
def test_what_is_no_number_is_refused(tmp_path: Path, bad: str, words: str) -> None:
    table = _table(tmp_path / "t.csv", [f'"{bad}"', *_values()])
    with pytest.raises(DataError, match=words):
        kinds.get("regression").load().cohort(CARD, table)


def test_equal_values_are_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        kinds.get("regression").load().cohort(CARD, _table(tmp_path / "t.csv", [5] * 8))


def test_quarters_hold_equally_many_and_ties_stay_together() -> None:
    cases = [Case(f"c{i}", (f"s{i}",), value=float(v)) for i, v in enumerate(range(40))]
    counts = np.unique(list(strata_of(cases).values()), return_counts=True)
    assert counts[0].tolist() == ["quarter 1", "quarter 2", "quarter 3", "quarter 4"]
    assert counts[1].tolist() == [10] * 4
    zeros = [Case(f"c{i}", (f"s{i}",), value=float(max(0, i - 30))) for i in range(40)]
    strata = strata_of(zeros)
    assert len({strata[case.case_id] for case in zeros if case.value == 0}) == 1
    assert len(set(strata.values())) >= 2


def test_few_shot_takes_k_of_each_quarter(tmp_path: Path) -> None:
    kind = kinds.get("regression").load()
    cohort = kind.cohort(CARD, _table(tmp_path / "t.csv", _values(80)))
    episodes, _ = kind.episodes(cohort, "few-shot", {"shots": (1, 4), "draws": 3})
    strata = strata_of(cohort.cases)
    for episode in episodes:
        of_train = [strata[case] for case in episode.train]
        assert len(of_train) == 4 * (episode.k_shot or 0)
        assert {of_train.count(name) for name in set(strata.values())} == {episode.k_shot}
        assert not set(episode.train) & set(episode.test)


def test_folds_spread_the_values(tmp_path: Path) -> None:
    kind = kinds.get("regression").load()
    cohort = kind.cohort(CARD, _table(tmp_path / "t.csv", _values(80)))
    episodes, _ = kind.episodes(cohort, "cv", {"folds": 4})
    strata = strata_of(cohort.cases)
    for episode in episodes:
        sizes = [sum(strata[c] == name for c in episode.test) for name in set(strata.values())]
        assert max(sizes) - min(sizes) <= 1


def _issues(tmp_path: Path, values: list[object], **question: object) -> dict[str, str]:
    asked = Question(_table(tmp_path / "v.csv", values), kind="regression", label_column="age",
                     **question)  # type: ignore[arg-type]  # fmt: skip
    return {f"{i.severity}:{i.check}": i.sentence for i in validate_cohort(asked).issues}


def test_validate_names_outliers(tmp_path: Path) -> None:
    found = _issues(tmp_path, [*_values(), 190.0])
    assert "robust standard deviations" in found["warning:outliers"]
    assert "c040: 190" in found["warning:outliers"]
    assert "warning:outliers" not in _issues(tmp_path, _values())


def test_validate_sees_another_unit(tmp_path: Path) -> None:
    days = [round(365.25 * age, 1) for age in (55.0, 61.5, 70.2)]
    found = _issues(tmp_path, [*_values(), *days])
    assert "years and days" in found["warning:units"]


def test_validate_holds_values_against_the_card(tmp_path: Path) -> None:
    found = _issues(tmp_path, [*_values(), 140.0], plausible=(0.0, 120.0), unit="years")
    assert "outside of 0 to 120 years" in found["error:values"]
    assert "years" in found["note:values"]


def test_validate_sees_words_and_classes_in_disguise(tmp_path: Path) -> None:
    assert "not numbers" in _issues(tmp_path, ["63 y", *_values()])["error:values"]
    assert "classes written" in _issues(tmp_path, [0, 1, 2] * 10)["warning:values"]


def test_validate_says_what_the_site_tells(tmp_path: Path) -> None:
    values: list[object] = [40.0 + 20 * (i % 3) + i / 100 for i in range(60)]
    assert "correlation" in _issues(tmp_path, values)["warning:sites"]
    assert "warning:sites" not in _issues(tmp_path, _values(60))


def test_the_card_of_an_example_is_whole() -> None:
    card = tasks.get("tcga_age").card
    assert card.kind == "regression"
    assert card.plausible == (0.0, 120.0)
    assert set(card.metrics) <= set(kinds.get("regression").card.metrics)
