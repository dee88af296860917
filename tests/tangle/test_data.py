"""Tables, slides of cases, splits and genes."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from spade_bench.encoders.tangle.pretraining.pairs import (
    fit_scale,
    log_expression,
    match_slides,
    read_expression,
    split,
)
from spade_bench.encoders.tangle.pretraining.retrieval import score_retrieval
from spade_bench.encoders.tangle.pretraining.tangleconfig import GeneConfig, SplitConfig
from spade_bench.errors import DataError


def test_csv_and_h5ad_read_alike(tmp_path: Path) -> None:
    table = pd.DataFrame(
        [[1, 2.5], [0, 7]], index=pd.Index(["c1", "c2"], name="case_id"), columns=["A", "B"]
    )
    table.to_csv(tmp_path / "t.csv")
    table.reset_index()[["A", "case_id", "B"]].to_csv(tmp_path / "u.tsv.gz", sep="\t", index=False)
    anndata.AnnData(
        X=table.to_numpy(np.float32),
        obs=pd.DataFrame(index=pd.Index(["c1", "c2"])),
        var=pd.DataFrame(index=pd.Index(["A", "B"])),
    ).write_h5ad(tmp_path / "t.h5ad")
    for name in ("t.csv", "u.tsv.gz", "t.h5ad"):
        found, simulated = read_expression(tmp_path / name)
        assert not simulated
        assert list(found.index) == ["c1", "c2"]
        assert list(found.columns) == ["A", "B"]
        assert np.array_equal(found.to_numpy(), table.to_numpy(np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,A\nc,1\nc,2\n", "stand twice: c"),
        ("case_id,A,B\nc,1,x\n", "no numbers: B"),
        ("case_id,A\nc,\nd,1\n", "missing or infinite"),
    ],
)
def test_unsound_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_expression(tmp_path / "t.csv")


def test_slides_belong_to_the_longest_case_id_at_a_separator() -> None:
    cases = ["TCGA-AA-3662", "TCGA-AA-366", "P1", "P1-2"]
    slides = ["TCGA-AA-3662-01Z-00-DX1.ab", "P1-2-A", "P1_A", "P12", "P1"]
    found = match_slides(cases, dict.fromkeys(slides))
    assert found == {
        "TCGA-AA-3662": ("TCGA-AA-3662-01Z-00-DX1.ab",),
        "TCGA-AA-366": (),
        "P1": ("P1", "P1_A"),
        "P1-2": ("P1-2-A",),
    }
    assert match_slides(["X"], {"s": 1, "t": 1}, {"s": "X", "t": "Y"}) == {"X": ("s",)}


def test_the_split_is_seeded_and_covers_each_case_once() -> None:
    parts = split(50, SplitConfig(0.1, 0.2), 3)
    assert [len(parts[n]) for n in ("train", "val", "test")] == [35, 5, 10]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(50))
    again, other = split(50, SplitConfig(0.1, 0.2), 3), split(50, SplitConfig(0.1, 0.2), 4)
    assert all(np.array_equal(parts[n], again[n]) for n in parts)
    assert not np.array_equal(parts["test"], other["test"])


def test_genes_are_chosen_and_scaled_by_training_cases_only() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 6)).astype(np.float32) * np.array([1, 5, 0, 3, 2, 4], np.float32)
    train = np.arange(12)
    scale, scaled = fit_scale(values, list("abcdef"), train, 3)
    assert scale.genes == ("b", "d", "f")
    np.testing.assert_allclose(scaled[train].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[train].std(axis=0), 1, atol=1e-5)
    changed = values.copy()
    changed[12:] *= 50
    assert fit_scale(changed, list("abcdef"), train, 3)[0].genes == scale.genes
    assert fit_scale(values, list("abcdef"), train, 0)[0].genes == tuple("abdef")  # c never varies


def test_counts_are_scaled_to_a_million_and_logs_are_left() -> None:
    values = np.array([[1, 3], [10, 30]], dtype=np.float32)
    logs = log_expression(values, GeneConfig())
    np.testing.assert_allclose(logs, np.log1p([[2.5e5, 7.5e5]] * 2), rtol=1e-6)
    assert log_expression(-values, GeneConfig(scale="log")) is not None
    with pytest.raises(DataError, match="negative"):
        log_expression(-values, GeneConfig())


def test_retrieval_knows_perfect_chance_and_the_worst() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 8))
    perfect = score_retrieval(x, x)
    assert perfect["percentile"]["mean"] == 1.0
    assert perfect["recall@1"]["mean"] == 1.0
    assert perfect["recall@5"]["chance"] == 5 / 40
    assert perfect["beats_chance"]
    chance = score_retrieval(x, y)
    assert not chance["beats_chance"]
    assert chance["percentile"]["low"] < 0.5 < chance["percentile"]["high"]
    worst = score_retrieval(x, -x)
    assert worst["percentile"]["mean"] == 0.0
    constant = score_retrieval(np.ones((40, 8)), y)  # all candidates tie one way
    assert constant["percentile"]["mean"] == pytest.approx(0.5)


def test_chance_is_beaten_at_the_stated_rate() -> None:
    rng = np.random.default_rng(1)
    found = [score_retrieval(*rng.normal(size=(2, 20, 4)), seed=i)["p"] for i in range(60)]
    assert 0.3 < np.mean(found) < 0.7
    assert np.mean(np.array(found) < 0.05) < 0.2
