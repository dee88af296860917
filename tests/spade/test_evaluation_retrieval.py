"""Retrieval is fair across experts, counts ties fairly and never needs the whole score matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.pretraining.validation import fair_scores, retrieval
from spade_bench.encoders.spade.pretraining.validation.bootstrap import interval, resampled_means
from spade_bench.encoders.spade.pretraining.validation.heldout import untrained_twin
from spade_bench.encoders.spade.pretraining.validation.partnerranks import (
    METRICS,
    chance_values,
    partner_ranks,
)
from spade_bench.errors import DataError

D, G, P, K = 12, 20, 16, 4
GENES = tuple(f"G{i}" for i in range(G))
PERCENTILE = METRICS.index("mean_percentile")


def make_model(centroids: np.ndarray | None = None, *, k: int = K, seed: int = 0) -> SpadeModel:
    """Return untrained experts around the given centroids, one each."""
    if centroids is None:
        centroids = np.random.default_rng(seed).normal(size=(k, D)).astype(np.float32)
    table = Experts(centroids, np.arange(k), ("",) * k, k)
    pairs = {e: ExpertPair.create(D, G, P, seed=seed, expert=e) for e in range(k)}
    return SpadeModel(ModelInfo(base_encoder="toy", tau=1.0), table, GENES, pairs)


def coupled(n: int, seed: int, rank: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return features and expression that share a few latent directions."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, rank))
    x = latent @ rng.normal(size=(rank, D)) + 0.3 * rng.normal(size=(n, D))
    g = np.abs(latent @ rng.normal(size=(rank, G)) + 0.3 * rng.normal(size=(n, G)))
    return x.astype(np.float32), g.astype(np.float32)


def ranks_of(scores: np.ndarray, chunk: int = 1024):
    matrix = torch.from_numpy(scores.astype(np.float32))
    return partner_ranks(lambda a, b: matrix[a:b].clone(), matrix.diagonal(), chunk=chunk)


def test_perfect_and_reversed_scores_sit_at_the_ends():
    best = ranks_of(np.eye(30)).values()
    assert np.all(best[:, :3] == 1)
    assert np.all(best[:, PERCENTILE] == 0)
    worst = ranks_of(-np.eye(30)).values()
    assert np.all(worst[:, :3] == 0)
    assert np.all(worst[:, PERCENTILE] == 1)


def test_a_constant_score_reads_exactly_chance():
    n = 40
    values = ranks_of(np.zeros((n, n))).values()
    np.testing.assert_allclose(values.mean(axis=2), np.tile(chance_values(n), (2, 1)))
    np.testing.assert_allclose(chance_values(n), [1 / n, 5 / n, 10 / n, 0.5])


def test_random_scores_agree_with_the_analytic_chance():
    n, runs = 60, 200
    rng = np.random.default_rng(0)
    means = np.stack([ranks_of(rng.normal(size=(n, n))).values().mean(2) for _ in range(runs)])
    error = means.std(axis=0, ddof=1) / np.sqrt(runs)
    assert np.all(np.abs(means.mean(axis=0) - chance_values(n)) < 4 * error)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_ranks_equal_a_plain_count_whatever_the_chunk(chunk):
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, size=(25, 25)).astype(float)  # many ties
    ranks = ranks_of(scores, chunk)
    for i in range(25):
        row, column = np.delete(scores[i], i), np.delete(scores[:, i], i)
        assert ranks.better[0, i] == (row > scores[i, i]).sum()
        assert ranks.better[1, i] == (column > scores[i, i]).sum()
        assert ranks.ties[0, i] == (row == scores[i, i]).sum()
        assert ranks.ties[1, i] == (column == scores[i, i]).sum()


def test_small_candidate_sets_have_full_recall():
    values = ranks_of(np.random.default_rng(2).normal(size=(5, 5))).values()
    assert np.all(values[:, 1] == 1)
    assert np.all(values[:, 2] == 1)
    assert chance_values(5)[1] == 1


def test_a_single_spot_or_nan_scores_are_refused():
    with pytest.raises(DataError, match="at least two spots"):
        ranks_of(np.zeros((1, 1)))
    scores = np.zeros((4, 4))
    scores[1, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        ranks_of(scores)


@pytest.mark.parametrize("routing", ["soft", "hard", "mean", "random"])
def test_chunked_scores_equal_the_models_own(routing):
    model = make_model()
    x, g = coupled(50, seed=3)
    rows = fair_scores(model, x, g, GENES, routing=routing, chunk=16)
    expected = model.score(x, g, GENES, routing=routing)
    chunked = np.concatenate([rows(a, min(a + 13, 50)).numpy() for a in range(0, 50, 13)])
    np.testing.assert_allclose(chunked, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(rows.pair_scores.numpy(), np.diag(expected), rtol=1e-4, atol=1e-3)


def test_scores_follow_the_formula():
    model = make_model()
    x, g = coupled(9, seed=4)
    weights = model.route(x)
    expected = sum(
        weights[:, [e]] * (model.encode(x, expert=e) @ model.encode_expression(g, GENES, e).T)
        for e in range(K)
    )
    np.testing.assert_allclose(fair_scores(model, x, g, GENES)(0, 9).numpy(), expected, rtol=1e-4)


def test_duplicate_spots_are_ties_in_spite_of_rounding():
    model = make_model()
    x, g = coupled(1, seed=5)
    run = retrieval(model, [("a", np.repeat(x, 300, 0), np.repeat(g, 300, 0))], GENES)
    np.testing.assert_allclose(run.mean(), np.tile(chance_values(300), (2, 1)))


def test_candidates_come_from_the_own_sample_only():
    model = make_model()
    x, g = coupled(40, seed=6)
    joint = retrieval(model, [("a", x[:15], g[:15]), ("b", x[15:], g[15:])], GENES)
    alone = retrieval(model, [("b", x[15:], g[15:])], GENES)
    np.testing.assert_array_equal(joint.values[..., 15:], alone.values)
    np.testing.assert_allclose(joint.chance[0], [1 / 15] * 15 + [1 / 25] * 25)


def test_untrained_heads_score_at_chance():
    """Initialisations differ a lot on coupled data; their mean is chance, within its interval."""
    x, g = coupled(80, seed=7)
    base = make_model()
    seeds = 60
    means = np.stack(
        [retrieval(untrained_twin(base, s), [("a", x, g)], GENES).mean() for s in range(seeds)]
    )
    error = means.std(axis=0, ddof=1) / np.sqrt(seeds)  # (2, 4)
    gap = np.abs(means.mean(axis=0) - chance_values(80))
    assert np.all(gap < 3.5 * error), (gap / error).round(2)
    assert np.all(error[:, PERCENTILE] < 0.03)  # an interval this narrow can tell 0.4 from 0.5


def test_untrained_twins_keep_routing_and_change_heads():
    model, twin = make_model(), untrained_twin(make_model(), 99)
    x, _ = coupled(10, seed=8)
    np.testing.assert_array_equal(model.route(x), twin.route(x))
    assert not np.allclose(model.encode(x), twin.encode(x))
    np.testing.assert_array_equal(twin.encode(x), untrained_twin(model, 99).encode(x))


def own_expert_scores(model: SpadeModel, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The tempting shortcut: each candidate encoded by the expert of its OWN image."""
    pair_scores = model.route(x, "hard").argmax(axis=1)
    spot = np.stack([model.encode_expression(g, GENES, e) for e in range(K)])  # (K, n, P)
    return model.encode(x, "hard") @ spot[pair_scores, np.arange(len(x))].T


