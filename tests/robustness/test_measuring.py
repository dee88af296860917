"""Robustness of a cohort: centres from a column or a barcode, controls, patches, the command."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run_main

import spade_bench as sb
from spade_bench.errors import SpadeBenchError, UserError
from spade_bench.features.bags import write_features
from spade_bench.statistics.neighbourhoods import neighbourhoods

DIM, CASES = 12, 60


def _write(folder: Path, site_effect: float, encoder: str) -> Path:
    rng = np.random.default_rng(0)
    for i in range(CASES):
        x = rng.normal(size=(6, DIM)) + rng.normal(size=DIM)
        x[:, :2] += 2.0 * np.eye(2)[i % 2]
        x[:, 2:5] += site_effect * np.eye(3)[i // 2 % 3]
        write_features(folder / f"features_{encoder}" / f"s{i:02d}.h5", x, slide_id=f"s{i:02d}",
                       encoder=encoder)  # fmt: skip
    return folder / f"features_{encoder}"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sites")
    lines = ["case_id,slide_id,label,site,scanner"]
    lines += [
        f"c{i:02d},s{i:02d},{'tumor' if i % 2 else 'normal'},S{i // 2 % 3},{'AB'[i // 2 % 2]}"
        for i in range(CASES)
    ]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return {
        "table": folder / "cases.csv",
        "robust": _write(folder, 0.0, "robust"),
        "fragile": _write(folder, 4.0, "fragile"),
    }


def _measure(cohort, *encoders, **more):
    given = {"controls": False, **more}
    features = {name: cohort[name] for name in encoders}
    return sb.robustness(list(encoders), table=cohort["table"], features=features, **given)


def test_a_planted_site_is_found_and_encoders_are_paired(cohort) -> None:
    found = _measure(cohort, "robust", "fragile")
    table = found.to_dataframe().set_index("encoder")
    assert table.loc["robust", "robustness_index"] > table.loc["robust", "ci_low"]
    assert table.loc["robust", "ci_low"] > table.loc["fragile", "ci_high"]
    assert (table["anchors"] == CASES).all()
    assert table.loc["fragile", "centre_probe_auroc"] > 0.95
    assert table.loc["robust", "centre_probe_ci_low"] < 0.5
    assert table.loc["robust", "class_probe_auroc"] > 0.8
    assert table.loc["fragile", "margins_q05"] < 0
    (gap,) = found.differences().to_dict("records")
    expected = table.loc["robust", "robustness_index"] - table.loc["fragile", "robustness_index"]
    assert gap["mean"] == pytest.approx(expected)
    assert gap["ci_low"] > 0
    assert found.crossing["S0"] == {"normal": 10, "tumor": 10}
    figure = found.plot()
    assert len(figure.axes) == 2
    drops = {row.encoder: row.performance_drop for row in found.rows}
    assert drops["robust"] is not None
    assert drops["fragile"] is not None
    assert drops["fragile"].drop_at_home < drops["robust"].drop_at_home - 0.1
    stored = found.as_dict()["rows"][0]["performance_drop"]
    # Of the ten cases of each cell four are tested on: a third, and one more so that half of the
    # six that are left come from either centre.
    assert stored["train_cases"] == 2 * 6


def test_the_words_of_the_picture_cover_no_number(cohort) -> None:
    figure = _measure(cohort, "robust", "fragile").plot()
    figure.canvas.draw()
    shown = [one for one in figure.axes[0].texts if one.get_text()]
    boxes = [one.get_window_extent() for one in shown]
    assert len(boxes) == 3  # two indices and the word of chance
    boxes += [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.slow
def test_the_number_is_that_of_the_pooled_slides(cohort) -> None:
    found = _measure(cohort, "fragile", k=7)
    x = np.stack([sb.read_features(cohort["fragile"]).X[6 * i : 6 * i + 6].mean(axis=0)
                  for i in range(CASES)])  # fmt: skip
    at = np.arange(CASES)
    wanted = neighbourhoods(x.astype(float), at % 2, at // 2 % 3, at, 7)
    assert found.rows[0].robustness_index == pytest.approx(wanted.index)
    assert found.rows[0].chance == pytest.approx(wanted.chance)
    assert found.rows[0].k == 7


def test_controls_stand_beside_the_encoder(cohort) -> None:
    found = _measure(cohort, "fragile", controls=True)
    controls = [row for row in found.rows if row.control]
    assert [row.control for row in controls] == ["random-projection"]
    assert "permuted-labels" not in {row.control for row in found.rows}


def test_patches_and_another_column(cohort) -> None:
    found = _measure(cohort, "fragile", by="scanner", points="patches", per_slide=4)
    assert found.points.kind == "patches"
    assert found.rows[0].points == 4 * CASES
    assert found.points.centres == ("A", "B")
    assert found.rows[0].centre_probe.values == ("A", "B")


def test_sites_of_barcodes(cohort, tmp_path) -> None:
    lines = ["case_id,slide_id,label"]
    lines += [f"TCGA-{'ABC'[i // 2 % 3]}1-00{i:02d},s{i:02d},{'xy'[i % 2]}" for i in range(CASES)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = sb.robustness("fragile", table=tmp_path / "t.csv", features=cohort["fragile"],
                          controls=False)  # fmt: skip
    assert found.points.centres == ("A1", "B1", "C1")


def test_bootstrap_draws_whole_cases(cohort, tmp_path) -> None:
    """Twice the same patch of each slide leaves the interval as wide as it was."""
    once = _measure(cohort, "robust", points="patches", per_slide=1, k=5)
    many = _measure(cohort, "robust", points="patches", per_slide=6, k=5)
    width = [row.ci_high - row.ci_low for row in (once.rows[0], many.rows[0])]
    assert width[1] > width[0] / 2.5  # independent patches would make it 1 / sqrt(6)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"by": "hospital"}, "there is no column 'hospital'"),
        ({"points": "cells"}, "there are no points 'cells'"),
        ({"k": 100}, "100 neighbours are asked for"),
        ({"label_column": "site"}, "not crossed"),
        ({"task": "regression:site"}, "Robustness needs classes|target of case"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(cohort, more, words) -> None:
    with pytest.raises(SpadeBenchError, match=words):
        _measure(cohort, "robust", **more)


def test_the_command_prints_json_and_draws(cohort, tmp_path, capsys) -> None:
    command = ["robustness", "--encoder", "fragile", "--features", cohort["fragile"], "--json"]
    assert run_main(*command, "--table", cohort["table"], "--out", tmp_path, "--no-controls") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "spade-bench/robustness/1"
    (row,) = content["rows"]
    assert {"robustness_index", "ci_low", "ci_high", "anchors", "k"} <= set(row)
    stored = json.loads((tmp_path / "robustness.json").read_text())
    assert stored["rows"] == content["rows"]
    assert (tmp_path / "plots" / "robustness-site-slides.png").is_file()


def test_folders_of_pathorob_are_read_as_they_are(tmp_path) -> None:
    rng = np.random.default_rng(0)
    lines, by_centre = ["subset,slide_id,patch_id,biological_class,medical_center"], {}
    x = []
    for i in range(48):
        slide, centre, label = f"s{i // 4}", f"Center {i // 4 % 2}", f"class{i // 8 % 2}"
        vector = rng.normal(size=6).astype(np.float32) + 2 * (i // 8 % 2)
        lines.append(f"ID,{slide},{i}_0,{label},{centre}")
        by_centre.setdefault(centre.replace(" ", "_"), {})[f"{slide}-{i}_0"] = vector
        x.append(vector)
    lines.append("OOD,s99,0_0,class0,Elsewhere")
    (tmp_path / "meta.csv").write_text("\n".join(lines) + "\n")
    folder = tmp_path / "uni2h_clsmean" / "tiny"
    folder.mkdir(parents=True)
    for centre, vectors in by_centre.items():
        np.savez(folder / f"{centre}.npz", **vectors)
    found = sb.robustness("uni2h", table=tmp_path / "meta.csv", features=folder, k=5)
    at = np.arange(48)
    wanted = neighbourhoods(np.stack(x).astype(float), at // 8 % 2, at // 4 % 2, at // 4, 5)
    assert found.rows[0].robustness_index == pytest.approx(wanted.index)
    assert found.rows[0].points == 48
    path = folder / "Center_1.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpadeBenchError, match="not a readable npz file"):
        sb.robustness("uni2h", table=tmp_path / "meta.csv", features=folder)
    with np.load(io.BytesIO(whole)) as stored:
        bad = {name: np.full_like(stored[name], np.nan) for name in stored}
    np.savez(path, **bad)
    with pytest.raises(SpadeBenchError, match="hold NaN or infinity"):
        sb.robustness("uni2h", table=tmp_path / "meta.csv", features=folder)
    path.unlink()
    with pytest.raises(UserError, match="no features of centre 'Center 1'"):
        sb.robustness("uni2h", table=tmp_path / "meta.csv", features=folder)
