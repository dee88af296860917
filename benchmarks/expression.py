"""How much faster expression is predicted here than by the plain procedure, on CPU.

Two comparisons, each with equal results. Ridge regression: every width and penalty on every inner
fold, for all genes; plain is scikit-learn's StandardScaler, PCA and Ridge for each of them, and the
correlation of each gene. Retrieval: the nearest of many spots for every patch, and the mean of
their expression; plain is a loop over patches with scikit-learn's cosine_similarity and a sort.
What both need alike, the embedding of the spots, is not timed.

    python benchmarks/expression.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.jointspace import SpadeSpace
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.heads.spots import SpotTask
from spade_bench.heads.spots.ridge import RidgeConfig, inner_groups, inner_scores
from spade_bench.heads.spots.spotretrieval import RetrievalConfig, retrieval


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def make_task(args: argparse.Namespace) -> SpotTask:
    """Spots of several patients whose genes follow some of their features."""
    rng = np.random.default_rng(0)
    n = args.patients * args.spots
    mixing = rng.normal(size=(args.dim, args.dim)) * np.exp(-np.arange(args.dim) / 60)
    x = (rng.normal(size=(n, args.dim)) @ mixing.T).astype(np.float32)  # (n, D)
    towards = rng.normal(size=(args.dim, args.genes)) / np.sqrt(args.dim)
    y = x @ towards + rng.normal(0, 2, (n, args.genes))
    patient = np.repeat(np.arange(args.patients), args.spots)
    return SpotTask(
        train=x, target=y.astype(np.float32), section=patient, patient=patient,
        coords=rng.uniform(0, 1, (n, 2)), test=x[:0], n_test=0,
    )  # fmt: skip


def plain_ridge(task: SpotTask, settings: RidgeConfig) -> np.ndarray:
    """Every width and penalty by itself."""
    groups, _ = inner_groups(task)
    x, y = task.train.astype(np.float64), task.target.astype(np.float64)
    out = []
    for held in range(groups.max() + 1):
        train, test = groups != held, groups == held
        row = []
        for width in settings.widths:
            scaler = StandardScaler().fit(x[train])
            pca = PCA(width, svd_solver="full").fit(scaler.transform(x[train]))
            z, u = (pca.transform(scaler.transform(x[at])) for at in (train, test))
            for alpha in settings.alphas:
                told = Ridge(alpha).fit(z, y[train]).predict(u)
                row.append(np.mean([np.corrcoef(a, b)[0, 1]
                                    for a, b in zip(told.T, y[test].T, strict=True)]))  # fmt: skip
        out.append(row)
    return np.array(out)


def ridge(args: argparse.Namespace) -> dict[str, Any]:
    """Compare the ways to choose width and penalty."""
    task = make_task(args)
    settings = RidgeConfig(widths=tuple(w for w in RidgeConfig.widths if w <= args.dim))
    inner_scores(task, settings)  # warm
    fast, (found, _) = timed(lambda: inner_scores(task, settings))
    slow, wanted = timed(lambda: plain_ridge(task, settings))
    return {
        "spots": len(task.train),
        "dim": args.dim,
        "genes": args.genes,
        "pairs": len(settings.widths) * len(settings.alphas),
        "folds": len(found),
        "ours_s": round(fast, 3),
        "plain_s": round(slow, 3),
        "ratio": round(slow / fast, 1),
        "largest_difference": float(np.abs(found - wanted).max()),
    }


def search(args: argparse.Namespace) -> dict[str, Any]:
    """Compare the ways to find the nearest spots; the plain one on a share of the patches."""
    rng = np.random.default_rng(0)
    table = Experts(np.zeros((1, 64), np.float32), np.zeros(1, np.int64), ("",), 1)
    genes = [f"G{i}" for i in range(200)]
    pair = ExpertPair.create(64, len(genes), args.width, seed=0, expert=0)
    model = SpadeModel(ModelInfo(base_encoder="toy", tau=0.5), table, genes, {0: pair})
    patches = rng.normal(size=(args.queries, 64)).astype(np.float32)
    expression = rng.poisson(1.0, (args.candidates, len(genes))).astype(np.float32)
    space = SpadeSpace(model, patches, expression, genes)
    target = rng.normal(size=(args.candidates, args.genes)).astype(np.float32)
    none = np.empty((0, 0), np.float32)
    task = SpotTask(
        train=none, target=target, section=np.zeros(0, np.int64), patient=np.zeros(0, np.int64),
        coords=np.zeros((0, 2)), test=none, n_test=args.queries, joint=space,
    )  # fmt: skip
    settings = RetrievalConfig()
    fast, found = timed(lambda: retrieval(task, settings).predictions)
    image = np.asarray(model.encode(patches, expert=0))
    spots = np.asarray(model.encode_expression(expression, genes, 0))
    some = range(0, args.queries, max(1, args.queries // args.plain_queries))

    def loop() -> np.ndarray:
        out = []
        for query in some:
            cosine = cosine_similarity(image[query : query + 1], spots)[0]
            out.append(target[np.argsort(-cosine)[: settings.k]].mean(axis=0))
        return np.array(out)

    slow, wanted = timed(loop)
    per_query = slow / len(some)
    return {
        "candidates": args.candidates,
        "patches": args.queries,
        "width": args.width,
        "ours_s": round(fast, 3),
        "plain_s": round(per_query * args.queries, 3),
        "plain_patches_timed": len(some),
        "ratio": round(per_query * args.queries / fast, 1),
        # One of 50 neighbours may change places with an equal one in the last bit.
        "largest_difference": float(np.median(np.abs(found[list(some)] - wanted).max(axis=1))),
    }


def main() -> None:
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--spots", type=int, default=500, help="per patient")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--genes", type=int, default=50)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--plain-queries", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", choices=("ridge", "retrieval"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {"schema": "spade-bench/benchmark/1", "threads": args.threads}
    with threadpool_limits(args.threads):
        if args.only != "retrieval":
            results["ridge"] = ridge(args)
        if args.only != "ridge":
            results["retrieval"] = search(args)
    print(json.dumps(results, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
