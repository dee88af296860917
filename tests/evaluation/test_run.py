"""A run from files to results: resume, controls, failures, honesty about what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import request_of

from spade_bench.cohorts.contamination import contamination
from spade_bench.errors import DataError, PluginError, UserError
from spade_bench.evaluation import EvaluationRequest, RunSummary, run
from spade_bench.evaluation.cells import fit_seed
from spade_bench.evaluation.request import EncoderRequest, resolve_task
from spade_bench.evaluation.resolve import resolve
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.heads._pooled import PooledHead
from spade_bench.results import ResultStore, read_predictions
from spade_bench.statistics.metrics import score
from spade_bench.types import Episode, TaskCard


def _ask(study: Any, out: Path, **changes: Any) -> EvaluationRequest:
    usual: dict[str, Any] = {
        "shots": (1, 4),
        "draws": 2,
        "set": {"abmil": {"hidden": 16, "attention": 8, "min_steps": 40, "epochs": 5}},
    }
    return request_of(study, out, **{**usual, **changes})


def _rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_rows_predictions_and_episodes_are_stored(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(_ask(study, out, controls=False, heads=("logistic", "abmil")))
    assert (summary.done, summary.failed) == (8, 0)
    rows = ResultStore(out).rows()
    assert {(r.head, r.k_shot, r.draw) for r in rows} == {
        (head, k, d) for head in ("logistic", "abmil") for k in (1, 4) for d in (0, 1)
    }
    assert len(list((out / "episodes").glob("*.json"))) == 1
    stored = json.loads(next((out / "episodes").glob("*.json")).read_text())
    hashes = {(e["k_shot"], e["draw"]): e["hash"] for e in stored["episodes"]}
    for row in rows:
        assert row.flags == ("unregistered", "contamination:unknown")
        assert row.n == {"train": 2 * (row.k_shot or 0), "test": 20, "events": None, "pool": 10}
        assert row.inputs["episode"] == hashes[row.k_shot, row.draw]
        told = read_predictions(out, row.run_id)
        assert list(told.case_ids) == stored["test_sets"][0]
        assert score(list(row.metrics), told.target, told.scores) == dict(row.metrics)


def test_again_skips_everything_and_more_draws_only_add(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(_ask(study, out, controls=False))
    before = (out / "results.jsonl").read_bytes()
    summary = run(_ask(study, out, controls=False))
    assert (summary.done, summary.skipped) == (0, 4)
    assert (out / "results.jsonl").read_bytes() == before
    more = run(_ask(study, out, controls=False, draws=3, shots=(1, 2, 4)))
    assert (more.done, more.skipped) == (5, 4)


def test_same_numbers_elsewhere_other_numbers_with_other_seed(study: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(_ask(study, tmp_path / name, controls=False, heads=("logistic", "abmil"), seed=seed))
    first, second, other = (
        {r["run_id"]: r["metrics"] for r in _rows(tmp_path / name)} for name in "abc"
    )
    assert first == second
    assert not set(first) & set(other)


def test_settings_of_a_head_enter_the_run_id(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(_ask(study, out, controls=False))
    changed = run(_ask(study, out, controls=False, set={"logistic": {"C": 0.1}}))
    assert changed.done == 4


def test_controls_of_a_plain_encoder(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(_ask(study, out))
    flags = {(r["encoder"], *r["flags"]) for r in _rows(out)}
    assert flags == {
        ("mine", "unregistered", "contamination:unknown"),
        ("mine", "control:permuted-labels", "unregistered", "contamination:unknown"),
        (
            "mine+random256",
            *("control:random-projection", "unregistered", "contamination:unknown"),
        ),
    }


def test_controls_of_an_encoder_on_a_base(
    study: Any, half: str, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    task = resolve_task("my_task", study.table, None)
    run(_ask(study, out, encoders=(EncoderRequest(half, half, weights),), tasks=(task,)))
    controls = {
        (r["encoder"], flag) for r in _rows(out) for flag in r["flags"] if "control" in flag
    }
    assert controls == {
        ("half", "control:permuted-labels"),
        ("mine", "control:base"),
        ("mine+pca6", "control:pca"),
        ("half-k1", "control:k1"),
        ("mine+random6", "control:random-projection"),
    }
    assert {r["inputs"].get("base") for r in _rows(out) if r["encoder"] == "half"} == {"mine"}
    by_name = {(r["encoder"], r["draw"], r["k_shot"]): r for r in _rows(out)}
    # One set of episodes for all of them, and encoders that really differ.
    assert len({r["inputs"]["episode"] for r in _rows(out)}) == 4
    assert by_name["half", 0, 4]["metrics"] != by_name["mine", 0, 4]["metrics"]


def test_base_asked_for_by_name_is_no_control(
    study: Any, half: str, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    encoders = (EncoderRequest(half, half, weights), EncoderRequest("mine", "mine"))
    run(_ask(study, out, encoders=encoders))
    assert not any("control:base" in r["flags"] for r in _rows(out))
    assert sum(r["encoder"] == "mine" and len(r["flags"]) == 2 for r in _rows(out)) == 4


def test_permuted_labels_are_at_chance_over_many_draws(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(_ask(study, out, draws=60, shots=(4,)))
    rows = [r for r in _rows(out) if r["encoder"] == "mine"]
    real = [r["metrics"]["auroc"] for r in rows if "control:permuted-labels" not in r["flags"]]
    null = [r["metrics"]["auroc"] for r in rows if "control:permuted-labels" in r["flags"]]
    standard_error = np.std(null, ddof=1) / np.sqrt(len(null))
    assert abs(np.mean(null) - 0.5) < 3 * standard_error
    assert np.mean(real) > 0.5 + 6 * standard_error


def test_missing_slides_stop_the_run_unless_allowed(study: Any, tmp_path: Path) -> None:
    gone = study.features / "case001-s0.h5"
    gone.unlink()
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"47 of 48.*case001-s0.*--allow-missing"):
        run(_ask(study, out))
    run(_ask(study, out, allow_missing=True, controls=False))
    rows = _rows(out)
    assert all("missing-slides" in r["flags"] for r in rows)
    episodes = next((out / "episodes").glob("*.json")).read_text()
    assert "case001" not in episodes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((3, 12), np.nan), "3 of 3 rows are NaN"),
        (np.ones((3, 5)), "5 wide, others 12"),
    ],
)
def test_unusable_slides_are_named(
    study: Any, tmp_path: Path, bad: np.ndarray, message: str
) -> None:
    from spade_bench.features.bags import write_features

    write_features(study.features / "case002-s0.h5", bad, slide_id="case002-s0", encoder="mine")
    with pytest.raises(DataError, match=message) as caught:
        run(_ask(study, tmp_path / "out"))
    assert "case002-s0" in str(caught.value)


def test_a_failing_cell_is_recorded_and_the_rest_go_on(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fit = PooledHead.fit_predict

    def fragile(self: Any, bags: Any, fits: Any, n_outputs: int) -> Any:
        if any(f.seed == culprit for f in fits):
            raise RuntimeError("out of luck")
        return fit(self, bags, fits, n_outputs)

    culprit = fit_seed(0, Episode("few-shot", (), (), k_shot=4, draw=1))
    monkeypatch.setattr(PooledHead, "fit_predict", fragile)
    summary = run(_ask(study, out, controls=False))
    assert (summary.done, summary.failed) == (3, 1)
    failed = [r for r in _rows(out) if r["status"] == "failed"]
    assert [(r["k_shot"], r["draw"]) for r in failed] == [(4, 1)]
    assert "out of luck" in failed[0]["error"]
    monkeypatch.setattr(PooledHead, "fit_predict", fit)
    assert run(_ask(study, out, controls=False)).done == 1
    assert all(r.status == "ok" for r in ResultStore(out).rows())


def test_simulated_and_contamination_flags(study: Any, tmp_path: Path) -> None:
    text = study.table.read_text().splitlines()
    study.table.write_text(
        "\n".join([text[0] + ",simulated", *(line + ",1" for line in text[1:])]) + "\n"
    )
    out = tmp_path / "out"
    run(_ask(study, out, controls=False))
    assert all("simulated" in r["flags"] for r in _rows(out))
    card = TaskCard("t", "classification", "t", "c", sources=("TCGA",))
    assert contamination(("TCGA-COAD",), card, False) == ("contamination:TCGA",)
    assert contamination(("ImageNet",), card, False) == ()
    assert contamination(None, card, False) == ("contamination:unknown",)
    assert contamination(("TCGA",), card, True) == ()
    assert contamination(("TCGAX",), card, False) == ()


def test_dry_run_writes_nothing(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary: RunSummary = run(_ask(study, out, dry_run=True))
    assert not out.exists()
    assert sum(row[4] for row in summary.planned) == 4 * (1 + 5 + 1)


def test_a_dry_run_fails_where_the_run_would(study: Any, tmp_path: Path) -> None:
    """One encoder of two has no features: the other one's cells are planned all the same."""
    encoders = (EncoderRequest("mine", "mine"), EncoderRequest("resnet50", "resnet50"))
    summary = run(_ask(study, tmp_path / "out", encoders=encoders, dry_run=True))
    assert summary.planned
    assert "resnet50" in summary.first_error


