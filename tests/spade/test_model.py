from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.errors import ConfigError, DataError, WeightsError

K, D, G, P = 4, 12, 20, 8
GENES = tuple(f"gene{i}" for i in range(G))


def _model(experts: Experts, **options: object) -> SpadeModel:
    weights = {e: ExpertPair.create(D, G, P, seed=0, expert=e) for e in range(K)}
    return SpadeModel(ModelInfo(base_encoder="uni"), experts, GENES, weights, **options)


@pytest.fixture
def model(spade_experts: Experts) -> SpadeModel:
    return _model(spade_experts)


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(50, D)).astype(np.float32)


@pytest.fixture
def expression() -> np.ndarray:
    counts = np.random.default_rng(2).poisson(0.5, size=(30, G))
    return np.log1p(counts).astype(np.float32)


def test_soft_encoding_is_the_weighted_sum_of_the_experts(
    model: SpadeModel, features: np.ndarray
) -> None:
    weights = model.route(features)
    heads = np.stack([model.encode(features, expert=e) for e in range(K)], axis=1)
    expected = (weights[:, :, None] * heads).sum(1)
    np.testing.assert_allclose(model.encode(features), expected, atol=1e-4)
    assert weights.shape == (50, K)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    sharp = model.encode(features, tau=1e-5)
    np.testing.assert_allclose(sharp, model.encode(features, routing="hard"), atol=1e-3)
    np.testing.assert_allclose(model.encode(features, "mean"), heads.mean(1), atol=1e-5)
    np.testing.assert_array_equal(model.encode(features, "concat"), heads.reshape(50, K * P))


