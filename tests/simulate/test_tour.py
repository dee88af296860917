"""The five-minute tour through the commands and through Python: the same files."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import nbformat
import numpy as np
import pandas as pd
import pytest
from command_line import run_main

import spade_bench as sb
from spade_bench.cli.pretrain import pretrain as pretrain_command
from spade_bench.features.bags import find_bags, read_bag

pytestmark = pytest.mark.slow

BASE = "efficientnet-lite0"
TINY = {
    "clustering.k_organ": 1,
    "clustering.k_experts": 2,
    "training.epochs": 2,
    "training.workers": 1,
    "controls.k1": False,
    "controls.untrained_seeds": 1,
}
RUN = {"shots": (2,), "draws": 2, "device": "cpu", "controls": True}


def arrays(folder: Path) -> dict[str, tuple[bytes, str]]:
    """The numbers of every feature file, and what it says made them."""
    found = {}
    for path in sorted(folder.rglob("*.h5")):
        with h5py.File(path) as file:
            identity = json.loads(str(file["features"].attrs["identity"]))
            found[path.stem] = np.asarray(file["features"]).tobytes(), identity["digest"]
    return found


def rows(out: Path) -> list[dict[str, Any]]:
    kept = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    differing = ("seconds", "created_utc", "row_sha256")
    return [{key: row[key] for key in row if key not in differing} for row in kept]


def test_slides_are_extracted_alike(
    study: tuple[Path, dict[str, Any]], chain: tuple[Path, Path], tmp_path: Path
) -> None:
    slides = sorted((study[0] / "slides").glob("*.tif"))[:2]
    encoder = sb.load_encoder(BASE, device="cpu")
    done = sb.extract(slides, encoder, out=tmp_path / "out", preview=False)
    assert sorted(done.done) == [path.stem for path in slides]
    commands = arrays(chain[0])
    assert arrays(tmp_path / "out") == {path.stem: commands[path.stem] for path in slides}
    bag = sb.extract(str(slides[0]), BASE)
    stored = read_bag(find_bags(chain[0])[slides[0].stem])
    assert np.array_equal(bag.features, stored.features)
    assert bag.coords is not None
    assert stored.coords is not None
    assert np.array_equal(bag.coords, stored.coords)
    assert (bag.mpp, bag.patch_size_level0, bag.encoder) == (0.5, stored.patch_size_level0, BASE)


def test_features_are_encoded_alike(chain: tuple[Path, Path], tmp_path: Path) -> None:
    features, weights = chain
    arguments = ("--features", features, "--weights", weights, "--device", "cpu")
    with contextlib.chdir(tmp_path):
        assert run_main("encode", *arguments, "--out", "commands") == 0
    spade = sb.load_encoder("spade", weights=weights, device="cpu")
    sb.encode(features, spade, out=tmp_path / "python")
    commands = arrays(tmp_path / "commands")
    python = arrays(tmp_path / "python")
    assert {name: one[0] for name, one in python.items()} == {
        name: one[0] for name, one in commands.items()
    }
    name, path = next(iter(find_bags(features).items()))
    bag = read_bag(path)
    as_bag = sb.encode(bag, spade)
    assert isinstance(as_bag, sb.Bag)
    assert as_bag.features.astype(np.float32).tobytes() == commands[name][0]
    assert np.array_equal(sb.encode(np.asarray(bag.features), spade), as_bag.features)
    data = sb.encode(bag.to_anndata(), spade)
    assert np.array_equal(data.X, as_bag.features)
    assert np.array_equal(data.obsm["spatial"], np.asarray(bag.coords))


@pytest.fixture(scope="module")
def command_runs(
    study: tuple[Path, dict[str, Any]],
    chain: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("commands")
    with contextlib.chdir(out):
        code = run_main(
            *("run", "--encoder", BASE, "--encoder", "spade", "--weights", f"spade={chain[1]}"),
            *("--task", "crc_braf", "--table", study[0] / "tables" / "crc_braf.csv"),
            *("--features", chain[0], "--shots", "2", "--draws", "2", "--device", "cpu"),
            *("--out", "runs"),
        )
    assert code == 0
    return out / "runs"


@pytest.mark.parametrize("kind", ["names and paths", "objects in memory"])
def test_encoders_are_evaluated_alike(
    kind: str,
    study: tuple[Path, dict[str, Any]],
    chain: tuple[Path, Path],
    command_runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table: Any = study[0] / "tables" / "crc_braf.csv"
    encoders: list[Any] = [BASE, "spade"]
    features: Any = str(chain[0])
    weights: Any = {"spade": chain[1]}
    if kind == "objects in memory":
        table = pd.read_csv(table)
        encoders[1] = sb.load_encoder("spade", weights=chain[1], device="cpu")
        features, weights = sb.read_features(chain[0]), None
    results = sb.evaluate(
        encoders,
        task="crc_braf",
        table=table,
        features=features,
        weights=weights,
        out=tmp_path / "runs",
        **RUN,
    )
    mine, theirs = rows(tmp_path / "runs"), rows(command_runs)
    if kind == "names and paths":
        assert mine == theirs
    else:  # the files that bags were written to say less than those that were extracted
        numbers = ("encoder", "head", "control", "k_shot", "draw", "metrics", "n")
        assert [[row[key] for key in numbers] for row in mine] == [
            [row[key] for key in numbers] for row in theirs
        ]
    capsys.readouterr()
    with contextlib.chdir(tmp_path):
        assert run_main("report", command_runs, "--json", "--no-plots") == 0
    printed = json.loads(capsys.readouterr().out)["rows"]
    board = results.leaderboard("all")
    means = {(r["encoder"], r["control"], r["metric"]): r["mean"] for r in printed}
    for row in board.itertuples():
        assert means[row.encoder, row.control, row.metric] == row.mean


def test_results_are_one_object(command_runs: Path, tmp_path: Path) -> None:
    results = sb.load_results(command_runs)
    cells = results.to_dataframe()
    assert set(cells["status"]) == {"ok"}
    assert len(cells) == len(rows(command_runs))
    predictions = results.predictions(encoder="spade", k_shot=2, control="")
    assert set(predictions["draw"]) == {0, 1}
    sums = predictions[["score:wildtype", "score:mutant"]].sum(axis=1)
    assert np.allclose(sums, 1)
    assert results.coverage().empty
    compared = results.compare("spade", BASE)
    assert "SPADE minus" in compared.attrs["verdict"]
    for kind, more in (("curve", {}), ("calibration", {}), ("forest", {"a": "spade", "b": BASE})):
        results.plot(kind, **more).savefig(tmp_path / f"{kind}.png")
    with pytest.raises(sb.UserError, match="Nothing here can be drawn as 'survival'"):
        results.plot("survival")
    with pytest.raises(sb.UserError, match="Did you mean 'curve'"):
        results.plot("curves")
    with pytest.raises(sb.UserError, match="No finished cell has encoder='uni'"):
        results.predictions(encoder="uni")
    assert "finished cells of" in repr(results)


def test_missing_cells_are_listed(command_runs: Path, tmp_path: Path) -> None:
    lines = (command_runs / "results.jsonl").read_text().splitlines(keepends=True)
    for part in ("plans", "predictions"):
        (tmp_path / part).symlink_to(command_runs / part)
    kept = [line for line in lines if '"control": "pca"' not in line]
    (tmp_path / "results.jsonl").write_text("".join(kept))
    coverage = sb.load_results(tmp_path).coverage()
    assert list(coverage["absent"]) == [2]
    assert coverage["encoder"][0].startswith(f"{BASE}+pca")


def test_several_folders_are_one(command_runs: Path) -> None:
    once, twice = sb.load_results(command_runs), sb.load_results([command_runs, command_runs])
    pd.testing.assert_frame_equal(once.to_dataframe(), twice.to_dataframe())


def test_spade_is_pretrained_alike(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        pretrain_command(
            hest=study[0] / "hest",
            encoder=BASE,
            out=tmp_path / "commands",
            settings=[f"{key}={json.dumps(value)}" for key, value in TINY.items()],
            device="cpu",
            workers=1,
        )
    spade = sb.pretrain(
        hest=study[0] / "hest",
        encoder=BASE,
        out=tmp_path / "python",
        settings=TINY,
        device="cpu",
        workers=1,
    )
    for name in ("experts.safetensors", "centroids.safetensors", "genes.csv"):
        commands, python = (tmp_path / out / name for out in ("commands", "python"))
        assert commands.read_bytes() == python.read_bytes(), name
    assert spade is not None
    assert spade.encode(np.zeros((2, 1280), dtype=np.float32)).shape == (2, spade.dim)


def test_a_model_is_fitted_and_maps_a_slide(
    study: tuple[Path, dict[str, Any]], chain: tuple[Path, Path], tmp_path: Path
) -> None:
    table = pd.read_csv(study[0] / "tables" / "crc_braf.csv")
    train = table[table["case_id"] != table["case_id"][0]]
    model = sb.fit(
        BASE,
        task="crc_braf",
        table=train,
        features=chain[0],
        head="abmil",
        device="cpu",
        set={"abmil": {"epochs": 2, "min_steps": 0}},
    )
    model.save(tmp_path / "model")
    predictions = model.predict(chain[0])
    assert list(predictions.loc[~predictions["trained_on"], "case_id"]) == [
        slide for slide in table["slide_id"] if slide not in set(train["slide_id"])
    ]
    slide = study[0] / "slides" / f"{table['slide_id'][0]}.tif"
    maps = sb.explain(tmp_path / "model", slide=slide, features=chain[0])
    frame = maps.to_dataframe()
    assert np.isclose(frame["attention"].sum(), 1)
    assert frame["percentile"].between(0, 1).all()
    maps.plot().savefig(tmp_path / "map.png")
    content = json.loads(maps.to_geojson(tmp_path / "map.geojson").read_text())
    corner = content["features"][0]["geometry"]["coordinates"][0][0]
    assert corner == [int(frame["x"][0]), int(frame["y"][0])]
    knn = sb.fit(BASE, "crc_braf", table=train, features=chain[0], head="knn", device="cpu")
    with pytest.raises(sb.UserError, match="cannot say what each patch adds"):
        sb.explain(knn, slide=slide, features=chain[0])


def test_spots_are_read(study: tuple[Path, dict[str, Any]]) -> None:
    sample = next((study[0] / "hest" / "st").glob("*.h5ad")).stem
    spots = sb.read_spots(study[0] / "hest", sample=sample)
    assert spots.uns["sample_id"] == sample
    assert spots.obsm["spatial"].shape == (spots.n_obs, 2)
    with pytest.raises(sb.SpadeBenchError, match="samples are here"):
        sb.read_spots(study[0] / "hest")
    with pytest.raises(sb.SpadeBenchError, match=r"no transcripts\.parquet"):
        sb.read_spots(study[0] / "hest", technology="xenium")


NOTEBOOK = """
import spade_bench as sb
encoder = sb.load_encoder("efficientnet-lite0", device="cpu")
features = sb.extract("{slide}", encoder)
z = sb.encode(features, sb.load_encoder("spade", weights="{weights}", device="cpu"))
results = sb.evaluate(["spade", "efficientnet-lite0"], task="crc_braf", table="{table}",
                      features="{features}", weights={{"spade": "{weights}"}}, shots=(2,),
                      draws=2, device="cpu", protocol="few-shot")
