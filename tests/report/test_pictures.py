"""Kaplan-Meier and calibration pictures: which are drawn, and what is in them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from spade_bench.cli.main import main
from spade_bench.report import Resampler, collect
from spade_bench.report.figures.calibration_plot import reliability
from spade_bench.report.figures.survival_plot import km_band
from spade_bench.report.mainseries import main_series
from spade_bench.report.pictures import Drawn, Picture, draw_pictures, new_figure, picture_name
from spade_bench.statistics.kaplan_meier import survival_curve

N = 90
P = np.random.default_rng(0).uniform(0.02, 0.98, N)
LABEL = (np.random.default_rng(1).uniform(size=N) < P).astype(np.int64)


def _report(out: Path, *arguments: str) -> set[str]:
    with pytest.raises(SystemExit) as done:
        main(["report", str(out), *arguments])
    assert done.value.code == 0
    return {path.name for path in (out / "plots").glob("*.png")}


def test_pictures_are_drawn_unless_not_wanted(
    store: Any, risks: Any, classes: Any, tmp_path: Path
) -> None:
    risk = np.random.default_rng(3).normal(size=60)
    for encoder in ("uni", "lite0"):
        store(tmp_path, {"encoder": encoder, "task": "os"}, risks(risk))
        store(tmp_path, {"encoder": encoder, "task": "os", "protocol": "external"}, risks(risk))
        store(tmp_path, {"encoder": encoder, "task": "braf"}, classes(P, LABEL))
    store(tmp_path, {"task": "dead", "encoder": "uni"}, risks(np.zeros(30)))
    scores = np.random.default_rng(2).dirichlet([1, 1, 1], N)
    three = replace(classes(P, LABEL), classes=("a", "b", "c"), scores=scores)
    store(tmp_path, {"task": "three"}, three)
    assert _report(tmp_path, "--no-plots", "--json") == set()
    found = _report(tmp_path, "--json")
    assert {name for name in found if "kaplan-meier" in name or "calibration" in name} == {
        "os-cox-few-shot-kaplan-meier.png",
        "os-cox-external-kaplan-meier.png",
        "dead-cox-few-shot-kaplan-meier.png",
        "braf-logistic-few-shot-calibration.png",
    }
    first = (tmp_path / "plots" / "os-cox-few-shot-kaplan-meier.png").read_bytes()
    assert first[:4] == b"\x89PNG"
    _report(tmp_path)
    assert (tmp_path / "plots" / "os-cox-few-shot-kaplan-meier.png").read_bytes() == first


def test_main_head_largest_shot_and_ensemble_are_drawn(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    told = classes(P, LABEL)
    for head in ("abmil", "logistic"):
        for k in (1, 16):
            store(tmp_path, {"head": head, "k_shot": k}, told)
    store(tmp_path, {"task": "other", "head": "transmil"}, told)
    store(tmp_path, {"task": "other", "head": "abmil"}, told)
    store(tmp_path, {"encoder": "uni"}, told, flags=("control:permuted-labels",))
    for fold in (0, 1, None):
        flags = ("ensemble",) if fold is None else ()
        store(tmp_path, {"protocol": "cv", "fold": fold}, told, flags=flags)
    found = main_series(collect(tmp_path), Resampler(tmp_path))
    assert {key: [(s.k_shot, s.flags, len(s.rows)) for s in own] for key, own in found.items()} == {
        ("t", "logistic", "few-shot"): [(16, (), 1)],
        ("t", "logistic", "cv"): [(None, ("ensemble",), 1)],
        ("other", "abmil", "few-shot"): [(4, (), 1)],
    }


def test_bins_hold_every_prediction_and_the_prevalence(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    store(tmp_path, {"draw": 0}, classes(P, LABEL))
    store(tmp_path, {"draw": 1}, classes(P**2, LABEL))
    (series,) = collect(tmp_path)
    found = reliability(series, Resampler(tmp_path, n_boot=100))
    assert found.count.sum() == 2 * N
    assert found.count.max() - found.count.min() <= 2
    assert np.average(found.observed, weights=found.count) == pytest.approx(LABEL.mean())
    assert np.average(found.predicted, weights=found.count) == pytest.approx((P + P**2).mean() / 2)
    assert (np.diff(found.predicted) > 0).all()
    assert (found.low <= found.observed).all()
    assert (found.observed <= found.high).all()


def test_calibrated_predictions_lie_on_the_diagonal_and_others_do_not(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    n = 2000
    p = np.random.default_rng(5).uniform(size=n)
    label = np.random.default_rng(6).uniform(size=n) < p
    sharp = 1 / (1 + np.exp(-4 * np.log(p / (1 - p))))
    inside = {}
    for name, told in (("good", p), ("sharp", sharp)):
        store(tmp_path, {"encoder": name}, classes(told, label))
    for series in collect(tmp_path):
        found = reliability(series, Resampler(tmp_path, n_boot=500))
        inside[series.encoder] = int(
            ((found.low <= found.predicted) & (found.predicted <= found.high)).sum()
        )
    assert inside["good"] >= 8
    assert inside["sharp"] <= 5


def test_a_case_is_resampled_with_all_predictions_about_it(
    store: Any, classes: Any, tmp_path: Path
) -> None:
    """Repeating folds with the same predictions must not make intervals narrower."""
    whole = classes(P, LABEL)
    store(tmp_path / "one", {}, whole)
    for draw in range(3):
        order = np.random.default_rng(draw).permutation(N)
        for fold in range(3):
            at = np.sort(order[fold::3])
            part = replace(
                whole,
                case_ids=tuple(whole.case_ids[i] for i in at),
                target=whole.target[at],
                scores=whole.scores[at],
            )
            store(tmp_path / "many", {"protocol": "cv", "draw": draw, "fold": fold}, part)
    one, many = (
        reliability(collect(out)[0], Resampler(out, n_boot=200))
        for out in (tmp_path / "one", tmp_path / "many")
    )
    assert (many.count == 3 * one.count).all()
    for name in ("predicted", "observed", "low", "high"):
        assert np.allclose(getattr(one, name), getattr(many, name))


def test_tied_predictions_make_fewer_bins(store: Any, classes: Any, tmp_path: Path) -> None:
    store(tmp_path, {}, classes(np.where(P > 0.5, 0.75, 0.25), LABEL))
    found = reliability(collect(tmp_path)[0], Resampler(tmp_path, n_boot=50))
    assert found.predicted == pytest.approx([0.25, 0.75])
    _report(tmp_path)
    store(tmp_path / "flat", {}, classes(np.full(N, 0.5), LABEL))
    assert reliability(collect(tmp_path / "flat")[0], Resampler(tmp_path / "flat")).count == [N]


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_is_that_of_the_metrics(risks: Any, seed: int) -> None:
    event, exact = risks(np.zeros(50), seed).target.T
    days = np.ceil(exact / 100)  # with ties
    times, values, band = km_band(event > 0, days)
    want = survival_curve(event > 0, days)
    assert values[0] == 1.0
    assert np.allclose(values[np.isin(times, want.times)], want.values)
    assert band is not None
    known = np.isfinite(band[0])
    assert (band[0][known] <= values[known] + 1e-12).all()
    assert (values[known] <= band[1][known] + 1e-12).all()


def test_names_of_pictures_do_not_meet() -> None:
    words = ("a b", "a_b", "a  b", "a_ b", "a b/c", "a_b/c", "a_b c", "a-b", "a.b")
    names = [picture_name(word, "logistic") for word in words]
    assert len(set(names)) == len(words)
    assert all(" " not in name and "/" not in name for name in names)
    assert picture_name("crc_braf", "cox", "few-shot") == "crc_braf-cox-few-shot"


def test_pictures_of_one_name_are_all_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [("a", "b-c"), ("a-b", "c"), ("other",)]
    pictures = [
        Picture("curve", place, lambda: Drawn(new_figure(1.0, 1.0), [])) for place in places
    ]
    paths = draw_pictures([*pictures, Picture("band", ("x",), pictures[0].make)], tmp_path)
    assert len(set(paths)) == 4
    assert [path.name for path in paths[2:]] == ["other.png", "x.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)
    assert f"3 curves, 1 band in {tmp_path}" in capsys.readouterr().err
    assert draw_pictures([], tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["png", "pdf"])
@pytest.mark.parametrize("layout", ["none", "constrained"])
def test_a_picture_is_as_matplotlib_draws_it_and_resamples_its_images_once(
    kind: str, layout: Literal["none", "constrained"], monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from spade_bench.report.drawing.look import LOOK

    resampled = []
    make_image = AxesImage.make_image

    def counted(self: AxesImage, *args: Any, **kwargs: Any) -> Any:
        resampled.append(self)
        return make_image(self, *args, **kwargs)

    monkeypatch.setattr(AxesImage, "make_image", counted)

    def made() -> Figure:
        figure = new_figure(2, 2)
        figure.set_layout_engine(layout)
        axes = figure.add_subplot()
        axes.imshow(np.random.default_rng(0).integers(0, 255, (90, 90, 3)).astype(np.uint8))
        axes.set_title("title")
        axes.plot([0, 80], [0, 80], label="line")
        figure.legend(loc="outside lower center" if layout == "constrained" else "lower center")
        return figure

    metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    once, twice = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(LOOK):
        made().savefig(once, format=kind, metadata=metadata)
        assert len(resampled) == 1
        plain = made()
        monkeypatch.setattr(type(plain), "draw", Figure.draw)
        plain.savefig(twice, format=kind, metadata=metadata)
    assert len(resampled) == 3
    assert once.getvalue() == twice.getvalue()