def test_registered_encoder_refuses_other_features(study: Any, tmp_path: Path) -> None:
    request = _ask(study, tmp_path / "o", encoders=(EncoderRequest("resnet50", "resnet50"),))
    with pytest.raises(DataError, match="resnet50"):
        run(request)


def test_tasks_are_resolved_or_explained(study: Any, tmp_path: Path) -> None:
    assert resolve_task("crc_braf", study.table, None).card.kind == "biomarker"
    with pytest.raises(PluginError, match="crc_braf"):
        resolve_task("crc_braff", None, None)
    survival = tmp_path / "s.csv"
    survival.write_text("case_id,slide_id,event,duration_days\na,1,1,30\n")
    assert resolve_task("mine", survival, None).card.kind == "survival"
    assert resolve_task("tcga_brca_survival", survival, None).card.endpoint == "PFI"
    with pytest.raises(UserError, match="make demo"):
        resolve_task("crc_braf", None, None)
    card = tmp_path / "card.yaml"
    card.write_text(
        "name: mine\nkind: classification\ntitle: T\ncohort: c\nclasses: [normal, tumor]\n"
    )
    assert resolve_task(str(card), study.table, None).card.classes == ("normal", "tumor")


def test_classes_of_a_card_are_enforced(study: Any, tmp_path: Path) -> None:
    task = resolve_task("crc_braf", study.table, None)
    with pytest.raises(DataError, match=r"unknown label value.*normal, tumor"):
        run(_ask(study, tmp_path / "o", tasks=(task,)))