results.to_dataframe(); results.predictions(encoder="spade", k_shot=2); results.leaderboard()
results.compare("spade", "efficientnet-lite0")
results.plot(kind="curve")
model = sb.fit(encoder, task="crc_braf", table="{table}", features="{features}", head="abmil",
               device="cpu", set={{"abmil": {{"epochs": 2, "min_steps": 0}}}})
model.predict("{features}"); model.save("model/")
maps = sb.explain(model, slide="{slide}", features="{features}")
maps.to_dataframe(); maps.plot(); maps.to_geojson("map.geojson")
spots = sb.read_spots("{hest}", sample="{sample}")
results = sb.load_results("{runs}")
"""


def test_the_lines_of_the_front_door_run_in_a_notebook(
    study: tuple[Path, dict[str, Any]],
    chain: tuple[Path, Path],
    command_runs: Path,
    tmp_path: Path,
) -> None:
    text = NOTEBOOK.format(
        slide=min((study[0] / "slides").glob("*.tif")),
        weights=chain[1],
        table=study[0] / "tables" / "crc_braf.csv",
        features=chain[0],
        hest=study[0] / "hest",
        sample=next((study[0] / "hest" / "st").glob("*.h5ad")).stem,
        runs=command_runs,
    )
    cells = [nbformat.v4.new_code_cell(text), nbformat.v4.new_code_cell("results.plot()")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, tmp_path / "tour.ipynb")
    root = Path(__file__).resolve().parents[2]
    code = (
        "import nbclient, nbformat\n"
        "notebook = nbformat.read('tour.ipynb', 4)\n"
        "nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, 'tour.ipynb')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = nbformat.read(tmp_path / "tour.ipynb", 4)
    kinds = {key for cell in shown.cells for out in cell.outputs for key in out.get("data", {})}
    assert "application/vnd.jupyter.widget-view+json" in kinds  # a progress bar
    assert "image/png" in kinds  # the figure
    assert (tmp_path / "map.geojson").is_file()
