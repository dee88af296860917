"""What expression values are, and that they are never normalised twice."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.errors import DataError
from spade_bench.spatial.scales import TARGET_SUM, lognorm, value_kind


def counts(seed: int = 0, spots: int = 40, genes: int = 60) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(2, 20, size=(spots, 1))
    return sp.csr_matrix(rng.poisson(depth * rng.gamma(0.5, size=genes)).astype(np.float32))


def logged(matrix: sp.csr_matrix, target: float = TARGET_SUM) -> sp.csr_matrix:
    dense = matrix.toarray().astype(np.float64)
    dense *= target / np.maximum(dense.sum(axis=1, keepdims=True), 1e-12)
    return sp.csr_matrix(np.log1p(dense).astype(np.float32))


def test_kinds_are_told_apart() -> None:
    raw = counts()
    shares = raw.multiply(1 / raw.sum(axis=1)).tocsr().astype(np.float32)
    assert value_kind(raw) == "counts"
    assert value_kind(logged(raw)) == "log-normalised"
    assert value_kind(logged(raw, 1e6)) == "log-normalised"
    assert value_kind(sp.csr_matrix(np.log1p(raw.toarray()))) == "log-counts"
    assert value_kind(sp.csr_matrix((shares * TARGET_SUM).astype(np.float32))) == "normalised"
    assert value_kind(shares) == "normalised"
    assert value_kind(sp.csr_matrix(raw.toarray() - raw.toarray().mean())) == "scaled"
    assert value_kind(sp.csr_matrix((3, 4), dtype=np.float32)) == "counts"


def test_a_subset_of_genes_is_still_recognised() -> None:
    part = logged(counts(genes=400))[:, ::3].tocsr()
    assert value_kind(part) == "log-normalised"
    np.testing.assert_array_equal(lognorm(part, "log-normalised").toarray(), part.toarray())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_lognorm_has_the_fixed_total_and_is_done_once(seed: int) -> None:
    raw = counts(seed)
    once = lognorm(raw, value_kind(raw))
    total = np.expm1(once.toarray().astype(np.float64)).sum(axis=1)
    filled = np.asarray(raw.sum(axis=1)).ravel() > 0
    np.testing.assert_allclose(total[filled], TARGET_SUM, rtol=1e-5)
    np.testing.assert_allclose(once.toarray(), logged(raw).toarray(), atol=1e-5)
    twice = lognorm(once, "log-normalised")
    np.testing.assert_allclose(twice.toarray(), once.toarray(), atol=1e-4)


def test_every_kind_ends_at_the_same_values() -> None:
    raw = counts()
    wanted = lognorm(raw, "counts").toarray()
    for given_values, kind in (
        (logged(raw, 1e6), "log-normalised"),
        (sp.csr_matrix(np.log1p(raw.toarray())), "log-counts"),
        (sp.csr_matrix(raw.multiply(1 / raw.sum(axis=1))).astype(np.float32), "normalised"),
    ):
        assert value_kind(given_values) == kind
        np.testing.assert_allclose(lognorm(given_values, kind).toarray(), wanted, atol=2e-4)


def test_scaled_values_are_refused() -> None:
    with pytest.raises(DataError, match="negative"):
        lognorm(sp.csr_matrix(np.array([[-1.0, 2.0]], dtype=np.float32)), "scaled")


def test_empty_spots_stay_empty() -> None:
    raw = counts()
    raw = sp.vstack([raw, sp.csr_matrix((1, raw.shape[1]), dtype=np.float32)]).tocsr()
    assert lognorm(raw, "counts")[-1].nnz == 0
