"""With few cases a class two draws may be the same episode; they must stay two draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_bench.cli.main import main
from spade_bench.report import Resampler, collect, compare
from spade_bench.results import ResultStore

LABEL = np.arange(30) % 2
STRENGTH = {"uni": 2.0, "lite0": 0.5}


def _p(encoder: str, draw: int) -> np.ndarray:
    rng = np.random.default_rng([len(encoder), draw])
    return 1 / (1 + np.exp(-(rng.normal(size=30) + STRENGTH[encoder] * (LABEL - 0.5))))


def _compared(out: Path, capsys: pytest.CaptureFixture[str]) -> dict[Any, dict[str, Any]]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(["compare", str(out), "--a", "uni", "--b", "lite0", "--json", "--no-plots"])
    printed = capsys.readouterr()
    assert done.value.code == 0, printed.err
    found = json.loads(printed.out)["differences"]
    return {(one["k_shot"], one["metric"]): one for one in found}


@pytest.mark.parametrize("alike", [True, False])
def test_draws_of_one_episode_are_counted_each(
    store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], alike: bool
) -> None:
    for encoder in STRENGTH:
        for k in (1, 2):
            for draw in range(2):
                # `store` hashes the test cases alone: both draws of a shot are one episode.
                told = classes(_p(encoder, 0 if alike else draw), LABEL)
                store(tmp_path, {"encoder": encoder, "k_shot": k, "draw": draw}, told)
    episodes = {row.inputs["episode"] for row in ResultStore(tmp_path).rows()}
    assert len(episodes) == 1
    found = _compared(tmp_path, capsys)
    assert {key[0] for key in found} == {1, 2, None}
    assert {one["n_draws"] for one in found.values()} == {2}
    for one in found.values():
        assert all(np.isfinite(one[name]) for name in ("mean", "ci_low", "ci_high", "p"))
        assert one["ci_low"] <= one["mean"] <= one["ci_high"]
    if alike:  # a draw told twice says what it says once
        (single,) = (
            d
            for d in compare(_first_draw(tmp_path), Resampler(tmp_path), "uni", "lite0")
            if (d.k_shot, d.metric) == (1, "auroc")
        )
        twice = found[1, "auroc"]
        assert twice["mean"] == pytest.approx(single.mean)
        assert twice["p"] == pytest.approx(single.p)


def _first_draw(out: Path) -> list[Any]:
    return [
        replace(one, rows=tuple(row for row in one.rows if row.draw == 0)) for one in collect(out)
    ]


def test_only_draws_that_both_have_are_compared(
    store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for encoder, draws in (("uni", (0, 1, 2)), ("lite0", (2,))):
        for draw in draws:
            told = classes(_p(encoder, draw), LABEL)
            store(tmp_path, {"encoder": encoder, "k_shot": 1, "draw": draw}, told)
    found = _compared(tmp_path, capsys)
    assert {one["n_draws"] for one in found.values()} == {1}
    rows = {(row.encoder, row.draw): row for row in ResultStore(tmp_path).rows()}
    resampler = Resampler(tmp_path)
    a, b = (resampler.predictions(rows[name, 2]).scores[:, 1] for name in ("uni", "lite0"))
    auroc = [(score[LABEL == 1, None] > score[LABEL == 0]).mean() for score in (a, b)]
    assert found[1, "auroc"]["mean"] == pytest.approx(auroc[0] - auroc[1])


def test_resamples_too_large_to_keep_are_still_used(
    store: Any, classes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spade_bench.report import values

    store(tmp_path, {"encoder": "uni", "k_shot": 1, "draw": 0}, classes(_p("uni", 0), LABEL))
    (series,) = collect(tmp_path)
    found = []
    for kept in (values._KEPT, 1):
        monkeypatch.setattr(values, "_KEPT", kept)
        monkeypatch.setattr(values, "_KEPT_VALUES", kept)
        found.append(Resampler(tmp_path).interval(series, "brier"))
    assert found[0] == found[1]
    assert found[0] is not None
