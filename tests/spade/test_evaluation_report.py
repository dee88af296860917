"""The validation report holds what was measured, and says what was not."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import ExpertPair
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.pretraining.validation import validate
from spade_bench.encoders.spade.pretraining.validation.describe import (
    expert_summary,
    routing_summary,
    target_peaks,
)
from spade_bench.encoders.spade.pretraining.validation.partnerranks import DIRECTIONS, METRICS
from spade_bench.errors import DataError

D, G, P, K, N = 10, 15, 8, 3, 60
GENES = tuple(f"G{i}" for i in range(G))


def make_model(k: int = K, tau: float = 1.0) -> SpadeModel:
    centroids = np.random.default_rng(0).normal(size=(k, D)).astype(np.float32)
    pairs = {e: ExpertPair.create(D, G, P, seed=0, expert=e) for e in range(k)}
    info = ModelInfo(base_encoder="toy", tau=tau)
    return SpadeModel(info, Experts(centroids, np.arange(k), ("Breast",) * k, k), GENES, pairs)


def make_spots(model: SpadeModel, splits: dict[str, str]) -> SimpleNamespace:
    """Return spots of N // len(splits) a sample, shaped like the prepared file."""
    rng = np.random.default_rng(1)
    sample = np.repeat(list(splits), N // len(splits))
    x = rng.normal(size=(len(sample), D)).astype(np.float32)
    g = np.log1p(rng.poisson(1.0, size=(len(sample), G))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical(sample),
            "organ": pd.Categorical(np.where(sample == "s0", "Breast", "Skin")),
            "split": pd.Categorical([splits[s] for s in sample], ["train", "val", "test"]),
            "expert": model.route(x, "hard").argmax(axis=1),
        }
    )
    return SimpleNamespace(features=x, expression=sparse.csr_matrix(g), obs=obs, genes=GENES)


