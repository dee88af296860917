"""A run of expression: known answers, folds, controls, refusals, and what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import pytest
import scipy.sparse as sp
from command_line import run_main
from gene_sections import GENES, ToySections, write_sections

import spade_bench as sb
from spade_bench.errors import UserError
from spade_bench.report.pictures import DOUBLE_MM, SINGLE_MM
from spade_bench.results import read_predictions
from spade_bench.results.predictionstore import predictions_path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> ToySections:
    return write_sections(tmp_path_factory.mktemp("bench") / "TOY", bench=True, dim=300, spots=320)


@pytest.fixture
def hest(tmp_path: Path) -> ToySections:
    return write_sections(tmp_path / "hest")


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def run_toy(study: ToySections, out: Path, *more: object) -> int:
    return run_main(
        "run", "--encoder", "mine", "--task", f"hest:{study.root}", "--features", study.features,
        "--out", out, *more,
    )  # fmt: skip


def official(study: ToySections, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets of the public recipe, by scikit-learn alone."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    genes = json.loads((study.root / "var_50genes.json").read_text())["genes"]
    columns = [int(gene[1:]) for gene in genes]
    patient = sorted(set(study.patient_of.values()))[fold]
    train = [name for name, owner in study.patient_of.items() if owner != patient]
    test = [name for name, owner in study.patient_of.items() if owner == patient]
    x, y = (np.concatenate([part[n] for n in train]) for part in (study.x, study.counts))
    u, v = (np.concatenate([part[n] for n in test]) for part in (study.x, study.counts))
    y, v = np.log1p(y[:, columns]), np.log1p(v[:, columns])
    pipe = Pipeline(
        [("scaler", StandardScaler()), ("PCA", PCA(n_components=256, random_state=seed))]
    )
    x = pipe.fit_transform(x).astype(np.float32)
    u = pipe.transform(u).astype(np.float32)
    ridge = Ridge(
        solver="lsqr", alpha=100 / (x.shape[1] * y.shape[1]), random_state=seed,
        fit_intercept=False, max_iter=1000,
    )  # fmt: skip
    return ridge.fit(x, y).predict(u), v


def test_the_public_recipe_is_met(bench: ToySections, tmp_path: Path) -> None:
    assert run_toy(bench, tmp_path, "--head", "hest-ridge", "--no-controls", "--seed", 1) == 0
    rows = rows_of(tmp_path)
    assert [row["fold"] for row in rows] == [0, 1, 2]
    for row in rows:
        predicted, observed = official(bench, row["fold"], seed=1)
        stored = read_predictions(tmp_path, row["run_id"], sha256=row["predictions_sha256"]).spots
        assert stored is not None
        assert np.abs(stored.predicted - predicted).max() < 1e-6 * np.abs(predicted).max()
        assert np.array_equal(stored.observed, observed)
        r = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, observed.T, strict=True)]
        assert row["metrics"]["pearson"] == pytest.approx(np.mean(r), abs=1e-6)
        assert row["protocol"] == "official"


def test_patients_are_left_out_one_by_one(hest: ToySections, tmp_path: Path) -> None:
    assert run_toy(hest, tmp_path, "--no-controls") == 0
    rows = rows_of(tmp_path)
    assert {row["head"] for row in rows} == {"ridge"}
    assert [(row["n"]["train"], row["n"]["test"]) for row in rows] == [(2, 2), (3, 1), (3, 1)]
    assert all("patients-repeat" not in row["flags"] for row in rows)
    for row in rows:
        stored = read_predictions(tmp_path, row["run_id"]).spots
        assert stored is not None
        assert len(set(stored.patients)) == 1
        assert row["n"]["genes"] == GENES  # fewer than 50 are there
        assert row["metrics"]["pearson"] > 0.3  # the planted signal


def test_sections_left_out_say_that_patients_repeat(hest: ToySections, tmp_path: Path) -> None:
    assert run_toy(hest, tmp_path, "--protocol", "leave-one-section-out", "--no-controls") == 0
    rows = rows_of(tmp_path)
    assert len(rows) == 4
    assert all("patients-repeat" in row["flags"] for row in rows)


def test_controls_stand_beside(hest: ToySections, tmp_path: Path) -> None:
    assert run_toy(hest, tmp_path, "--head", "ridge", "--head", "mean") == 0
    rows = rows_of(tmp_path)
    score = {
        control: np.mean([row["metrics"]["pearson"] for row in rows
                          if row["control"] == control and row["head"] == "ridge"])
        for control in {row["control"] for row in rows}
    }  # fmt: skip
    assert set(score) == {"", "permuted-spots", "random-projection", "total-counts", "coordinates"}
    assert abs(score["permuted-spots"]) < 0.15 < score[""]
    assert abs(score["coordinates"]) < 0.15
    mean = [row for row in rows if row["head"] == "mean"]
    assert {row["control"] for row in mean} == {""}
    for row in mean:
        assert row["metrics"]["pearson"] is None  # a constant correlates with nothing
        assert row["metrics"]["mae"] > 0
        assert row["metrics"]["r2"] <= 0


def test_the_same_command_again_runs_nothing(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy(hest, tmp_path, "--no-controls") == 0
    first = (tmp_path / "results.jsonl").read_bytes()
    assert run_toy(hest, tmp_path, "--no-controls") == 0
    assert (tmp_path / "results.jsonl").read_bytes() == first
    assert "0 cells done, 3 finished before" in capsys.readouterr().err


def test_damaged_predictions_run_again(hest: ToySections, tmp_path: Path) -> None:
    assert run_toy(hest, tmp_path, "--no-controls") == 0
    row = rows_of(tmp_path)[0]
    path = predictions_path(tmp_path, row["run_id"], "npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert run_toy(hest, tmp_path, "--no-controls") == 0
    assert path.read_bytes() == whole  # equal predictions have equal bytes


def test_rows_of_features_go_by_barcode(hest: ToySections, tmp_path: Path) -> None:
    """Rows of the toy files are shuffled: matched by place, nothing would be learnt."""
    from spade_bench.features.bags import read_bag

    bag = read_bag(hest.features / "T0.h5")
    assert bag.barcodes is not None
    at = {barcode: i for i, barcode in enumerate(bag.barcodes)}
    ordered = bag.features[[at[f"s0-{i}"] for i in range(len(at))]]
    assert np.allclose(ordered, hest.x["T0"], atol=1e-2)
    assert list(bag.barcodes) != sorted(bag.barcodes, key=lambda b: int(b.split("-")[1]))


def test_a_gene_of_one_value_is_named_and_left_out(tmp_path: Path) -> None:
    import anndata

    study = write_sections(tmp_path / "TOY", ("A", "B", "C"), bench=True)
    path = study.root / "adata" / "T0.h5ad"
    data = anndata.read_h5ad(path)
    dense = data.X.toarray()
    dense[:, 5] = 0  # G05, in all spots of one section
    data.X = dense
    data.write_h5ad(path)
    assert run_toy(study, tmp_path / "out", "--head", "hest-ridge", "--no-controls") == 0
    rows = {row["fold"]: row for row in rows_of(tmp_path / "out")}
    assert rows[0]["n"]["constant_genes"] == 1
    assert rows[0]["env"]["constant_genes"] == "G05"
    assert np.isfinite(rows[0]["metrics"]["pearson"])
    assert rows[1]["n"]["constant_genes"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "official"], "the task has no splits of its own"),
        (["--protocol", "cv"], "has no protocol 'cv'"),
        (["--head", "retrieval"], "no encoder of this run has one"),
        (["--head", "logistic"], "does not serve expression"),
        (["--head", "rigde"], "Did you mean"),
        (["--shots", "1,2"], "--shots is an option of few-shot"),
        (["--select"], "--select is an option of tasks whose units are cases"),
        (["--set", "ridge.alphas=[]"], "alphas and widths"),
        (["--set", "ridge.target=log2"], "target"),
    ],
)
def test_what_does_not_fit_is_refused(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], words: str,
) -> None:  # fmt: skip
    assert run_toy(hest, tmp_path / "out", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_section_without_features_is_named(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hest.features / "T1.h5").unlink()
    assert run_toy(hest, tmp_path, "--no-controls") == 2
    assert "T1" in capsys.readouterr().err
    assert run_toy(hest, tmp_path, "--no-controls", "--allow-missing") == 0
    assert all("missing-slides" in row["flags"] for row in rows_of(tmp_path))


def test_bench_root_names_its_tasks(
    bench: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["run", "--encoder", "mine", "--features", bench.features, "--out", tmp_path / "out",
             "--no-controls", "--head", "mean", "--bench-root", bench.root.parent]  # fmt: skip
    assert run_main(*known, "--task", "hest:TOY") == 0
    assert {row["task"] for row in rows_of(tmp_path / "out")} == {"TOY"}
    capsys.readouterr()
    assert run_main(*known, "--task", "hest:IDC") == 2
    assert "Use TOY" in capsys.readouterr().err


def test_python_and_report_show_the_rows(hest: ToySections, tmp_path: Path) -> None:
    results = sb.evaluate("mine", f"hest:{hest.root}", features=hest.features, out=tmp_path)
    board = results.leaderboard().set_index("control")
    main = board.loc[""]
    assert main["metric"] == "pearson"
    assert main["ci_low"] < main["mean"] < main["ci_high"]
    assert "patients:3" in main["flags"]
    table = results.predictions(encoder="mine", fold=0)
    assert {"barcode", "gene", "observed", "predicted", "patient_id"} <= set(table)
    r = [np.corrcoef(t["observed"], t["predicted"])[0, 1] for _, t in table.groupby("gene")]
    stored = results.to_dataframe().query("control == '' and fold == 0")["pearson"].item()
    assert np.mean(r) == pytest.approx(stored, abs=1e-9)
    genes = results.genes()
    assert len(genes) == GENES
    assert genes["pearson"].mean() == pytest.approx(main["mean"], abs=1e-9)
    assert (genes["units"] == 3).all()
    assert ((genes["ci_low"] < genes["pearson"]) & (genes["pearson"] < genes["ci_high"])).all()
    for kind, width in (("genes", SINGLE_MM), ("spots", DOUBLE_MM)):
        figure = results.plot(kind)
        figure.canvas.draw()
        assert figure.get_figwidth() * 25.4 == pytest.approx(width)
        shown = [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text()]
        assert all(text.get_fontsize() >= 6.5 for text in shown)
        beyond = [
            text.get_text()
            for text in shown
            if (text in figure.texts or (text.axes and not text.get_clip_on()))
            and text.get_window_extent().x1 > figure.bbox.x1 + 2
        ]
        assert not beyond
    assert run_main("report", tmp_path, "--html", tmp_path / "page.html", "--no-plots") == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'id="expression"' in page
    for gene in genes.itertuples():
        assert f'<th scope="row">{gene.gene}</th>' in page
        assert f"[{gene.ci_low:.3f}, {gene.ci_high:.3f}]" in page


def test_fit_says_that_it_is_for_cases(hest: ToySections) -> None:
    with pytest.raises(UserError, match="spot by spot"):
        sb.fit("mine", f"hest:{hest.root}", features=hest.features)


def test_other_features_are_other_rows(hest: ToySections, tmp_path: Path) -> None:
    from spade_bench.features.bags import read_bag, write_features

    assert run_toy(hest, tmp_path, "--no-controls") == 0
    bag = read_bag(hest.features / "T2.h5")
    write_features(
        hest.features / "T2.h5", bag.features * 2, slide_id="T2", encoder="mine",
        barcodes=list(bag.barcodes or ()),
    )  # fmt: skip
    assert run_toy(hest, tmp_path, "--no-controls") == 0
    assert len({row["run_id"] for row in rows_of(tmp_path)}) == 6


def test_a_card_of_ones_own_takes_its_sections_as_a_table(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "mine.yaml"
    text = "name: mine\nkind: expression\ntitle: Mine\ncohort: c\n"
    card.write_text(text)
    arguments = [
        *("run", "--encoder", "mine", "--task", card, "--table", hest.root, "--features"),
        *(hest.features, "--head", "mean", "--no-controls", "--out", tmp_path / "out"),
    ]
    assert run_main(*arguments) == 2
    assert "expression has no metric 'auroc'" in capsys.readouterr().err
    card.write_text(text + "metrics: [pearson, mae]\n")
    assert run_main(*arguments) == 0
    assert {tuple(row["metrics"]) for row in rows_of(tmp_path / "out")} == {("pearson", "mae")}
    assert {row["task"] for row in rows_of(tmp_path / "out")} == {"mine"}


def edit_section(study: ToySections, name: str, change: Callable[[Any], Any]) -> None:
    """Write a section again, changed."""
    path = study.root / "st" / f"{name}.h5ad"
    section = anndata.read_h5ad(path)
    change(section)
    section.write_h5ad(path)


def normalise(section: Any) -> None:
    counts = section.X.toarray()
    section.X = sp.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))


def test_sections_of_several_kinds_are_said_and_lose_the_control_of_depth(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_section(hest, "T2", normalise)
    assert run_toy(hest, tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "values of several kinds" in said
    assert "log-normalised: T2" in said
    assert "no control total-counts: values of T2" in said
    controls = {row["control"] for row in rows_of(tmp_path / "out")}
    assert "coordinates" in controls
    assert "total-counts" not in controls


def logarithms(section: Any) -> None:
    section.X.data = np.log1p(section.X.data)


def test_the_total_of_logarithms_of_counts_is_that_of_the_counts(
    hest: ToySections, tmp_path: Path
) -> None:
    def scores(out: Path) -> list[float]:
        assert run_toy(hest, out, "--head", "ridge") == 0
        rows = [row for row in rows_of(out) if row["control"] == "total-counts"]
        return [row["metrics"]["pearson"] for row in rows]

    plain = scores(tmp_path / "counts")
    for name in hest.patient_of:
        edit_section(hest, name, logarithms)
    assert scores(tmp_path / "logs") == pytest.approx(plain, abs=1e-3)


def test_a_section_with_other_names_of_genes_is_named(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(section: Any) -> None:
        section.var_names = [*section.var_names[:5], *(f"other{i}" for i in range(GENES - 5))]

    edit_section(hest, "T1", rename)
    assert run_toy(hest, tmp_path / "out", "--no-controls") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"share 5 genes, and the one with the fewest has {GENES}: without T1 they would" in said


def test_a_gene_that_a_task_names_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_sections(tmp_path / "TOY", bench=True)
    (study.root / "var_50genes.json").write_text('{"genes": ["G01", "G02", "G01"]}')
    assert run_toy(study, tmp_path / "out") == 2
    assert "names 1 gene(s) more than once: G01" in capsys.readouterr().err


def test_a_fold_without_a_score_is_counted(
    hest: ToySections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hest.root / "st" / "T3.h5ad"
    anndata.read_h5ad(path)[:1].copy().write_h5ad(path)  # one spot: no gene varies in that fold
    assert run_toy(hest, tmp_path, "--no-controls") == 0
    board = sb.load_results(tmp_path).leaderboard()
    assert "undefined-folds:1" in board["flags"].item()
    capsys.readouterr()
    assert run_main("report", tmp_path, "--no-plots") == 0
    assert "the mean is over the others" in " ".join(capsys.readouterr().out.split())
