"""Scores of expression: known answers, constants, and the interval over patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score

from spade_bench.errors import ConfigError, DataError
from spade_bench.report.spotvalues import gene_scores, spot_scores, units_of
from spade_bench.results import Predictions
from spade_bench.results.spotpredictions import SpotPredictions, spot_bytes, spots_from
from spade_bench.statistics.evaluate import bounds, direction
from spade_bench.statistics.genescores import (
    GENE_METRICS,
    constant_genes,
    gene_values,
    jackknife,
    over_genes,
)

N, G = 40, 5


@pytest.fixture
def fold() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    observed = rng.poisson(3.0, (N, G)).astype(np.float32)  # with ties
    predicted = (observed + rng.normal(0, 2, (N, G))).astype(np.float32)
    return observed, predicted, np.arange(N) % 3


REFERENCE = {
    "pearson": lambda y, z: stats.pearsonr(y, z)[0],
    "spearman": lambda y, z: stats.spearmanr(y, z)[0],
    "r2": r2_score,
    "mae": mean_absolute_error,
}


@pytest.mark.parametrize("metric", REFERENCE)
def test_each_gene_agrees_with_others(metric, fold) -> None:  # type: ignore[no-untyped-def]
    y, z, section = fold
    wanted = [REFERENCE[metric](y[:, g].astype(float), z[:, g].astype(float)) for g in range(G)]
    assert gene_values(metric, y, z, section) == pytest.approx(wanted, abs=1e-9)


def test_per_sample_is_the_mean_within_sections(fold) -> None:  # type: ignore[no-untyped-def]
    y, z, section = fold
    wanted = [
        np.mean([stats.pearsonr(y[section == s, g], z[section == s, g])[0] for s in range(3)])
        for g in range(G)
    ]
    assert gene_values("pearson_per_sample", y, z, section) == pytest.approx(wanted, abs=1e-6)
    moved = z + 100 * section[:, None]  # what differs between sections alone
    assert gene_values("pearson_per_sample", y, moved, section) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("metric", [m for m in GENE_METRICS if m != "mae"])
def test_a_gene_that_does_not_vary_is_left_out(metric, fold) -> None:  # type: ignore[no-untyped-def]
    y, z, section = fold
    full = gene_values(metric, y, z, section)
    y = y.copy()
    y[:, 2] = 0.1  # not exact in binary
    values = gene_values(metric, y, z, section)
    assert constant_genes(y).tolist() == [False, False, True, False, False]
    assert np.isnan(values[2])
    others = [0, 1, 3, 4]
    assert values[others] == pytest.approx(full[others])
    assert over_genes(values) == pytest.approx(full[others].mean())


def test_one_constant_prediction_counts_nothing_and_all_are_undefined(fold) -> None:  # type: ignore[no-untyped-def]
    y, z, section = fold
    z = z.copy()
    z[:, 1] = 4.0
    assert gene_values("pearson", y, z, section)[1] == 0.0
    z[:] = 4.0
    assert np.isnan(gene_values("pearson", y, z, section)).all()
    assert np.isnan(over_genes(gene_values("spearman", y, z, section)))
    assert np.isfinite(gene_values("mae", y, z, section)).all()


def test_an_unknown_metric_is_refused(fold) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="no metric 'auroc'"):
        gene_values("auroc", *fold)


@pytest.mark.parametrize("metric", GENE_METRICS)
def test_values_lie_within_their_bounds(metric, fold) -> None:  # type: ignore[no-untyped-def]
    low, high = bounds(metric)
    values = gene_values(metric, *fold)
    assert ((values >= low) & (values <= high)).all()
    assert direction(metric) == (-1 if metric == "mae" else 1)


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    x = np.random.default_rng(1).normal(0.4, 0.2, 7)
    found = jackknife(x.mean(), [np.delete(x, i).mean() for i in range(7)])
    low, high = stats.t.interval(0.95, 6, x.mean(), stats.sem(x))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert np.isnan(jackknife(0.3, [0.3]).low)


def some(sections: dict[str, str], seed: int, genes: int = 4) -> Predictions:
    rng = np.random.default_rng(seed)
    section = np.repeat(np.arange(len(sections)), 30)
    observed = rng.poisson(2.0, (len(section), genes)).astype(np.float32)
    return Predictions.of_spots(
        SpotPredictions(
            genes=tuple(f"G{i}" for i in range(genes)),
            sections=tuple(sections),
            patients=tuple(sections.values()),
            section=section,
            barcodes=tuple(f"b{i}" for i in range(len(section))),
            coords=rng.uniform(0, 1000, (len(section), 2)),
            observed=observed,
            predicted=(observed + rng.normal(0, 1.5, observed.shape)).astype(np.float32),
        )
    )


def test_intervals_are_over_patients() -> None:
    folds = [some({"s0": "A", "s1": "A"}, 0), some({"s2": "B"}, 1), some({"s3": "C"}, 2)]
    assert units_of(folds) == (("A", "B", "C"), "patients")
    scores = spot_scores(folds, "pearson", 200, 0)
    f = scores.folds
    assert scores.without == pytest.approx([f[1:].mean(), f[[0, 2]].mean(), f[:2].mean()])
    # One patient a fold: drawing patients draws folds.
    assert scores.boot.mean(axis=0).std() == pytest.approx(f.std() / np.sqrt(3), rel=0.2)


def test_a_fold_of_several_patients_is_scored_again_without_each() -> None:
    whole = some({"s0": "A", "s1": "B"}, 0)
    alone = whole.spots
    assert alone is not None
    scores = spot_scores([whole], "pearson", 10, 0)
    rows = alone.of_sections({"s1"})
    wanted = over_genes(
        gene_values("pearson", alone.observed[rows], alone.predicted[rows], alone.section[rows])
    )
    assert scores.without[0] == pytest.approx(wanted)  # without A


def test_sections_stand_for_one_patient() -> None:
    folds = [some({"s0": "A"}, 0), some({"s1": "A"}, 1)]
    assert units_of(folds) == (("s0", "s1"), "sections")


def test_genes_come_best_first_and_constants_are_counted() -> None:
    folds = [some({"s0": "A"}, 0), some({"s1": "B"}, 1), some({"s2": "C"}, 2)]
    spots = folds[0].spots
    assert spots is not None
    spots.observed[:, 3] = 1.0
    scores = gene_scores(folds, "pearson")
    means = [one.interval.mean for one in scores if one.interval]
    assert means == sorted(means, reverse=True)
    by_name = {one.gene: one for one in scores}
    assert (by_name["G3"].constant, by_name["G0"].constant) == (1, 0)
    by_fold = [gene_values("pearson", s.observed, s.predicted, s.section)[3]
               for s in (fold.spots for fold in folds) if s is not None]  # fmt: skip
    assert by_name["G3"].interval is not None
    assert by_name["G3"].interval.mean == pytest.approx(np.nanmean(by_fold))


def test_files_of_predictions_hold_every_bit_and_equal_ones_are_equal() -> None:
    spots = some({"s0": "A", "s1": "B"}, 0).spots
    assert spots is not None
    content = spot_bytes(spots)
    assert content == spot_bytes(spots)
    again = spots_from(content, "here")
    for name in ("section", "coords", "observed", "predicted"):
        assert np.array_equal(getattr(again, name), getattr(spots, name))
    assert (again.genes, again.sections, again.patients) == (
        spots.genes, spots.sections, spots.patients,
    )  # fmt: skip


@pytest.mark.parametrize("damage", [b"", b"no archive", slice(0, 300)])
def test_a_damaged_file_is_one_line(damage) -> None:  # type: ignore[no-untyped-def]
    spots = some({"s0": "A"}, 0).spots
    assert spots is not None
    content = spot_bytes(spots)[damage] if isinstance(damage, slice) else damage
    with pytest.raises(DataError, match="damaged predictions"):
        spots_from(content, "here")


def test_an_archive_that_would_unpickle_is_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, genes=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="damaged predictions"):
        spots_from(buffer.getvalue(), "here")


@pytest.mark.parametrize("metric", GENE_METRICS)
def test_intervals_of_genes_stay_within_what_a_metric_can_be(metric: str) -> None:
    rows = [some({"S0": "A"}, 0), some({"S1": "B"}, 1)]  # two patients: as wide as can be
    lowest, highest = bounds(metric)
    ends = [score.interval for score in gene_scores(rows, metric) if score.interval]
    assert ends
    assert all(lowest <= one.low <= one.mean <= one.high <= highest for one in ends)