def write_training(folder, k: int = K, epochs: int = 4) -> None:
    columns = ["expert", "epoch", "train_loss", "val_loss", "lr", "seconds"]
    with (folder / "training.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        for expert in range(k):
            for epoch in range(1, epochs + 1):
                val = "" if expert == 2 else abs(epoch - 3) + expert
                writer.writerow(
                    {"expert": expert, "epoch": epoch, "train_loss": 5 / epoch}
                    | {"val_loss": val, "lr": 0, "seconds": 1}
                )


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    out = tmp_path_factory.mktemp("spade")
    model = make_model()
    splits = {"s0": "train", "s1": "train", "s2": "val", "s3": "test"}
    spots = make_spots(model, splits)
    write_training(out)
    report = validate(
        model,
        spots,
        k1_model=make_model(1),
        out=out,
        splits=("val", "test"),
        untrained_seeds=3,
        draws=100,
        seed=0,
    )
    return out, report, spots


def test_the_written_json_is_the_returned_report(validated):
    out, report, _ = validated
    assert json.loads((out / "validation.json").read_text()) == json.loads(json.dumps(report))
    assert report["schema"] == "spade-bench/validation/1"


def test_val_and_test_are_reported_with_every_control(validated):
    _, report, _ = validated
    assert list(report["splits"]) == ["val", "test"]
    for part in report["splits"].values():
        assert part["n_spots"] == N // 4
        assert part["n_samples"] == 1
        assert list(part["methods"]) == ["spade", "k1", "untrained", "chance"]
        for direction in DIRECTIONS:
            for metric in METRICS:
                for name in ("spade", "k1"):
                    cell = part["methods"][name][direction][metric]
                    assert cell["low"] <= cell["value"] <= cell["high"]
                cell = part["methods"]["untrained"][direction][metric]
                assert cell["lowest"] <= cell["value"] <= cell["highest"]
                assert cell["seeds"] == 3
            chance = part["methods"]["chance"][direction]
            assert chance["recall@5"]["value"] == pytest.approx(5 / 15)
            assert chance["mean_percentile"]["value"] == 0.5


def test_differences_are_those_of_the_means(validated):
    part = validated[1]["splits"]["test"]
    methods, differences = part["methods"], part["differences"]
    for direction in DIRECTIONS:
        for metric in METRICS:
            for left, right in (("spade", "k1"), ("spade", "untrained"), ("k1", "untrained")):
                gap = differences[f"{left} - {right}"][direction][metric]
                expected = (
                    methods[left][direction][metric]["value"]
                    - methods[right][direction][metric]["value"]
                )
                assert gap["value"] == pytest.approx(expected)
                assert gap["low"] <= gap["value"] <= gap["high"]


def test_a_model_compared_with_itself_differs_by_exactly_nothing(tmp_path):
    model = make_model()
    spots = make_spots(model, {"s0": "train", "s1": "val"})
    report = validate(model, spots, k1_model=model, untrained_seeds=1, draws=50)
    for direction in DIRECTIONS:
        for cell in report["splits"]["val"]["differences"]["spade - k1"][direction].values():
            assert cell == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_experts_are_described(validated):
    _, report, spots = validated
    rows = report["experts"]
    train = spots.obs[spots.obs["split"] == "train"]
    assert [row["n"]["train"] for row in rows] == [
        int((train["expert"] == e).sum()) for e in range(K)
    ]
    assert sum(sum(row["organs"].values()) for row in rows) == len(train)
    assert rows[0]["best_epoch"] == 3
    assert rows[0]["best_val_loss"] == 0
    assert rows[1]["curve"]["train_loss"] == [5, 2.5, pytest.approx(5 / 3), 1.25]
    assert rows[2]["best_epoch"] is None  # no validation spots, no best epoch


def test_routing_entropy_is_right_at_both_ends():
    x = np.random.default_rng(2).normal(size=(30, D)).astype(np.float32)
    sharp = routing_summary(make_model(tau=1e-4), x, np.arange(30))
    flat = routing_summary(make_model(tau=1e6), x, np.arange(30))
    assert sharp["entropy_mean"] == pytest.approx(0, abs=1e-3)
    assert sharp["experts_per_patch"] == pytest.approx(1, abs=1e-3)
    assert flat["entropy_mean"] == pytest.approx(np.log(K), abs=1e-3)
    assert flat["entropy_share_of_log_k"] == pytest.approx(1, abs=1e-3)
    assert sum(flat["usage"]) == pytest.approx(1)
    assert routing_summary(make_model(1), x, np.arange(30))["entropy_share_of_log_k"] == 0


def test_peaks_of_the_soft_targets():
    same = torch.ones(4, P)
    assert target_peaks(same, same, 1.0).tolist() == pytest.approx([0.25] * 4)
    far = 30 * torch.eye(4, P)
    assert target_peaks(far, far, 1.0).tolist() == pytest.approx([1.0] * 4)


def test_the_report_says_how_peaked_the_targets_are(validated):
    targets = validated[1]["soft_targets"]
    assert 0 < targets["median_largest_probability"] <= 1
    assert len(targets["median_by_expert"]) == K


def test_what_chose_the_epochs_is_reported_only_where_nothing_else_is():
    model = make_model()
    both = make_spots(model, {"s0": "train", "s1": "val", "s2": "test"})
    found = validate(model, both, untrained_seeds=1, draws=20)["splits"]
    assert list(found) == ["test"]
    assert not found["test"]["chose_epochs"]
    alone = validate(model, make_spots(model, {"s0": "train", "s1": "val"}), untrained_seeds=1)
    assert alone["splits"]["val"]["chose_epochs"]


def test_a_block_of_a_training_section_is_scored_only_when_that_is_meant():
    model = make_model()
    spots = make_spots(model, {"s0": "train", "s1": "train"})
    inside = np.flatnonzero(spots.obs["sample"] == "s1")[:9]
    split = spots.obs["split"].astype(object)
    split.iloc[inside] = "test"
    spots.obs["split"] = split
    with pytest.raises(DataError, match="in 'test' and in training"):
        validate(model, spots, untrained_seeds=1)
    part = validate(model, spots, blocks=True, untrained_seeds=1)["splits"]["test"]
    assert (part["n_spots"], part["blocks"]) == (9, True)


def test_plots_are_drawn(validated):
    out = validated[0]
    for name in ("losses.png", "percentiles_val.png", "percentiles_test.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


def test_the_table_shows_chance_and_intervals(capsys):
    model = make_model()
    spots = make_spots(model, {"s0": "train", "s1": "val"})
    validate(model, spots, k1_model=make_model(1), untrained_seeds=2, draws=20)
    printed = capsys.readouterr().out
    for word in ("chance", "untrained heads", "K = 1", "spade - k1", "recall@10", "entropy"):
        assert word in printed


def test_nothing_held_out_is_said(capsys):
    model = make_model()
    report = validate(model, make_spots(model, {"s0": "train"}), untrained_seeds=1)
    assert report["splits"] == {}
    assert "no held-out samples" in capsys.readouterr().err


def test_missing_experts_are_said_and_not_scored(capsys):
    full = make_model()
    heads = {e: full.heads[e] for e in (0, 2)}
    model = SpadeModel(full.info, full.experts, GENES, heads)
    report = validate(model, make_spots(full, {"s0": "train", "s1": "val"}), untrained_seeds=1)
    assert report["splits"] == {}
    assert "experts 1 are not trained" in report["not_scored"]
    assert report["soft_targets"]["median_by_expert"][1] is None
    assert "not scored" in capsys.readouterr().err


def test_a_sample_on_both_sides_is_refused():
    model = make_model()
    spots = make_spots(model, {"s0": "train", "s1": "val"})
    spots.obs.loc[spots.obs.index[-1], "split"] = "train"
    with pytest.raises(DataError, match=r"s1.*in training"):
        validate(model, spots, untrained_seeds=1)


def test_samples_of_one_spot_are_left_out_and_named(capsys):
    model = make_model()
    spots = make_spots(model, {"s0": "train", "s1": "val", "s2": "val"})
    keep = (spots.obs["sample"] != "s2").to_numpy()
    keep[-1] = True
    spots.features, spots.expression = spots.features[keep], spots.expression[keep]
    spots.obs = spots.obs[keep]
    report = validate(model, spots, untrained_seeds=1, draws=20)
    assert report["splits"]["val"]["left_out"] == ["s2"]
    assert report["splits"]["val"]["n_samples"] == 1
    assert "s2" in capsys.readouterr().err


def test_experts_without_a_log_have_empty_curves():
    model = make_model()
    spots = make_spots(model, {"s0": "train"})
    rows = expert_summary(spots.obs, K, [])
    assert all(row["curve"]["epoch"] == [] and row["best_epoch"] is None for row in rows)