def test_batches_do_not_matter(
    model: SpadeModel, features: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {r: model.encode(features, r) for r in ("soft", "hard", "mean", "random", "concat")}
    monkeypatch.setattr("spade_bench.encoders.spade.model._BLOCK", 7)
    for routing, expected in whole.items():
        np.testing.assert_allclose(model.encode(features, routing), expected, atol=1e-5)


def test_results_are_of_the_kind_of_the_input(model: SpadeModel, features: np.ndarray) -> None:
    tensor = torch.from_numpy(features)
    for call in (model.encode, model.route):
        out, same = call(features), call(tensor)
        assert isinstance(out, np.ndarray)
        assert out.dtype == np.float32
        assert isinstance(same, torch.Tensor)
        assert not same.requires_grad
        np.testing.assert_array_equal(out, same.numpy())
    # A head may be trained on what comes out.
    layer = torch.nn.Linear(P, 1)
    layer(model.encode(tensor)).sum().backward()
    assert layer.weight.grad is not None
    half = features.astype(np.float16)
    np.testing.assert_array_equal(model.encode(half), model.encode(half.astype(np.float32)))
    half.flags.writeable = False  # as a read-only memory map
    assert model.encode(half).shape == (50, P)
    assert model.encode(features[:0]).shape == (0, P)


def test_global_settings_stay_as_they_were(model: SpadeModel, features: np.ndarray) -> None:
    before = torch.get_float32_matmul_precision(), torch.get_rng_state()
    model.encode(features)
    assert torch.get_float32_matmul_precision() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("bad", [np.zeros((3, D + 1)), np.zeros(D), np.zeros((2, 3, D))])
def test_a_wrong_width_is_one_clear_error(model: SpadeModel, bad: np.ndarray) -> None:
    for call in (model.encode, model.route):
        with pytest.raises(DataError, match=r"this model takes \(n, 12\) features of uni"):
            call(bad)


def test_nan_features_are_refused(model: SpadeModel, features: np.ndarray) -> None:
    features[[3, 9], 0] = np.nan
    with pytest.raises(DataError, match="2 rows"):
        model.encode(features)


def test_expression_is_matched_by_name(
    model: SpadeModel, expression: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = model.encode_expression(expression, GENES, expert=1)
    assert expected.shape == (30, P)
    order = np.random.default_rng(0).permutation(G)
    names = [GENES[i] for i in order]
    for kind in (np.asarray, sparse.csr_matrix, torch.from_numpy):
        got = model.encode_expression(kind(expression[:, order]), names, expert=1)
        assert isinstance(got, torch.Tensor if kind is torch.from_numpy else np.ndarray)
        np.testing.assert_allclose(np.asarray(got), expected, atol=1e-5)
    wider = np.concatenate([expression, np.full((30, 2), 9.0, np.float32)], axis=1)
    got = model.encode_expression(wider, [*GENES, "other", "another"], expert=1)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert capsys.readouterr().err == ""


def test_missing_genes_are_zero_and_counted_once(
    model: SpadeModel, expression: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    without = expression.copy()
    without[:, [2, 5, 7]] = 0
    expected = model.encode_expression(without, GENES, expert=0)
    rest = [i for i in range(G) if i not in {2, 5, 7}]
    for _ in range(2):
        got = model.encode_expression(expression[:, rest], [GENES[i] for i in rest], expert=0)
        np.testing.assert_allclose(got, expected, atol=1e-5)
    said = capsys.readouterr().err
    assert said.count("3 of 20 panel genes are missing") == 1


def test_gene_names_that_cannot_be_right(model: SpadeModel, expression: np.ndarray) -> None:
    with pytest.raises(DataError, match="None of the 20 panel genes"):
        model.encode_expression(expression, [f"ENSG{i}" for i in range(G)], expert=0)
    with pytest.raises(DataError, match="more than once"):
        model.encode_expression(expression, ["gene0", *GENES[:-1]], expert=0)
    with pytest.raises(DataError, match="19 gene names"):
        model.encode_expression(expression, GENES[:-1], expert=0)


@pytest.mark.parametrize("routing", ["soft", "hard", "mean"])
def test_scores_see_every_candidate_in_the_querys_space(
    model: SpadeModel, features: np.ndarray, expression: np.ndarray, routing: str
) -> None:
    got = model.score(features, expression, GENES, routing=routing)
    weights = model.route(features, routing)
    expected = np.zeros((50, 30))
    for e in range(K):  # every row on its own, so that none can see another
        images = [model.encode(features[i : i + 1], expert=e)[0] for i in range(50)]
        spots = [model.encode_expression(expression[j : j + 1], GENES, e)[0] for j in range(30)]
        for i, image in enumerate(images):
            for j, spot in enumerate(spots):
                expected[i, j] += weights[i, e] * (image @ spot)
    np.testing.assert_allclose(got, expected, atol=1e-3)
    # The candidates' own images play no part.
    part = model.score(features[:3], expression, GENES, routing=routing)
    np.testing.assert_allclose(part, got[:3], atol=1e-4)


def test_an_image_only_model(spade_experts: Experts, features: np.ndarray) -> None:
    pairs = [ExpertPair.create(D, G, P, seed=0, expert=e) for e in range(K)]
    weights = {e: ExpertPair(pair.image, None) for e, pair in enumerate(pairs)}
    model = SpadeModel(ModelInfo(), spade_experts, (), weights)
    assert model.genes == ()
    assert not [name for name in model.heads[0] if name.startswith("spot")]
    assert model.encode(features).shape == (50, P)
    with pytest.raises(WeightsError, match="no gene side"):
        model.encode_expression(np.zeros((1, 0), np.float32), (), 0)


def test_a_partly_trained_model(spade_experts: Experts, features: np.ndarray) -> None:
    weights = {e: ExpertPair.create(D, G, P, seed=0, expert=e) for e in (1, 3)}
    model = SpadeModel(ModelInfo(), spade_experts, GENES, weights)
    assert model.encode(features, expert=3).shape == (50, P)
    assert model.route(features).shape == (50, K)
    with pytest.raises(WeightsError, match="Experts 0, 2 have not been trained"):
        model.encode(features)
    with pytest.raises(WeightsError, match="Experts 2 have"):
        model.encode(features, expert=2)
    with pytest.raises(ConfigError, match=r"Expert 4 is not among 0\.\.3"):
        model.encode(features, expert=4)


def test_bfloat16_heads_and_float32_gate(spade_experts: Experts, features: np.ndarray) -> None:
    exact, low = _model(spade_experts), _model(spade_experts, precision="bf16")
    np.testing.assert_array_equal(exact.route(features), low.route(features))
    a, b = exact.encode(features), low.encode(features)
    assert 0 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.02


def test_weights_must_fit(spade_experts: Experts) -> None:
    good = {e: dict(ExpertPair.create(D, G, P, seed=0, expert=e).state_dict()) for e in range(K)}

    def build(weights: dict[int, dict[str, torch.Tensor]]) -> SpadeModel:
        return SpadeModel(ModelInfo(), spade_experts, GENES, weights)

    with pytest.raises(WeightsError, match="at least one"):
        build({})
    missing = {**good, 2: {k: v for k, v in good[2].items() if k != "spot.fc.bias"}}
    with pytest.raises(WeightsError, match=r"expert 2: missing keys: spot\.fc\.bias"):
        build(missing)
    extra = {**good, 1: good[1] | {"image.gate": torch.zeros(1)}}
    with pytest.raises(WeightsError, match=r"unexpected keys: image\.gate"):
        build(extra)
    wide = {e: dict(ExpertPair.create(D + 1, G, P, seed=0, expert=e).state_dict()) for e in good}
    with pytest.raises(WeightsError, match="do not fit heads of width 13"):
        build(wide)
