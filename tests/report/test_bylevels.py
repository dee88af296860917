"""A metric by level: planted gaps, the interval of the difference, too few, tables read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run_main

import spade_bench as sb
from spade_bench.errors import DataError, UserError
from spade_bench.features.bags import write_features
from spade_bench.report.bylevels import LEAST, as_levels, by_levels
from spade_bench.report.values import Resampler
from spade_bench.results import Predictions
from spade_bench.statistics.metrics import auroc

N = 240


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Cross-validated results in which the men of one hospital are not predicted at all."""
    folder = tmp_path_factory.mktemp("levels")
    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,label,site,sex,age"]
    for i in range(N):
        label, sex = i % 2, "FM"[i // 2 % 2]
        x = rng.normal(size=(4, 6))
        x[:, 0] += (0.0 if sex == "M" else 2.5) * label
        write_features(folder / "features_mine" / f"s{i:03d}.h5", x, slide_id=f"s{i:03d}",
                       encoder="mine")  # fmt: skip
        site = "rare" if i >= N - 6 else f"S{i // 4 % 2}"
        lines.append(f"c{i:03d},s{i:03d},{['no', 'yes'][label]},{site},{sex},{40 + i / 7:.2f}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    sb.evaluate("mine", "t", table=folder / "table.csv", features=folder / "features_mine",
                protocol="cv", folds=4, controls=False, device="cpu",
                out=folder / "runs")  # fmt: skip
    return folder / "runs"


def test_a_gap_is_found_and_is_the_difference_of_pooled_predictions(runs: Path) -> None:
    results = sb.load_results(runs)
    rows = results.by("sex").set_index("level")
    told = results.predictions()
    told = told.assign(sex=["FM"[int(case[1:]) // 2 % 2] for case in told["case_id"]])
    for sex in "FM":
        part = told[told["sex"] == sex]
        label = (part["label"] == "yes").to_numpy().astype(int)
        scores = part[["score:no", "score:yes"]].to_numpy()
        assert rows.loc[sex, "value"] == pytest.approx(auroc(label, scores)[0])
        assert rows.loc[sex, "n_cases"] == N / 2
        assert rows.loc[sex, "base_rate"] == 0.5
    gap = rows.loc["F", "value"] - rows.loc["M", "value"]
    assert rows.loc["F", "difference"] == pytest.approx(gap)
    assert rows.loc["M", "difference"] == pytest.approx(-gap)
    assert rows.loc["F", "ci_low"] > 0.2
    assert rows.loc["F", "p_adjusted"] < 0.05
    assert rows.loc["F", "p_adjusted"] >= rows.loc["F", "p"]


def test_two_levels_are_one_question(runs: Path) -> None:
    first, second = (row for _, row in sb.load_results(runs).by("sex").iterrows())
    assert first["difference"] == -second["difference"]
    assert (first["ci_low"], first["ci_high"]) == (-second["ci_high"], -second["ci_low"])
    assert first["p"] == second["p"] == first["p_adjusted"] == second["p_adjusted"]


def test_cases_without_a_level_are_counted_apart(runs: Path, tmp_path: Path) -> None:
    table = pd.read_csv(runs.parent / "table.csv")
    table.loc[:29, "sex"] = np.nan
    again = table.loc[30:33].assign(slide_id=lambda t: t["slide_id"] + "-B", sex="F")
    again.loc[again.index[0], "sex"] = "X"
    path = tmp_path / "again.csv"
    pd.concat([table, again]).to_csv(path, index=False)
    rows = sb.load_results(runs).by("sex", table=path).set_index("level")
    assert rows.loc["(no value)", "n_cases"] == 30
    several = sum(len(set(of)) > 1 for _, of in pd.read_csv(path)[30:].groupby("case_id")["sex"])
    assert rows.loc["(several values)", "n_cases"] == several > 0
    assert rows["n_cases"].sum() == N
    assert rows.loc["F", "n_cases"] + rows.loc["M", "n_cases"] == N - 30 - several
    assert rows.loc[["(no value)", "(several values)"], "difference"].isna().all()


@pytest.mark.parametrize("odd", ["inf", "ten"])
def test_a_word_among_numbers_is_refused(odd: str) -> None:
    ages = {f"c{i}": str(i) for i in range(40)} | {"odd": odd}
    with pytest.raises(DataError, match=f"1 of 41 values are no numbers among numbers: {odd}"):
        as_levels(ages, "age")


def test_levels_that_tell_nothing_differ_by_nothing(runs: Path) -> None:
    rows = sb.load_results(runs).by("site").set_index("level")
    for site in ("S0", "S1"):
        assert rows.loc[site, "ci_low"] < 0 < rows.loc[site, "ci_high"]
    assert rows.loc["rare", "note"] == f"3 cases of no, fewer than {LEAST}"
    assert np.isnan(rows.loc["rare", "difference"])


def test_numbers_are_cut_into_quarters_and_words_are_not() -> None:
    cut = as_levels({f"c{i}": str(i) for i in range(40)})
    assert sorted(list(cut.values()).count(name) for name in set(cut.values())) == [10] * 4
    stages = {f"c{i}": f"stage {i % 12}" for i in range(40)}
    assert as_levels(stages) == stages
    assert as_levels({"a": "1", "b": "2", "c": "1"}) == {"a": "1", "b": "2", "c": "1"}


def test_quarters_of_an_age_in_the_report(runs: Path) -> None:
    rows = sb.load_results(runs).by("age", metric="balanced_accuracy")
    assert len(rows) == 4
    assert set(rows["metric"]) == {"balanced_accuracy"}
    assert rows["n_cases"].sum() == N


def test_the_interval_covers_no_difference_nineteen_times_in_twenty() -> None:
    """Two levels alike, drawn again and again: the interval of the difference holds zero."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        label = np.arange(120) % 2
        p = 1 / (1 + np.exp(-rng.normal(size=120) - 1.2 * (label - 0.5)))
        ids = tuple(f"c{i}" for i in range(120))
        told = Predictions(ids, ("a", "b"), label, np.stack([1 - p, p], axis=1))
        levels = {case: "xy"[i // 2 % 2] for i, case in enumerate(ids)}
        row = _level(told, levels)
        covered += row.ci_low < 0 < row.ci_high
    assert 52 <= covered <= 60


def _level(told: Predictions, levels: dict[str, str]):
    from spade_bench.report.series import Series
    from spade_bench.results import Row

    row = Row(run_id="r", status="ok", encoder="e", task="t", head="logistic", protocol="external",
              metrics={"auroc": 0.0}, n={"test": len(told.case_ids)}, created_utc="")  # fmt: skip
    one = Series("e", "t", "logistic", "external", None, (), ("auroc",), (row,))
    resampler = Resampler(Path(), n_boot=200, stored={"r": told})
    return by_levels([one], resampler, "sex", {"t": levels})[0]


def test_a_table_can_be_named_and_what_is_missing_is_said(runs: Path, tmp_path: Path) -> None:
    results = sb.load_results(runs)
    with pytest.raises(DataError, match="no table with a column 'stage'"):
        results.by("stage")
    other = tmp_path / "other.csv"
    lines = ["case_id,slide_id,stage", *(f"c{i:03d},s{i:03d},{['I', 'II'][i // 3 % 2]}"
                                         for i in range(N))]  # fmt: skip
    other.write_text("\n".join(lines) + "\n")
    assert set(results.by("stage", table=other)["level"]) == {"I", "II"}
    with pytest.raises(UserError, match="threshold anew"):
        by_levels(results.series, results.resampler, "sex", {}, "sensitivity_at_90_specificity")


def test_the_command(runs: Path, capsys) -> None:
    assert run_main("report", runs, "--by", "sex", "--json", "--no-plots") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["by"] == "sex"
    assert {row["level"] for row in content["rows"]} == {"F", "M"}
    assert run_main("report", runs, "--by", "sex", "--no-plots") == 0
    assert "level minus the others" in capsys.readouterr().out
    assert run_main("report", runs, "--by", "sex", "--latex") == 2
    assert run_main("report", runs, "--table", "x.csv") == 2
