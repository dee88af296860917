"""The page says what the stored files say: the same numbers as every other form of the report."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from command_line import run_main
from page_results import (
    HOSTILE,
    HOSTILE_CASE,
    HOSTILE_ERROR,
    HOSTILE_TASK,
    SITES,
    write_hostile_results,
)

import spade_bench as sb
from spade_bench.errors import DataError
from spade_bench.files import file_name
from spade_bench.report.page import howmade
from spade_bench.report.page.hardcases import discordant_share, hard_cases
from spade_bench.report.page.maplinks import MapLink, find_maps, links_of
from spade_bench.report.page.reportpage import plot_scale, render_page
from spade_bench.report.page.subgroups import by_class, by_site
from spade_bench.report.page.svgfigures import inline_svg
from spade_bench.report.pictures import Picture, new_figure
from spade_bench.results import ResultStore
from spade_bench.results.cohortfiles import read_cohorts
from tests.helpers.stored_cells import part_of

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def results_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_results(tmp_path_factory.mktemp("page") / "runs")


@pytest.fixture(scope="module")
def page(results_folder: Path) -> str:
    return render_page(sb.load_results(results_folder))


def page_data(page: str) -> dict[str, Any]:
    found = _DATA.search(page)
    assert found
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def test_every_number_of_the_report_stands_on_the_page(
    results_folder: Path, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("report", results_folder, "--json", "--no-plots") == 0
    told = json.loads(capsys.readouterr().out)["rows"]
    data = page_data(page)
    names = [name for name, _ in data["flags"]]
    shown = {}
    for table in data["tables"]:
        for line in table["lines"]:
            for one in (line, *line.get("controls", ())):
                for metric, by_shot in one["cells"].items():
                    for shot, cell in by_shot.items():
                        key = (
                            *(one["encoder"], table["task"], one["head"], table["protocol"]),
                            *(int(shot), metric, one.get("control", "")),
                        )
                        assert key not in shown
                        shown[key] = cell
    rows = [row for row in told if row["task"] != "overall"]
    assert len(rows) == len(shown) > 80
    for row in rows:
        cell = shown[
            row["encoder"], row["task"], row["head"], row["protocol"], row["k_shot"] or 0,
            row["metric"], row["control"],
        ]  # fmt: skip
        for value, name in zip(cell, ("mean", "ci_low", "ci_high"), strict=False):
            assert value == (row[name] if row[name] is None else pytest.approx(row[name], rel=1e-6))
        assert cell[3:5] == [row["n_cases"], row["n_draws"]]
        assert [names[at] for at in cell[5]] == row["flags"]
        assert cell[6] == row["note"]


def test_controls_stand_below_their_encoder_and_the_best_encoder_first(page: str) -> None:
    (table,) = [one for one in page_data(page)["tables"] if one["protocol"] == "few-shot"]
    encoders = [(line["encoder"], line["head"]) for line in table["lines"]]
    assert set(encoders[:2]) == {(HOSTILE, "logistic"), (HOSTILE, "abmil")}
    for line in table["lines"]:
        controls = {one["control"] for one in line.get("controls", ())}
        assert controls == ({"k1", "permuted-labels"} if line["encoder"] == HOSTILE else set())


def test_names_of_strangers_are_text_and_nothing_else(page: str) -> None:
    markup = _DATA.sub("", page)
    script = re.findall(r"<script(?:\s[^>]*)?>", markup)
    assert script == ["<script>"], "only our own"
    for text in (HOSTILE, HOSTILE_CASE, HOSTILE_TASK, SITES[1], "<i>gone</i>", "<u>table</u>.csv"):
        assert text not in page
        assert html.escape(text, quote=False).replace('"', "&#34;").replace("'", "&#39;") in markup
    assert "\u202e" not in page, "marks that turn the reading direction are shown, not sent"
    assert HOSTILE_ERROR.partition(" ")[0] in markup
    assert "<iframe" not in page
    assert "{{ 7 * 7 }}" in markup, "a template of a stranger is never run"


def test_a_page_asks_nothing_of_a_network(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!#|data:image/png;base64,)", page)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert len(page.encode()) < 3_000_000


def test_ids_are_unique_and_what_is_referred_to_is_there(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="|url\()#([^")]+)', page) + re.findall(
        r'aria-labelledby="([^"]+)"', page
    )
    assert referred
    assert set(referred) <= set(ids)


def test_figures_have_the_ink_of_the_page_and_names_without_mathematics() -> None:
    def draw() -> Any:
        figure = new_figure(3, 2)
        axes = figure.add_subplot()
        axes.plot([0, 1], color="black")
        axes.set_title("cost $x_{ <b>&</b> #000000")
        return figure

    figure = inline_svg(Picture("figure", ("<a>",), draw), "f7-")
    assert "&lt;a&gt;" in figure.svg
    assert "cost $x_{ &lt;b&gt;&amp;&lt;/b&gt; #000000" in figure.svg
    assert "currentColor" in figure.svg
    assert not re.search(r"(?:fill|stroke): ?#(?:000000|ffffff)", figure.svg)
    assert all(name.startswith("f7-") for name in re.findall(r'\sid="([^"]+)"', figure.svg))
    assert figure.width == 288
    assert inline_svg(Picture("figure", ("<a>",), draw), "f7-") == figure, "the same each time"


def test_sentences_and_sections_of_what_was_stored(page: str) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", " ", _DATA.sub("", page)))
    text = " ".join(text.split())
    for words in (
        "Simulated data. No number here says anything about patients.",
        "Some encoders saw TCGA in pretraining",
        f"{HOSTILE} against UNI",
        "logistic regression",
        "1 cell failed",
        "42 cases in <u>table</u>.csv",
        "1 left out: no features of uni",
        "<b>south</b>",
        "spade-bench report runs --html report.html",
        "Kaplan-Meier",
        "Not registered here",
        "@software{",
    ):
        assert words in text, words


def test_worst_cases_are_those_that_are_wrong_most_often(results_folder: Path) -> None:
    results = sb.load_results(results_folder)
    survival, few = hard_cases(results.series, results.resampler)
    assert few.encoders == (HOSTILE, "uni")
    assert few.n_cases == 40
    told = results.predictions(task=HOSTILE_TASK, head="logistic", k_shot=8)
    scores = [name for name in told if name.startswith("score:")]
    best = told[scores].idxmax(axis=1).str.removeprefix("score:")
    wrong = (best != told["label"]).groupby([told["case_id"], told["encoder"]]).mean().unstack()
    expected = wrong.mean(axis=1)
    assert {one.case_id for one in few.cases} == set(expected[expected > 0.5].index)
    for one in few.cases:
        assert one.wrong == pytest.approx(expected[one.case_id])
        assert [fit.wrong for fit in one.fits if fit] == pytest.approx(
            wrong.loc[one.case_id, list(few.encoders)].tolist()
        )
    order = [one.wrong for one in few.cases]
    assert order == sorted(order, reverse=True)
    assert survival.kind == "survival"
    assert survival.n_cases <= 40


def test_discordant_share_agrees_with_pairs_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    target = np.stack([rng.random(25) < 0.6, rng.integers(1, 15, 25)], axis=1).astype(float)
    risk = rng.integers(0, 6, 25).astype(float)
    shares = discordant_share(target, risk)
    total = np.zeros(2)
    for i in range(25):
        bad = []
        for j in range(25):
            for first, second in ((i, j), (j, i)):
                later = (target[second, 1], not target[second, 0])
                if target[first, 0] and (target[first, 1], False) < later:
                    equal, lower = risk[first] == risk[second], risk[first] < risk[second]
                    bad.append(0.5 if equal else float(lower))
        assert shares[i] == (
            pytest.approx(np.mean(bad)) if bad else pytest.approx(np.nan, nan_ok=True)
        )
        total += len(bad), sum(bad)
    # One minus their mean over pairs is the concordance index.
    from lifelines.utils import concordance_index

    whole = 1 - total[1] / total[0]
    assert whole == pytest.approx(concordance_index(target[:, 1], -risk, target[:, 0]))


def test_classes_and_sites_agree_with_the_predictions(results_folder: Path) -> None:
    from sklearn.metrics import precision_score, recall_score, roc_auc_score

    results = sb.load_results(results_folder)
    cohorts = read_cohorts(results_folder, [])
    (table,) = by_class(results.series, results.resampler)
    (sites,) = by_site(results.series, results.resampler, {c.cohort: c.sites for c in cohorts})
    told = results.predictions(task=HOSTILE_TASK, head="logistic", k_shot=8, encoder="uni")
    at = table.encoders.index("uni")
    negative = next(row for row in table.rows if row.name == "neg")
    by_draw = [part for _, part in told.groupby("draw")]
    truth = [part["label"] == "neg" for part in by_draw]
    called = [part["score:neg"] >= 0.5 for part in by_draw]
    pairs = list(zip(truth, called, strict=True))
    assert negative.n_cases == 20
    assert negative.recall[at] == pytest.approx(np.mean([recall_score(*p) for p in pairs]))
    assert negative.precision[at] == pytest.approx(np.mean([precision_score(*p) for p in pairs]))
    aurocs = [roc_auc_score(t, p["score:neg"]) for t, p in zip(truth, by_draw, strict=True)]
    assert negative.auroc[at] == pytest.approx(np.mean(aurocs))
    assert sum(row.n_cases for row in sites.rows) == 40
    north = next(row for row in sites.rows if row.name == "north")
    site_of = cohorts[0].sites
    here = [part[part["case_id"].map(site_of) == "north"] for part in by_draw]
    expected = np.mean([roc_auc_score(p["label"] != "neg", 1 - p["score:neg"]) for p in here])
    assert north.values[sites.encoders.index("uni")] == pytest.approx(expected)


def test_a_page_of_older_results_says_what_they_did_not_store(tmp_path: Path) -> None:
    out = write_hostile_results(tmp_path / "runs")
    for path in (*(out / "cohorts").glob("*"), *(out / "plans").glob("*")):
        path.unlink()
    lines = []
    for line in (out / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in ("control", "control_of", "identity", "predictions_sha256", "row_sha256"):
            row.pop(name, None)
        row["env"] = {}
        lines.append(json.dumps(row))
    (out / "results.jsonl").write_text("\n".join(lines) + "\n")
    page = render_page(sb.load_results(out))
    assert "did not store who was left out" in page
    assert "No settings are stored" in page
    assert page_data(page)["tables"]


def test_damaged_results_are_named_and_an_empty_folder_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write_hostile_results(tmp_path / "runs")
    row = ResultStore(out).rows()[0]
    part_of(out, row).write_text("case_id,label\n")
    with (out / "results.jsonl").open("a") as file:
        file.write('{"schema": "<b>"}\n')
    (cohort,) = (out / "cohorts").glob("*.json")
    cohort.write_text("{}")
    assert run_main("report", out, "--no-plots", "--html", tmp_path / "report.html") == 2
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "3 stored results are damaged" in page
    assert "<b>" not in page
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert run_main("report", tmp_path / "empty", "--html", tmp_path / "no.html") == 2
    assert "no results here" in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()


def test_maps_need_a_page_and_a_picture(
    results_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("report", results_folder, "--no-plots", "--maps", tmp_path) == 2
    assert "--html" in capsys.readouterr().err
    with pytest.raises(DataError, match="no maps here"):
        sb.load_results(results_folder).to_html(tmp_path / "x.html", maps=tmp_path)


def _listing(folder: Path, *maps: dict[str, Any]) -> None:
    """Write a folder of maps as `explain` does, each file empty."""
    blank = {"encoder": "uni", "task": "t", "head": "abmil", "trained": False, "files": {}}
    listed = [{**blank, **one} for one in maps]
    for path in (path for one in listed for path in one["files"].values()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": "spade-bench/explain/1", "complete": True, "maps": listed}
    (folder / "explain.json").write_text(json.dumps(content), encoding="utf-8")


def test_maps_are_those_of_the_task_case_and_encoder(tmp_path: Path) -> None:
    whose = {"slide_id": "P-1-A", "case_id": "P-1"}
    _listing(
        tmp_path / "maps" / "one",
        {**whose, "files": {"png": "pictures/P-1-A.png"}, "trained": True},
        {**whose, "encoder": "spade", "files": {"png": "pictures/spade/P-1-A.png"}},
        {"slide_id": "P-1", "case_id": "P", "encoder": "", "files": {"png": "pictures/P-1.png"}},
    )
    _listing(tmp_path / "maps" / "two", {**whose, "task": "u", "files": {"png": "a.png"}})
    (tmp_path / "maps" / "P-1-A.png").write_bytes(b"")  # no listing names it
    maps = find_maps(tmp_path / "maps", tmp_path)
    uni = MapLink("P-1-A, uni", "maps/one/pictures/P-1-A.png", trained=True)
    spade = MapLink("P-1-A, spade", "maps/one/pictures/spade/P-1-A.png")
    assert links_of(maps, "t", "P-1", ["uni", "spade"]) == [uni, spade]
    assert links_of(maps, "t", "P-1", ["spade"]) == [spade]
    assert links_of(maps, "u", "P-1", ["uni"]) == [MapLink("P-1-A, uni", "maps/two/a.png")]
    assert links_of(maps, "t", "P", ["x"]) == [MapLink("P-1", "maps/one/pictures/P-1.png")]
    assert links_of(maps, "u", "P", []) == []


def test_a_viewer_is_linked_before_a_panel_and_that_before_a_picture(tmp_path: Path) -> None:
    whose = {"slide_id": "s 1", "case_id": "c"}
    files = {"png": "pictures/spade/s.png", "panel_png": "panels/s.png"}
    _listing(
        tmp_path,
        {**whose, "files": {"png": "pictures/s.png"}},
        {**whose, "encoder": "spade", "trained": True, "files": files},
    )

    def links() -> list[MapLink]:
        return links_of(find_maps(tmp_path, tmp_path), "t", "c", ["uni", "spade"])

    page = tmp_path / "viewer" / "slides" / f"{file_name('s 1')}.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    (link,) = links()
    assert (link.name, link.trained) == ("s 1", True)
    assert unquote(link.address) == page.relative_to(tmp_path).as_posix()
    page.unlink()
    assert links() == [MapLink("s 1", "panels/s.png", trained=True)]
    (tmp_path / "panels" / "s.png").unlink()
    assert [one.trained for one in links()] == [False, True]


def test_without_a_listing_or_outside_its_folder_nothing_is_linked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "P-1.png").write_bytes(b"")
    assert find_maps(tmp_path / "maps", tmp_path) == []
    assert "explain.json" in capsys.readouterr().err
    (tmp_path / "out.png").write_bytes(b"")
    whose = {"slide_id": "P-1", "case_id": "P-1", "files": {"png": "../out.png"}}
    _listing(tmp_path / "maps", whose)
    assert find_maps(tmp_path / "maps", tmp_path) == []
    listing = tmp_path / "maps" / "explain.json"
    for text, words in (
        ('{"schema": "other", "maps": []}', "is no listing of maps of this version"),
        ('{"schema": "spade-bench/explain/1", "complete": false, "maps": []}', "did not finish"),
        ("{", "explain.json: not valid JSON"),
    ):
        listing.write_text(text)
        capsys.readouterr()
        assert find_maps(tmp_path / "maps", tmp_path) == []
        assert words in " ".join(capsys.readouterr().err.split())


def test_the_page_links_the_maps_of_a_case_and_says_which_were_trained_on_it(
    results_folder: Path, tmp_path: Path
) -> None:
    results = sb.load_results(results_folder)
    first = next(one for one in hard_cases(results.series, results.resampler) if one.cases)
    whose = {"case_id": first.cases[0].case_id, "task": first.task, "encoder": first.encoders[0]}
    files = {"png": "pictures/slide.png"}
    _listing(tmp_path / "maps", {**whose, "slide_id": "slide-9", "trained": True, "files": files})
    page = render_page(results, tmp_path / "maps", tmp_path)
    (link,) = re.findall(r'<a href="maps/pictures/slide.png">(.*?)</td>', page)
    assert link.startswith("slide-9, ")
    assert link.endswith("</a> (trained on this case)")


def test_the_command_asks_for_what_was_stored() -> None:
    from typer.main import get_command

    from spade_bench.cli.main import app

    content = {
        "folder": "runs",
        "name": "run-1.json",
        "encoders": [
            {"name": "spade", "label": "mine", "weights": "C:\\weights\\spade dir", "options": {}},
            {"name": "uni", "label": "uni", "weights": None, "options": {}},
        ],
        "tasks": [{"name": "t", "table": "/somewhere/else/t.csv"}],
        "heads": {"logistic": {"C": 1.0}},
        "any_features": "/data/features",
        "features": {},
        "protocol": "few-shot",
        "shots": [1, 4],
        "draws": 3,
        "seed": 7,
        "controls": False,
        "allow_missing": True,
        "folds": 5,
        "keep_heads": "all",
        "cohort_features": {
            "t": {"uni": "/ward/uni", "lite": "/ward/lite", "other": "/ward/other"},
            "s": {"uni": "/ward/uni2"},
        },
    }
    command = howmade.command(content, ["lite"]).replace("\\\n", " ").split()
    joined = " ".join(command)
    assert "--weights 'mine=spade dir'" in joined
    assert "somewhere" not in joined
    wanted = ("--shots 1,4", "--draws 3", "--seed 7", "--no-controls", "--allow-missing")
    wanted += ("--table t=t.csv", "--features features", "--encoder mine=spade", "--out runs")
    for flag in wanted:
        assert flag in joined, flag
    assert "--folds" not in joined, "that of another protocol"
    assert "--keep-heads all" in joined
    assert "--features lite=lite" in joined, "what the workspace gave to the base of an encoder"
    assert "other" not in joined
    assert "--features uni=" not in joined, "two tasks have two folders, which no command can say"
    (shown,) = howmade.run_settings([content])
    assert ("features of uni, by the workspace", "uni, uni2") in shown.settings
    run = get_command(app).commands["run"]  # type: ignore[attr-defined]
    known = {name for one in run.params for name in (*one.opts, *one.secondary_opts)}
    assert {word for word in command if word.startswith("--")} <= known


@pytest.mark.parametrize(
    ("values", "level", "ends"),
    [([0.61, 0.55, None], 0.5, (0.5, 0.7)), ([], None, (0.0, 1.0)), ([0.3], None, (0.3, 0.4))],
)
def test_the_axis_of_small_plots_holds_all_values(
    values: list[float | None], level: float | None, ends: tuple[float, float]
) -> None:
    low, high = plot_scale(values, level)
    assert (low, high) == pytest.approx(ends)
