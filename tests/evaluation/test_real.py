"""Real slide features with a known difficulty: TCGA lung, published HIPT embeddings."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from command_line import changed, make_request

from spade_bench.errors import DataError
from spade_bench.evaluation import run
from spade_bench.evaluation.request import EncoderRequest, resolve_task
from spade_bench.report import Resampler, collect, leaderboard
from spade_bench.results import ResultStore


def test_lung_subtype_lies_where_it_should(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "tcga_hipt"
    task = resolve_task("tcga_lung_subtype", folder / "tables" / "tcga_lung_subtype.csv", None)
    out = tmp_path / "out"
    summary = run(
        make_request(
            encoders=(EncoderRequest("hipt4k", "hipt4k"),),
            tasks=(task,),
            out=out,
            features={"*": folder / "features_hipt4k"},
            shots=(2, 32),
            draws=10,
            device="cpu",
        )
    )
    assert summary.failed == 0
    rows = leaderboard(collect(out), Resampler(out, n_boot=200))
    found = {(r.encoder, "permuted" in str(r.flags), r.k_shot): r for r in rows
             if r.metric == "auroc"}  # fmt: skip
    # 5-nearest-neighbour on all training cases of ten published folds gives 0.889 +- 0.027.
    best = found["hipt4k", False, 32]
    assert best.mean is not None
    assert 0.78 < best.mean < 0.90
    assert best.n_cases == 431
    few = found["hipt4k", False, 2]
    assert few.mean is not None
    assert 0.5 < few.mean < best.mean
    null = found["hipt4k", True, 32]
    assert null.ci_low is not None
    assert null.ci_high is not None
    assert null.ci_low < 0.5 < null.ci_high


def test_nearest_neighbours_on_published_folds_give_the_authors_figure(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "patho_bench" / "tcga_lung" / "subtype"
    task = resolve_task(f"patho-bench:{folder}", None, None)
    request = make_request(
        encoders=(EncoderRequest("hipt4k", "hipt4k"),),
        tasks=(task,),
        out=tmp_path / "out",
        heads=("knn",),
        set={"knn": {"k": 5}},
        features={"*": shared_data / "tcga_hipt" / "features_hipt4k"},
        controls=False,
        device="cpu",
    )
    with pytest.raises(DataError, match=r"30 case.*TCGA-33-4532.*--allow-leaky-splits"):
        run(request)
    assert run(changed(request, allow_leaky_splits=True)).done == 10
    rows = ResultStore(tmp_path / "out").rows()
    auroc = [row.metrics["auroc"] or 0.0 for row in rows]
    assert statistics.mean(auroc) == pytest.approx(0.889, abs=5e-4)
    assert statistics.stdev(auroc) == pytest.approx(0.027, abs=5e-4)
    assert all("leaky-splits" in row.flags for row in rows)
