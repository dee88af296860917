"""Figures for print: size, fonts, names, and a csv that holds exactly what is drawn."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

import spade_bench as sb
from spade_bench.cli.main import main
from spade_bench.errors import UserError
from spade_bench.registry import encoders
from spade_bench.report.figures.curves import curve_pictures
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.loadedresults import KINDS, Results
from spade_bench.report.naming import card_title, encoder_title, metric_title
from spade_bench.report.pictures import DOUBLE_MM, PALETTE, SINGLE_MM, Look, draw_pictures
from spade_bench.results import ResultStore

N = 60
ENCODERS = {"uni": 1.4, "gigapath": 1.0, "efficientnet-lite0": 0.4}


@pytest.fixture(autouse=True)
def _pictures_of_few_dots() -> None:
    """These are about print: they keep all dots."""


@pytest.fixture(scope="module")
def results(
    store: Any, classes: Any, risks: Any, tmp_path_factory: pytest.TempPathFactory
) -> Results:
    """Three encoders on two binary tasks and one of survival, few-shot and cross-validation."""
    out = tmp_path_factory.mktemp("results")
    for t, task in enumerate(("crc_braf", "crc_msi")):
        label = (np.random.default_rng(t).uniform(size=N) < 0.4).astype(int)

        def scores(seed: list[int], strength: float, label: Any = label) -> Any:
            z = (label - 0.5) * strength + np.random.default_rng(seed).normal(size=N)
            return classes(1 / (1 + np.exp(-z)), label)

        for e, (encoder, strength) in enumerate(ENCODERS.items()):
            for k in (1, 4):
                for draw in (0, 1):
                    place = {"encoder": encoder, "task": task, "k_shot": k, "draw": draw}
                    store(out, place, scores([t, e, k, draw], strength * (1 + k / 4)))
            whole = scores([t, e, 9, 9], 2 * strength)
            for fold in range(3):
                at = np.arange(N)[fold::3]
                part = replace(
                    whole,
                    case_ids=tuple(whole.case_ids[i] for i in at),
                    target=whole.target[at],
                    scores=whole.scores[at],
                )
                store(out, {"encoder": encoder, "task": task, "protocol": "cv", "fold": fold}, part)
        for k in (1, 4):
            for i, name in enumerate(("pca", "random-projection", "permuted-labels")):
                more = {"flags": (f"control:{name}",), "control": name, "control_of": "uni"}
                place = {"encoder": "uni" if i == 2 else f"uni+{i}", "task": task, "k_shot": k}
                store(out, place, scores([t, i, k], 0.3 if i < 2 else 0.0), **more)
    for encoder, strength in ENCODERS.items():
        told = risks(np.zeros(80), 5)
        days = np.log(told.target[:, 1])
        noise = np.random.default_rng(len(encoder)).normal(size=80)
        store(out, {"encoder": encoder, "task": "tcga_luad_survival"},
              replace(told, scores=(noise - strength * days)[:, None]))  # fmt: skip
    return sb.load_results(out)


def _picture(results: Results, kind: str) -> Any:
    found = results.pictures(kind, a="uni", b="gigapath")
    return next((p for p in found if "few-shot" in p.words), found[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_one_or_two_columns_wide_with_its_fonts_inside(
    results: Results, kind: str, tmp_path: Path
) -> None:
    (path,) = draw_pictures([_picture(results, kind)], tmp_path, ("pdf", "svg", "png"))
    pdf = path.read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert box is not None
    width = float(box[1]) / 72 * 25.4
    assert any(abs(width - mm) < 0.1 for mm in (SINGLE_MM, DOUBLE_MM))
    assert b"/Type3" not in pdf
    assert b"/Type42" in pdf or b"/CIDFontType2" in pdf
    assert b"/FontFile2" in pdf
    svg = path.with_suffix(".svg").read_text()
    size = re.search(r'<svg [^>]*width="([\d.]+)pt"', svg)
    assert size is not None
    assert float(size[1]) / 72 * 25.4 == pytest.approx(width, abs=0.1)
    assert "<text" not in svg  # letters are outlines, which need no font where they are read
    assert re.search(r'<use xlink:href="#DejaVuSans-', svg)
    from PIL import Image

    with Image.open(path.with_suffix(".png")) as image:
        assert image.width / (width / 25.4) >= 299  # dots per inch


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_readable_at_print_size_and_within_the_figure(
    results: Results, kind: str
) -> None:
    figure = _picture(results, kind).draw()
    figure.canvas.draw()
    frame = figure.bbox
    for text in figure.findobj(mpl.text.Text):
        if text.get_visible() and text.get_text().strip():
            assert text.get_fontsize() >= 6.5
            box = text.get_window_extent()
            if text.axes is not None and not text.get_clip_on() and box.width:
                assert box.x0 >= frame.x0 - 2, text.get_text()
                assert box.x1 <= frame.x1 + 2, text.get_text()


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_have_the_names_of_their_cards(results: Results, kind: str) -> None:
    figure = _picture(results, kind).draw()
    words = " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))
    assert "UNI" in words
    assert "Prov-GigaPath" in words
    assert "gigapath" not in words
    assert "crc_braf" not in words


@pytest.mark.parametrize("kind", ["curve", "roc", "pr"])
def test_the_csv_holds_exactly_the_lines(results: Results, kind: str, tmp_path: Path) -> None:
    picture = _picture(results, kind)
    (path,) = draw_pictures([picture], tmp_path)
    rows = list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
    (axes,) = picture.draw().axes
    x_name = "k_shot" if kind == "curve" else "x"
    for encoder in ENCODERS:
        mine = [row for row in rows if row.get("encoder") == encoder]
        name = encoder_title(encoder)
        (line,) = [one for one in axes.lines if str(one.get_label()).split(":")[0] == name]
        assert [float(row[x_name]) for row in mine] == [float(x) for x in line.get_xdata()]
        assert [float(row["mean"]) for row in mine] == [float(y) for y in line.get_ydata()]
        assert all(float(row["ci_low"]) <= float(row["mean"]) <= float(row["ci_high"])
                   for row in mine)  # fmt: skip


def test_a_band_of_a_single_control_has_its_name() -> None:
    """Else a thin grey line near an encoder reads as if all controls were as good."""
    one = ReportRow("uni", "t", "logistic", "few-shot", 4, "auroc", 0.8, 0.7, 0.9, 40, 10, ())
    layer = replace(
        one, encoder="uni+random256", control="random-projection", control_of="uni", mean=0.7
    )
    permuted = replace(one, control="permuted-labels", control_of="uni", mean=0.5)
    drawn = curve_pictures([one, layer, permuted], Look({"uni": 0}))[0].drawn()
    labels = drawn.figure.axes[0].get_legend_handles_labels()[1]
    assert {"random projection", "permuted labels"} <= set(labels)
    others = [replace(row, control_of="conch") for row in (layer, permuted)]
    drawn = curve_pictures([one, layer, permuted, *others], Look({"uni": 0}))[0].drawn()
    labels = drawn.figure.axes[0].get_legend_handles_labels()[1]
    assert sum("lowest to highest" in label for label in labels) == 2


def test_controls_are_one_band_that_the_csv_names(results: Results) -> None:
    drawn = _picture(results, "curve").drawn()
    (axes,) = drawn.figure.axes
    labels = axes.get_legend_handles_labels()[1]
    assert "controls, lowest to highest" in labels
    assert "permuted labels" in labels  # of one encoder
    assert len(labels) == len(ENCODERS) + 3  # two bands and chance
    board = results.leaderboard()
    place = (board.task == "crc_braf") & (board.protocol == "few-shot") & (board.k_shot == 4)
    beside = board[place & board.control.isin(["pca", "random-projection"])]
    (band,) = [r for r in drawn.numbers
               if r["drawn_as"] == "range of controls" and r["k_shot"] == 4]  # fmt: skip
    assert (band["ci_low"], band["ci_high"]) == (beside["mean"].min(), beside["mean"].max())


def test_the_dots_and_the_heat_map_are_the_leaderboard(results: Results) -> None:
    board = results.leaderboard()
    few = board[(board.protocol == "few-shot") & (board.k_shot == 4) & (board.control == "")]
    want = {(r.task, r.encoder): (r.mean, r.ci_low, r.ci_high) for r in few.itertuples()}
    dots = _picture(results, "dots").drawn()
    told = {(r["task"], r["encoder"]): (r["mean"], r["ci_low"], r["ci_high"])
            for r in dots.numbers if r["drawn_as"] == "dot"}  # fmt: skip
    assert told == want
    (axes,) = dots.figure.axes
    drawn = {float(x) for one in axes.lines for x in one.get_xdata() if len(one.get_xdata()) == 1}
    assert {mean for mean, _, _ in want.values()} <= drawn
    heat = _picture(results, "heat").drawn()
    assert {(r["task"], r["encoder"]): r["mean"] for r in heat.numbers} == {
        key: mean for key, (mean, _, _) in want.items()
    }
    cells = {text.get_text(): text.get_fontweight() for text in heat.figure.axes[0].texts}
    for task in few.task.unique():
        best = max(mean for (t, _), (mean, _, _) in want.items() if t == task)
        assert cells[f"{best:.3f}"] == "bold"
    assert list(cells.values()).count("bold") == few.task.nunique()


def test_cross_validation_shows_every_fold(results: Results) -> None:
    (picture, _) = results.pictures("cv")
    drawn = picture.drawn()
    table = results.to_dataframe()
    for encoder in ENCODERS:
        here = table[
            (table.encoder == encoder) & (table.protocol == "cv") & (table.task == "crc_braf")
        ]
        folds = [r for r in drawn.numbers if r["encoder"] == encoder and r["drawn_as"] == "fold"]
        assert sorted(r["fold"] for r in folds) == sorted(here.fold)
        (mean,) = [r["value"] for r in drawn.numbers
                   if r["encoder"] == encoder and r["drawn_as"] == "mean"]  # fmt: skip
        assert mean == pytest.approx(np.mean([r["value"] for r in folds]))


def test_a_figure_saved_by_its_owner_embeds_fonts_too(results: Results, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figure = results.plot("curve", task="crc_braf")
    figure.savefig(tmp_path / "own.pdf")
    assert b"/Type3" not in (tmp_path / "own.pdf").read_bytes()
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_plotted(results: Results, kind: str) -> None:
    choice = {"a": "uni", "b": "gigapath"} if kind == "forest" else {}
    if len(results.pictures(kind, **choice)) == 1:
        assert results.plot(kind, **choice).axes
    else:
        with pytest.raises(UserError, match="pictures fit"):
            results.plot(kind, **choice)


def test_folds_of_two_runs_are_chosen_by_what_sets_them_apart(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    label = np.arange(60) % 2
    for folds in (3, 4):
        for encoder in ("uni", "gigapath"):
            for fold in range(folds):
                p = np.random.default_rng([folds, fold]).uniform(size=60)
                place = {"encoder": encoder, "protocol": "cv", "draw": folds, "fold": fold}
                more = {"env": {"splits": f"{folds} folds"}, "seed": 0}
                store(tmp_path / str(folds), place, classes(p, label), **more)
        stored = ResultStore(tmp_path / str(folds))
        rows = [replace(r, inputs={**r.inputs, "splits": f"hash{folds}"}) for r in stored.rows()]
        stored.path.unlink()
        stored.append(rows)
    results = sb.load_results([tmp_path / "3", tmp_path / "4"])
    with pytest.raises(UserError, match=r"2 pictures fit .*3 folds.*4 folds.*condition="):
        results.plot("cv")
    for folds in (3, 4):
        title = results.plot("cv", condition=f"{folds} folds").get_suptitle()
        assert f"{folds}-fold" in title
    with pytest.raises(UserError, match=r"(?i)nothing here can be drawn"):
        results.plot("cv", condition="5 folds")
    with pytest.raises(UserError, match=r"(?i)nothing here can be drawn"):
        results.plot("cv", protocol="few-shot")


def test_an_unknown_kind_is_told_the_nearest(results: Results) -> None:
    with pytest.raises(UserError, match="heat"):
        results.plot("heatmap")


@pytest.mark.parametrize("formats", ["pdf,svg", "PNG"])
def test_the_report_writes_the_formats_that_are_wanted(
    results: Results, formats: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(results.folders[0], tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "runs", "--a", "uni", "--b", "gigapath", "--figures", formats])
    suffixes = {path.suffix for path in (tmp_path / "runs" / "plots").iterdir()}
    assert suffixes == {".csv", *(f".{one.lower()}" for one in formats.split(","))}


def test_an_unknown_format_is_refused(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(results.folders[0]), "--figures", "pdf,gif"])
    assert "'gif' is no format of figures" in capsys.readouterr().err


def test_every_registered_encoder_has_a_title_of_its_own() -> None:
    titles = [card_title(plugin.card) for plugin in encoders]
    assert len(set(titles)) == len(titles)
    assert all(title != title.lower() for title in titles)
    assert all("_" not in title for title in titles)


def test_names_of_labels_and_controls() -> None:
    assert encoder_title("uni") == "UNI"
    assert encoder_title("uni2") == "UNI2-h"
    assert encoder_title("conch-224") == "CONCH (224)"
    assert encoder_title("uni-east") == "UNI east"
    assert encoder_title("unity") == "unity"
    assert encoder_title("mine") == "mine"
    assert encoder_title("uni+pca8", "pca", "uni") == "UNI: principal components"
    assert encoder_title("uni", "permuted-labels") == "UNI: permuted labels"
    assert encoder_title("uni", "base", "spade") == "UNI"
    assert encoder_title("x", "my-control") == "my control"
    assert metric_title("c_index") == "C-index"
    assert metric_title("my_metric") == "my metric"


def test_colours_and_markers_together_tell_many_encoders_apart() -> None:
    look = Look({f"e{i}": i for i in range(30)})
    pairs = {(look.colour(name), look.marker(name)) for name in look.place}
    assert len(pairs) == 30
    assert len({look.colour(f"e{i}") for i in range(len(PALETTE))}) == len(PALETTE)
