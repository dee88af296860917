"""Heads of expression: every one by itself, ridge against the plain way, retrieval by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from command_line import run_main
from toy_pretraining import DIM, GENES

from spade_bench.doctor import check_spot_head
from spade_bench.errors import ConfigError
from spade_bench.heads.spots import SpotFit, SpotHead, SpotOptions, SpotTask, spot_head
from spade_bench.heads.spots.hestridge import HestRidgeConfig
from spade_bench.heads.spots.ridge import RidgeConfig, inner_groups, inner_scores
from spade_bench.registry import expression_heads, head_card, heads, kinds
from spade_bench.types import HeadCard

NAMES = expression_heads.names()


class Near:
    """A joint space in which spot i is nearest to patch i, then those after it."""

    def __init__(self, m: int, n: int) -> None:
        self.m, self.n = m, n

    def nearest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, self.n)
        index = (np.arange(self.m)[:, None] + np.arange(k)) % self.n
        return np.broadcast_to(1.0 - 0.1 * np.arange(k), index.shape), index


def fold(
    patients: tuple[int, ...] = (0, 0, 1, 2), n: int = 50, d: int = 20, seed: int = 0
) -> SpotTask:
    rng = np.random.default_rng(seed)
    towards = rng.normal(size=(d, 6))
    sections = len(patients)
    x = rng.normal(size=(n * sections, d)) * rng.uniform(0.1, 3, d)
    x[:, -1] = 2.0  # a feature that says nothing
    y = np.maximum(x @ towards + rng.normal(0, 4, (len(x), 6)), 0)
    y[:, 5] = 1.0  # a gene that does not vary
    u = rng.normal(size=(30, d))
    return SpotTask(
        train=x.astype(np.float32),
        target=y.astype(np.float32),
        section=np.repeat(np.arange(sections), n),
        patient=np.repeat(patients, n),
        coords=rng.uniform(0, 100, (len(x), 2)),
        test=u.astype(np.float32),
        n_test=30,
        joint=Near(30, len(x)),
    )


def made(name: str, **params: Any) -> SpotHead:
    head: SpotHead = expression_heads.get(name).load(SpotOptions(params))
    return head


@pytest.mark.parametrize("name", NAMES)
def test_every_head_predicts_every_gene_of_every_spot(name: str) -> None:
    head, task = made(name), fold()
    found = head.predict(task).predictions
    assert found.shape == (30, 6)
    assert np.isfinite(found).all()
    assert np.array_equal(found, head.predict(task).predictions)
    assert head.params["target"] in {"log1p", "lognorm"}
    assert dict(head.params) == {**head.card.defaults}
    assert head.card.kinds == ("expression",)


@pytest.mark.parametrize("name", NAMES)
def test_built_in_heads_pass_the_check(name: str) -> None:
    findings = check_spot_head(name)
    assert {finding.status for finding in findings} == {"pass"}, findings
    assert run_main("check", "head", name) == 0


def test_the_check_names_what_is_wrong() -> None:
    """A head that looks at the other test spots, and answers for one gene."""
    card = HeadCard("spy", ("expression",), "Peeks.", "spot")
    spot_head(card, HestRidgeConfig)(
        lambda task, settings: SpotFit(np.full((task.n_test, 5), task.test.mean()))
    )
    try:
        failed = {f.check for f in check_spot_head("spy") if f.status == "fail"}
    finally:
        del expression_heads._plugins["spy"]
    assert failed == {"card", "independence of other test spots"}


@pytest.mark.parametrize("name", [n for n in NAMES if made(n).needs == "features"])
def test_the_order_of_training_spots_does_not_matter(name: str) -> None:
    task = fold()
    order = np.random.default_rng(1).permutation(len(task.train))
    mixed = replace(
        task,
        train=task.train[order],
        target=task.target[order],
        section=task.section[order],
        patient=task.patient[order],
        coords=task.coords[order],
    )
    a, b = (made(name).predict(one).predictions for one in (task, mixed))
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "params", [{"target": "raw"}, {"genes": "all"}, {"n_genes": 0}, {"unknown": 1}]
)
def test_settings_out_of_range_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        made(name, **params)


def test_the_kind_has_its_heads() -> None:
    card = kinds.get("expression").card
    assert card.default_head in NAMES
    assert {"hest-ridge", "ridge", "retrieval", "mean"} <= set(NAMES)
    assert all(head_card(name) is not None for name in (*NAMES, *heads.names()))


def plain_scores(task: SpotTask, settings: RidgeConfig) -> np.ndarray:
    """Every width and penalty by itself, with scikit-learn."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    groups, _ = inner_groups(task)
    out = []
    for held in range(groups.max() + 1):
        train, test = groups != held, groups == held
        scaler = StandardScaler().fit(task.train[train].astype(np.float64))
        x, u = (scaler.transform(task.train[at].astype(np.float64)) for at in (train, test))
        y, v = task.target[train].astype(np.float64), task.target[test].astype(np.float64)
        row = []
        for width in settings.widths:
            pca = PCA(min(width, x.shape[1] - 1), svd_solver="full").fit(x)
            for alpha in settings.alphas:
                z = Ridge(alpha, solver="svd").fit(pca.transform(x), y).predict(pca.transform(u))
                r = [np.corrcoef(z[:, g], v[:, g])[0, 1] for g in range(5)]  # not the constant one
                row.append(np.mean(r))
        out.append(row)
    return np.array(out)