def test_flags_are_checked_by_name(study: Any, tmp_path: Path) -> None:
    settings = EvaluationSettings(
        encoders=("x=mine",),
        tasks=("my_task",),
        tables={"*": study.table},
        features={"*": study.features},
        heads=("logistic",),
        shots=(1,),
        set={"logistc": {"C": 2}},
        out=tmp_path,
    )
    with pytest.raises(UserError, match="logistic"):
        resolve(settings, None)
    settings = replace(settings, set={"logistic": {"C": 2}})
    request = resolve(settings, None)
    assert request.encoders == (EncoderRequest("mine", "x"),)
    assert request.settings.set == {"logistic": {"C": 2}}
    with pytest.raises(UserError, match="--encoder"):
        resolve(replace(settings, encoders=()), None)


@pytest.mark.parametrize("allow_missing", [False, True])
def test_a_damaged_feature_file_is_named_and_is_no_missing_one(
    allow_missing, study, tmp_path
) -> None:
    for slide in ("case003-s0", "case004-s0"):
        (study.features / f"{slide}.h5").write_bytes(b"junk")
    with pytest.raises(DataError) as refused:
        run(_ask(study, tmp_path / "o", allow_missing=allow_missing))
    said = str(refused.value)
    assert said.startswith(str(study.features / "case003-s0.h5"))
    assert "; 1 more cannot be read: case004-s0.h5" in said
    assert "move it out of the folder" in said
    assert "--allow-missing" in said
    for slide in ("case003-s0", "case004-s0"):
        (study.features / f"{slide}.h5").unlink()
    assert run(_ask(study, tmp_path / "o", allow_missing=True)).failed == 0
