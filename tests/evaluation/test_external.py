"""`--protocol external` as people type it: two cohorts, each with a table and features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_main
from sklearn.linear_model import LogisticRegression

from spade_bench.features.bags import read_bag, write_features
from spade_bench.results import ResultStore, Row, read_predictions


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _cohorts(study: Any, other: Any) -> list[str]:
    return [
        *("--table", str(study.table), "--features", f"mine={study.features}"),
        *("--test-table", str(other.table), "--test-features", f"mine={other.features}"),
        *("--task", "lung", "--protocol", "external", "--device", "cpu", "--out", "o"),
    ]


def _pooled(study: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Cases of a study, the mean of their patches, and their classes."""
    slides: dict[str, list[str]] = {}
    label: dict[str, int] = {}
    for line in study.table.read_text().splitlines()[1:]:
        case, slide, name = line.split(",")
        slides.setdefault(case, []).append(slide)
        label[case] = int(name == "tumor")
    bags = [
        np.concatenate([read_bag(study.features / f"{s}.h5").features for s in own])
        for own in slides.values()
    ]
    mean = np.array([bag.mean(axis=0, dtype=np.float64) for bag in bags])
    return list(slides), mean, np.array(list(label.values()))


def test_it_is_a_model_of_one_cohort_applied_to_the_other(study: Any, other_study: Any) -> None:
    given = _cohorts(study, other_study)
    assert run_main("run", "--encoder", "mine", *given, "--no-controls") == 0
    (row,) = ResultStore(Path("o")).rows()
    told = read_predictions(Path("o"), row.run_id)
    cases, x, y = _pooled(other_study)
    assert (row.n["train"], row.n["test"], list(told.case_ids)) == (40, 24, cases)
    assert told.target.tolist() == y.tolist()
    _, train, label = _pooled(study)
    mean, scale = train.mean(axis=0), (train - train.mean(axis=0)).std()
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit((train - mean) / scale, label)
    want = model.predict_proba((x - mean) / scale)
    assert np.allclose(told.scores, want, atol=1e-5)


def test_chains_controls_repeats_and_reports(
    study: Any,
    other_study: Any,
    half: str,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [*_cohorts(study, other_study), "--repeats", "2"]
    encoders = ["--encoder", "mine", "--encoder", half, "--weights", f"{half}={weights}"]
    assert run_main("run", *encoders, *given) == 0
    rows = ResultStore(Path("o")).rows()
    assert {row.status for row in rows} == {"ok"}
    controls = {flag for row in rows for flag in row.flags if flag.startswith("control:")}
    assert controls == {
        f"control:{name}" for name in ("permuted-labels", "pca", "k1", "random-projection")
    }
    for row in rows:
        tested = read_predictions(Path("o"), row.run_id).case_ids
        assert all(case.startswith("other") for case in tested)
    capsys.readouterr()
    assert run_main("report", "o", "--json", "--no-plots") == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    main_row = next(r for r in found if r["encoder"] == "mine" and r["metric"] == "auroc"
                    and not any(f.startswith("control:") for f in r["flags"]))  # fmt: skip
    assert (main_row["protocol"], main_row["k_shot"]) == ("external", None)
    assert (main_row["n_cases"], main_row["n_draws"]) == (24, 2)
    assert main_row["mean"] > 0.7
    assert run_main("compare", "o", "--a", half, "--b", "mine", "--json", "--no-plots") == 0
    (auroc,) = (d for d in json.loads(capsys.readouterr().out)["differences"]
                if d["metric"] == "auroc")  # fmt: skip
    assert (auroc["protocol"], auroc["n_cases"], auroc["n_draws"]) == ("external", 24, 2)


def test_survival_goes_from_one_cohort_to_the_other(survival: Any, tmp_path: Path) -> None:
    lines = survival.table.read_text().splitlines()
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("\n".join(lines[:41]) + "\n")
    second.write_text("\n".join([lines[0], *lines[41:]]) + "\n")
    given = ["--table", str(first), "--test-table", str(second), "--features"]
    given += [str(survival.features), "--no-controls", "--device", "cpu", "--out", "o"]
    # With another table to test on, external is the default.
    assert run_main("run", "--encoder", "mine", "--task", "os", *given) == 0
    (row,) = ResultStore(Path("o")).rows()
    assert (row.protocol, row.n["train"], row.n["test"]) == ("external", 40, 20)
    assert (row.metrics["c_index"] or 0) > 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no test table", "nothing to test on"),
        ("no test features", "missing"),
        ("unknown class", "unknown label value"),
    ],
)
def test_mistakes_exit_2_with_one_line(
    study: Any, other_study: Any, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*_cohorts(study, other_study), "--no-controls"]
    if change == "no test table":
        at = given.index("--test-table")
        del given[at : at + 4]
    elif change == "no test features":
        at = given.index("--test-features")
        del given[at : at + 2]
    else:
        text = other_study.table.read_text().replace(",tumor", ",tumour")
        other_study.table.write_text(text)
    assert run_main("run", "--encoder", "mine", *given) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(printed) == 1
    assert message in printed[0]
    assert not Path("o/results.jsonl").exists()


def _renamed(study: Any, folder: Path, barcode: str, encoder: str) -> tuple[Path, Path]:
    """A copy of a study whose cases have other names, with features of another encoder."""
    cases: dict[str, str] = {}
    lines = ["case_id,slide_id,label"]
    for line in study.table.read_text().splitlines()[1:]:
        case, slide, label = line.split(",")
        name = cases.setdefault(case, barcode.format(len(cases)))
        label = "LUSC" if label == "tumor" else "LUAD"
        lines.append(f"{name},{name}-{slide},{label}")
        write_features(
            folder / f"{name}-{slide}.h5",
            np.resize(read_bag(study.features / f"{slide}.h5").features, (4, 384)),
            slide_id=f"{name}-{slide}",
            encoder=encoder,
        )
    table = folder / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return table, folder


@pytest.mark.parametrize(
    ("barcode", "flags"),
    [
        ("TCGA-AB-{:04d}", {"contamination:TCGA"}),
        ("C3L-{:05d}", set()),
        ("ours{}", {"contamination:unknown"}),
    ],
)
def test_the_ledger_knows_the_cohort_to_test_on(
    study: Any, other_study: Any, tmp_path: Path, barcode: str, flags: set[str]
) -> None:
    encoder = "kaiko-vits16"
    own = _renamed(study, tmp_path / "cptac", "C3N-{:05d}", encoder)
    other = _renamed(other_study, tmp_path / "test", barcode, encoder)
    given = ["--table", str(own[0]), "--features", str(own[1]), "--device", "cpu", "--out", "o"]
    given += ["--test-table", str(other[0]), "--test-features", str(other[1]), "--no-controls"]
    arguments = ["--encoder", encoder, "--task", "cptac_lung", "--protocol", "external", *given]
    assert run_main("run", *arguments) == 0
    (row,) = ResultStore(Path("o")).rows()
    assert _contamination(row) == flags


def _contamination(row: Row) -> set[str]:
    return {flag for flag in row.flags if flag.startswith("contamination:")}