@pytest.mark.parametrize("patients", [(0, 0, 1, 2), (0, 0, 0), (0,)])
def test_ridge_in_one_factorisation_equals_every_pair_by_itself(patients: tuple[int, ...]) -> None:
    task = fold(patients)
    settings = RidgeConfig(alphas=(0.5, 30.0, 1000.0), widths=(3, 10, 19))
    found, widths = inner_scores(task, settings)
    assert widths == (3, 10, 19)
    assert found == pytest.approx(plain_scores(task, settings), abs=1e-8)


def test_ridge_predicts_as_scikit_learn_does() -> None:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    task = fold()
    head = made("ridge", alphas=(30.0,), widths=(10,))
    pipe = make_pipeline(StandardScaler(), PCA(10, svd_solver="full"), Ridge(30.0, solver="svd"))
    pipe.fit(task.train.astype(np.float64), task.target.astype(np.float64))
    wanted = pipe.predict(task.test.astype(np.float64))
    assert head.predict(task).predictions == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize(
    ("patients", "groups", "what"),
    [
        ((0, 0, 1, 2), 3, "patients"),
        ((0, 0), 2, "sections"),
        ((0,), 4, "quarters of the section"),
        (tuple(range(20)), 8, "groups of patients"),
    ],
)
def test_inner_folds_leave_patients_out(patients: tuple[int, ...], groups: int, what: str) -> None:
    task = fold(patients)
    found, said = inner_groups(task)
    assert (found.max() + 1, said) == (groups, what)
    if what == "patients":
        assert len({(p, g) for p, g in zip(task.patient, found, strict=True)}) == groups
    if "quarters" in what:  # blocks of the section, all alike in size
        assert np.bincount(found).tolist() == pytest.approx([12.5] * 4, abs=8)


def test_ridge_looks_at_no_test_spot_when_it_chooses() -> None:
    task = fold()
    a = made("ridge").predict(task).selected
    assert a == made("ridge").predict(replace(task, test=task.test * 100 - 7)).selected
    assert a["by"] == "3 patients"


def test_retrieval_is_the_mean_of_the_nearest() -> None:
    task = fold()
    found = made("retrieval", k=3).predict(task).predictions
    assert found[4] == pytest.approx(task.target[4:7].mean(axis=0), abs=1e-6)
    weights = np.exp(-np.array([0.0, 0.1, 0.2]) / 0.5)
    soft = made("retrieval", k=3, weighting="softmax", temperature=0.5).predict(task).predictions
    wanted = weights @ task.target[4:7] / weights.sum()
    assert soft[4] == pytest.approx(wanted, abs=1e-5)
    whole = made("retrieval", k=10_000).predict(task).predictions
    assert whole[0] == pytest.approx(task.target.mean(axis=0), abs=1e-4)


def model(experts: int, genes: int, seed: int = 0) -> Any:
    from spade_bench.encoders.spade.centroids import Experts
    from spade_bench.encoders.spade.experts import ExpertPair
    from spade_bench.encoders.spade.model import SpadeModel
    from spade_bench.encoders.spade.modelfolder import ModelInfo

    rng = np.random.default_rng(seed)
    table = Experts(
        rng.normal(size=(experts, DIM)).astype(np.float32), np.arange(experts), ("",) * experts,
        experts,
    )  # fmt: skip
    pairs = {e: ExpertPair.create(DIM, genes, 8, seed=seed, expert=e) for e in range(experts)}
    info = ModelInfo(base_encoder="toy", tau=0.5)
    return SpadeModel(info, table, [f"G{i}" for i in range(genes)], pairs)


@pytest.mark.parametrize("routing", ["soft", "hard", "random"])
@pytest.mark.parametrize("experts", [1, 3])
def test_the_space_is_searched_by_the_fair_score(experts: int, routing: str) -> None:
    """Patch by patch, spot by spot: the spot is seen by the experts of the patch."""
    from spade_bench.encoders.spade.jointspace import SpadeSpace

    spade = model(experts, GENES)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(9, DIM)).astype(np.float32)
    y = rng.poisson(1.0, (40, GENES)).astype(np.float32)
    genes = [f"G{i}" for i in range(GENES)]
    score, index = SpadeSpace(spade, x, y, genes, routing=routing).nearest(5)
    weights = spade.route(x, routing)
    wanted = np.zeros((9, 40))
    for i in range(9):
        for e in range(experts):
            u = spade.encode(x[i : i + 1], expert=e)[0]
            v = spade.encode_expression(y, genes, e)
            cosine = v @ u / np.linalg.norm(u) / np.linalg.norm(v, axis=1)
            wanted[i] += weights[i, e] * cosine
    best = np.argsort(-wanted, axis=1)[:, :5]
    assert score == pytest.approx(np.take_along_axis(wanted, best, axis=1), abs=1e-5)
    assert np.take_along_axis(wanted, index, axis=1) == pytest.approx(score, abs=1e-5)


def test_columns_of_genes_may_come_in_any_order() -> None:
    from spade_bench.encoders.spade.jointspace import SpadeSpace

    spade = model(2, GENES)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, DIM)).astype(np.float32)
    y = rng.poisson(1.0, (20, GENES)).astype(np.float32)
    genes = [f"G{i}" for i in range(GENES)]
    a = SpadeSpace(spade, x, y, genes).nearest(3)
    b = SpadeSpace(spade, x, y[:, ::-1], genes[::-1]).nearest(3)
    assert a[0] == pytest.approx(b[0], abs=1e-6)


def test_few_spots_with_many_features_are_the_same_regression() -> None:
    """Fewer spots than features go through products of spots; the numbers are those of the rest."""
    task = fold((0, 0, 1), n=20, d=90)
    settings = RidgeConfig(alphas=(0.5, 30.0, 1000.0), widths=(3, 10, 18))
    found, _ = inner_scores(task, settings)
    assert found == pytest.approx(plain_scores(task, settings), abs=1e-7)
