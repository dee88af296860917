"""Checks of features and sites, on made and real tables, and the command over all checks."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import typer
from checked_tables import N, bad, check, rows_of, survival_rows, write_table

from spade_bench.cli.validate import validate
from spade_bench.cohorts.checks.featurefiles import Expected
from spade_bench.cohorts.checks.sites import leave_one_out, site_hazard, site_signal
from spade_bench.cohorts.checks.validation import Question, validate_cohort
from spade_bench.cohorts.tables import read_cohort
from spade_bench.errors import DataError
from spade_bench.features import cache
from spade_bench.features.bags import write_features


def _features(folder: Path, n: int = N, dim: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for i in range(n):
        _bag(folder, f"s{i:02d}", rng.normal(size=(3 + i, dim)))
    return folder


def _bag(
    folder: Path, slide: str, values: np.ndarray, encoder: str = "one", **attrs: object
) -> None:
    coords = np.zeros((len(values), 2), dtype=int)
    write_features(
        folder / f"{slide}.h5", values, coords, slide_id=slide, encoder=encoder,
        attrs={"mpp": 0.5} | attrs,
    )  # fmt: skip


def test_clean_features_have_only_notes(tmp_path: Path) -> None:
    found = check(tmp_path, rows_of(), features=_features(tmp_path / "f"))
    assert bad(found) == set()
    texts = {issue.text for issues in found.values() for issue in issues}  # type: ignore[attr-defined]
    assert {
        "24 of 24 slides of the table have a file",
        "features are 8 wide",
        "encoder one",
    } <= texts
    assert "patches at 0.5 µm/px" in texts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nan", "not-finite"), ("overflow", "not-finite"), ("empty", "empty-bags"),
        ("width", "width"), ("mpp", "mixed-mpp"), ("encoder", "mixed-encoders"),
        ("missing", "coverage"), ("broken", "unreadable"), ("coords", "unreadable"),
    ],
)  # fmt: skip
def test_each_fault_of_features_is_found(tmp_path: Path, name: str, expected: str) -> None:
    folder = _features(tmp_path / "f")
    values = np.random.default_rng(9).normal(size=(5, 8))
    if name == "nan":
        values[2, 3] = np.nan
        _bag(folder, "s04", values)
    elif name == "overflow":
        (folder / "s04.h5").unlink()
        with np.errstate(over="ignore"):
            np.save(folder / "s04.npy", (values * 1e6).astype(np.float16))
        for path in folder.glob("*.h5"):  # plain arrays name no encoder: nor may the others
            with h5py.File(path, "a") as file:
                del file["features"].attrs["encoder"]
    elif name == "empty":
        _bag(folder, "s04", values[:0])
    elif name == "width":
        _bag(folder, "s04", values[:, :6])
    elif name == "mpp":
        _bag(folder, "s04", values, mpp=0.25)
    elif name == "encoder":
        _bag(folder, "s04", values, encoder="two")
    elif name == "missing":
        (folder / "s04.h5").unlink()
    elif name == "broken":
        (folder / "s04.h5").write_bytes(b"no features")
    else:
        with h5py.File(folder / "s04.h5", "a") as file:
            del file["coords"]
            file["coords"] = np.zeros((2, 2), dtype=int)
    found = check(tmp_path, rows_of(), features=folder)
    errors = {key for key in found if key.startswith("error")}
    assert errors == {f"error:{expected}"}
    issue = found[f"error:{expected}"][0]
    assert issue.fix  # type: ignore[attr-defined]
    if name != "encoder":
        assert any("s04" in example for example in issue.examples)  # type: ignore[attr-defined]
        assert issue.count == 1  # type: ignore[attr-defined]


def test_copied_files_and_files_without_a_row(tmp_path: Path) -> None:
    folder = _features(tmp_path / "f")
    (folder / "s01.h5").write_bytes((folder / "s00.h5").read_bytes())
    (folder / "other.h5").write_bytes((folder / "s02.h5").read_bytes())
    found = check(tmp_path, rows_of(), features=folder)
    assert found["warning:same-features"][0].examples == ("s00 = s01",)  # type: ignore[attr-defined]
    assert any("1 file(s) are not in the table" in i.text for i in found["note:coverage"])  # type: ignore[attr-defined]


def test_two_encoders_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    for encoder in ("one", "two"):
        for i in range(N):
            values = np.random.default_rng(i).normal(size=(4, 8))
            _bag(folder / f"features_{encoder}", f"s{i:02d}", values, encoder=encoder)
    found = check(tmp_path, rows_of(), features=folder)
    assert {"error:mixed-encoders", "error:duplicate-files"} <= set(found)
    chosen = check(tmp_path, rows_of(), features=folder, expected=Expected("two"))
    assert bad(chosen) == set()


def test_the_named_encoder_must_fit(tmp_path: Path) -> None:
    folder = _features(tmp_path / "f")
    assert "error:encoder" in check(
        tmp_path, rows_of(), features=folder, expected=Expected("uni", 1024)
    )
    wide = check(tmp_path, rows_of(), features=folder, expected=Expected("one", 9))
    assert wide["error:width"][0].count == N  # type: ignore[attr-defined]


def test_a_folder_without_features_stops(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match="no patch features"):
        check(tmp_path, rows_of(), features=tmp_path / "f")
    with pytest.raises(DataError, match="no such features folder"):
        check(tmp_path, rows_of(), features=tmp_path / "g")


def test_leave_one_out_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    site, value = rng.integers(0, 5, 30), (rng.random(30) < 0.4).astype(float)
    want = []
    for i in range(30):
        others = [value[j] for j in range(30) if site[j] == site[i] and j != i]
        want.append((sum(others) + value.mean()) / (len(others) + 1))
    np.testing.assert_allclose(leave_one_out(site, value[None])[0], want)


def test_site_signal_sees_confounding_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(1)
    site = rng.integers(0, 10, 400)
    strong = site_signal(site, rng.random(400) < site / 10)
    assert strong.auroc > 0.75
    assert strong.p < 0.01
    noise = [site_signal(site, rng.random(400) < 0.3, seed=i) for i in range(40)]
    # Taking a case's own label out of its site pulls the AUROC below one half.
    assert 0.42 < np.mean([one.auroc for one in noise]) < 0.5
    assert np.mean([one.p < 0.05 for one in noise]) < 0.2
    assert site_signal(site, site < 5).pure
    days = rng.exponential(100 * (1 + site))
    assert site_hazard(site, np.ones(400, bool), days).auroc > 0.58
    assert abs(site_hazard(site, np.ones(400, bool), rng.permutation(days)).auroc - 0.5) < 0.06


@pytest.mark.parametrize(
    ("table", "published"),
    [("tcga_brca_subtype", 0.67), ("brca_her2", 0.59), ("brca_er", 0.53), ("brca_pr", 0.52)],
)
def test_site_alone_on_tcga(shared_data: Path, table: str, published: float) -> None:
    # The reference values come from another list of diagnostic slides of the same patients.
    frame = pd.read_csv(shared_data / "tcga_hipt" / "tables" / f"{table}.csv")
    cases = frame.drop_duplicates("case_id")
    positive = cases["label"].isin(["ILC", "positive"]).to_numpy()
    got = site_signal(pd.factorize(cases["site"])[0], positive)
    assert got.auroc == pytest.approx(published, abs=0.04)


def test_real_tables_and_features_pass(shared_data: Path) -> None:
    root = shared_data / "tcga_hipt"
    table = root / "tables" / "tcga_kirc_survival.csv"
    found = validate_cohort(Question(table, features=root / "features_hipt4k"))
    assert found.ok
    assert len(read_cohort(table, survival=True).cases) == 494


def test_published_lung_splits_are_reported(shared_data: Path) -> None:
    table = shared_data / "tcga_hipt" / "tables" / "tcga_lung_subtype.csv"
    splits = shared_data / "patho_bench" / "tcga_lung" / "subtype"
    found = validate_cohort(Question(table, splits=splits))
    leaks = [issue for issue in found.issues if issue.check == "leakage"]
    assert [issue.count for issue in leaks] == [14, 19, 17, 16, 14, 12, 12, 16, 14, 16]
    assert all(issue.examples[0].startswith("TCGA-") for issue in leaks)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, folder = write_table(tmp_path, rows_of()), _features(tmp_path / "f")
    validate(table=table, features=folder, as_json=True)
    clean = json.loads(capsys.readouterr().out)
    assert clean["ok"] is True
    assert clean["n"]["error"] == 0
    (folder / "s04.h5").unlink()
    with pytest.raises(typer.Exit) as stop:
        validate(table=table, features=folder)
    assert stop.value.exit_code == 2
    shown = capsys.readouterr().out
    assert "s04" in shown
    assert "1 to fix, 0 to look at" in shown
    assert "--allow-missing" in " ".join(shown.split())


def test_command_rewrites_events(tmp_path: Path) -> None:
    rows = survival_rows()
    for row in rows:
        row["censored"] = 1 - int(row.pop("event"))  # type: ignore[call-overload]
    out = tmp_path / "turned.csv"
    validate(table=write_table(tmp_path, rows), event_value="0", write_table=out)
    cohort = read_cohort(out, survival=True)
    assert sum(bool(case.event) for case in cohort.cases) == sum(
        r["event"] for r in survival_rows()
    )  # type: ignore[misc]
    validate(table=out)


def test_command_takes_classes_from_the_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        validate(table=write_table(tmp_path, rows_of()), task="brca_er", as_json=True)
    found = json.loads(capsys.readouterr().out)["findings"]
    assert "negative, positive" in next(f["fix"] for f in found if f["check"] == "classes")


def test_a_second_check_opens_no_file_that_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -1.0)
    monkeypatch.delenv("SPADE_BENCH_CACHE", raising=False)
    folder = _features(tmp_path / "f")
    before = check(tmp_path, rows_of(), features=folder)
    opened: list[str] = []
    real = h5py.File

    def counted(name: object, *more: object, **how: object) -> h5py.File:
        opened.append(Path(str(name)).name)
        return real(name, *more, **how)

    monkeypatch.setattr(h5py, "File", counted)
    assert check(tmp_path, rows_of(), features=folder) == before
    assert opened == []
    values = np.full((4, 8), np.nan)
    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", real)
        _bag(folder, "s03", values)
    found = check(tmp_path, rows_of(), features=folder)
    assert "error:not-finite" in bad(found)
    assert set(opened) == {"s03.h5"}