def test_encoding_candidates_by_their_own_expert_inflates_and_the_fair_score_does_not():
    """Planted clusters in the images, expression drawn independently: nothing can be retrieved.

    Training leaves each expert's two heads with a common direction of their own; the bias of the
    LayerNorm plays that part here. It is the same for every candidate seen by one expert, so the
    fair score stays at chance, while the shortcut finds the cluster of the query.
    """
    rng = np.random.default_rng(9)
    centres = 6 * rng.normal(size=(K, D)).astype(np.float32)
    model = make_model(centres)
    for expert, tensors in model.heads.items():
        common = torch.from_numpy(np.random.default_rng(expert).normal(size=P)).float()
        for side in ("image", "spot"):
            tensors[f"{side}.layer_norm.bias"].copy_(4 * common)
    fair, shortcut = [], []
    for run in range(40):
        rng = np.random.default_rng(100 + run)
        x = (centres[rng.integers(0, K, 100)] + rng.normal(size=(100, D))).astype(np.float32)
        g = np.log1p(rng.poisson(2.0, size=(100, G))).astype(np.float32)
        fair.append(ranks_of(model.score(x, g, GENES, "hard")).values().mean(axis=2))
        shortcut.append(ranks_of(own_expert_scores(model, x, g)).values().mean(axis=2))
    mean, error = np.mean(fair, axis=0), np.std(fair, axis=0, ddof=1) / np.sqrt(len(fair))
    assert np.all(np.abs(mean - chance_values(100)) < 4 * error), (mean, error)
    inflated = np.mean(shortcut, axis=0)
    assert np.all(inflated[:, PERCENTILE] < 0.25)  # no information at all, and yet
    assert np.all(inflated[:, 2] > 2 * chance_values(100)[2])


def test_resampling_is_paired_and_keeps_strata():
    rng = np.random.default_rng(10)
    values = rng.normal(size=(2, 90))
    strata = np.repeat(["a", "b", "c"], 30)
    means = resampled_means(values, strata, draws=200, seed=1)
    np.testing.assert_array_equal(means, resampled_means(values, strata, draws=200, seed=1))
    shifted = resampled_means(values + 1, strata, draws=200, seed=1)
    np.testing.assert_allclose(shifted - means, 1)
    constant = np.repeat([1.0, 5.0, 9.0], 30)[None]  # varies between strata only
    np.testing.assert_allclose(resampled_means(constant, strata, draws=50, seed=2), 5)


def test_intervals_cover_the_truth_at_their_level():
    rng = np.random.default_rng(11)
    inside = 0
    for run in range(200):
        low, high = interval(resampled_means(rng.normal(size=(1, 100)), ["a"] * 100, 300, run))
        inside += bool(low[0] <= 0 <= high[0])
    assert 178 <= inside <= 199  # 95% of 200 is 190; binomial sd 3
