"""Xenium bundles of three generations: transcripts to pseudo-spots, counted once and in place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_sections import CONTROLS, GENES, transcripts, write_bundle

import spade_bench as sb
from spade_bench.spatial import read_section
from spade_bench.spatial.expression import Expression, read_expression
from spade_bench.spatial.instruments import transcripts as counting
from spade_bench.spatial.instruments.pseudospots import Pooling, SpotGrid
from spade_bench.spatial.instruments.transcripts import count_transcripts, is_control

REAL = ("human_5k_pan", "ovarian_5k")


def counted_by_pandas(table: pd.DataFrame, side: float = 100.0) -> pd.DataFrame:
    """The same in a line: spots by row and column, genes."""
    good = table[(table["qv"] >= 20) & table["feature_name"].isin(GENES)]
    row, column = (np.floor(good[f"{axis}_location"] / side).astype(int) for axis in "yx")
    return pd.crosstab([row, column], good["feature_name"])


def frame_of(data: Expression) -> pd.DataFrame:
    places = pd.MultiIndex.from_arrays(data.array.astype(int).T)  # type: ignore[union-attr]
    return pd.DataFrame(data.values.toarray(), index=places, columns=data.genes)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_generation_counts_as_pandas_does(version: int, tmp_path: Path) -> None:
    data = read_expression(read_section(write_bundle(tmp_path / "x", version=version)))
    wanted = counted_by_pandas(transcripts())
    found = frame_of(data)
    assert list(data.genes) == list(GENES)  # the gene of the panel that nothing was seen of too
    assert list(found.index) == list(wanted.index)
    np.testing.assert_array_equal(found[wanted.columns], wanted)
    assert found[GENES[-1]].sum() == 0
    assert [f.kind for f in data.findings] == ["pseudo-spots"]  # totals are those of the summary


def test_categories_tell_controls_where_nothing_else_does(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x")
    wanted = sb.read_spots(bundle)
    table = transcripts().drop(columns="is_gene")
    odd = table["codeword_category"] == "unassigned_codeword"
    table.loc[odd, "feature_name"] = "LOOKSLIKEAGENE"
    table.to_parquet(bundle / "transcripts.parquet")
    found = sb.read_spots(bundle)
    assert list(found.var_names) == list(wanted.var_names)
    assert (found.X != wanted.X).nnz == 0


def test_names_tell_controls_as_categories_do() -> None:
    assert all(is_control(name) for name in CONTROLS)
    assert not any(is_control(name) for name in (*GENES, "NEGR1", "BLNK", "ANTXR1", "DEPDC1"))


@pytest.mark.parametrize(("batch", "table"), [(64, 0), (701, 0), (64, 1000), (701, 1000)])
def test_batches_and_merges_change_nothing(
    batch: int, table: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bundle(tmp_path / "x") / "transcripts.parquet"
    whole = count_transcripts(path, SpotGrid(55, "hexagonal"))
    monkeypatch.setattr(counting, "_TABLE", table)
    monkeypatch.setattr(counting, "_BATCH", batch)
    monkeypatch.setattr(counting, "_FIRST_MERGE", 100)
    pieces = count_transcripts(path, SpotGrid(55, "hexagonal"))
    order = [list(pieces.genes).index(gene) for gene in whole.genes]
    assert (whole.counts != pieces.counts[:, order]).nnz == 0
    np.testing.assert_array_equal(whole.row, pieces.row)
    assert whole.kept == pieces.kept


def test_what_is_left_out_adds_up(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "x") / "transcripts.parquet"
    for grid in (SpotGrid(100), SpotGrid(55, "hexagonal", 100)):
        tally = count_transcripts(path, grid)
        parts = tally.kept + tally.low_quality + tally.controls + tally.between
        assert parts == tally.transcripts == len(transcripts())
        assert tally.counts.sum() == tally.kept
        assert (tally.between > 0) == (grid.pitch > grid.spot_um)


def test_quality_values_can_be_chosen(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x")
    table = transcripts()
    genes = table["feature_name"].isin(GENES)
    assert sb.read_spots(bundle, min_qv=0).X.sum() == genes.sum()
    assert sb.read_spots(bundle, min_qv=40).X.sum() == (genes & (table["qv"] == 40)).sum()


@pytest.mark.parametrize("packed", [True, False])
def test_transcripts_may_be_csv(packed: bool, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x", version=2)
    wanted = sb.read_spots(bundle)
    table = pd.read_parquet(bundle / "transcripts.parquet")
    (bundle / "transcripts.parquet").unlink()
    text = table.to_csv(index=False).encode()
    path = bundle / ("transcripts.csv.gz" if packed else "transcripts.csv")
    path.write_bytes(gzip.compress(text) if packed else text)
    found = sb.read_spots(bundle)
    assert (found.X != wanted.X).nnz == 0
    assert list(found.obs_names) == list(wanted.obs_names)


def test_positions_are_um_without_an_image(tmp_path: Path) -> None:
    spots = sb.read_spots(write_bundle(tmp_path / "run" / "outs").parent, spot_um=55)
    assert spots.uns["sample_id"] == "run"
    known = {key: spots.uns[key] for key in ("technology", "spatial_unit", "spot_um", "spot_grid")}
    assert known == {
        "technology": "Xenium", "spatial_unit": "um", "spot_um": 55, "spot_grid": "square"
    }  # fmt: skip
    assert "4,000 transcripts counted in" in spots.uns["notes"][0]
    row, column = (int(part) for part in spots.obs_names[3].split("_")[2:])
    np.testing.assert_allclose(spots.obsm["spatial"][3], [(column + 0.5) * 55, (row + 0.5) * 55])


def test_the_panel_comes_from_its_file_where_there_is_no_matrix(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x", matrix=False)
    targets = [
        {"type": {"descriptor": "gene", "data": {"name": name, "id": "E"}}} for name in GENES
    ] + [{"type": {"descriptor": "negative_control_probe", "data": {"name": "NegControlProbe_1"}}}]
    (bundle / "gene_panel.json").write_text(json.dumps({"payload": {"targets": targets}}))
    assert list(sb.read_spots(bundle).var_names) == list(GENES)
    (bundle / "gene_panel.json").write_text("{}")
    with pytest.raises(sb.SpadeBenchError, match="not a Xenium panel"):
        sb.read_spots(bundle)


def test_thinned_transcripts_and_foreign_panels_are_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x")
    transcripts().iloc[::3].to_parquet(bundle / "transcripts.parquet")
    found = {f.kind: f.text for f in read_expression(read_section(bundle)).findings}
    assert "the bundle's own summary counts" in found["bundle-totals"]
    renamed = transcripts()
    genes = renamed["feature_name"].isin(GENES)
    renamed.loc[genes, "feature_name"] = "OTHER" + renamed["feature_name"][genes]
    renamed.to_parquet(bundle / "transcripts.parquet")
    data = read_expression(read_section(bundle))
    assert "panel-foreign" in {f.kind for f in data.findings}
    assert set(data.genes) == {f"OTHER{gene}" for gene in GENES[:-1]}


def _without(column: str) -> pd.DataFrame:
    return transcripts(50).drop(columns=column)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (_without("qv"), "no column qv"),
        (transcripts(50).assign(qv=np.float32(3)), "none of 50 transcripts counts: 50 have"),
        (transcripts(50).assign(qv="good"), "stored as"),
        (transcripts(50)[:0], "holds no transcript"),
        (transcripts(50).assign(x_location=np.nan), "50 positions or qualities are no numbers"),
        (transcripts(50).assign(x_location=1e9, qv=40), "lies beyond any slide"),
    ],
)
def test_bad_transcripts_are_named(table: pd.DataFrame, what: str, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x")
    table.to_parquet(bundle / "transcripts.parquet")
    with pytest.raises(sb.SpadeBenchError, match=what):
        sb.read_spots(bundle)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x")
    path = bundle / "transcripts.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        sb.SpadeBenchError, match=r"transcripts.parquet: transcripts cannot be read"
    ):
        sb.read_spots(bundle)
    path.unlink()
    with pytest.raises(sb.SpadeBenchError, match=r"no transcripts.parquet"):
        sb.read_spots(bundle, technology="xenium")
    with pytest.raises(sb.UserError, match=r"Did you mean 'xenium'"):
        sb.read_spots(bundle, technology="xenum")


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("grid", [SpotGrid(100), SpotGrid(55, "hexagonal")])
def test_real_bundles_lose_no_transcript(name: str, grid: SpotGrid, shared_data: Path) -> None:
    path = shared_data / "xenium_bundle" / name / "transcripts.parquet"
    table = pd.read_parquet(path)
    tally = count_transcripts(path, grid)
    good = table["qv"] >= 20
    assert tally.counts.sum() == tally.kept == (good & table["is_gene"]).sum()
    assert tally.controls == (good & ~table["is_gene"]).sum()
    seen = table.loc[table["is_gene"], "feature_name"]  # of low quality too: they are measured
    assert set(tally.genes) == set(seen)
    wanted = seen[good].value_counts().reindex(tally.genes, fill_value=0)
    np.testing.assert_array_equal(np.asarray(tally.counts.sum(axis=0)).ravel(), wanted)


@pytest.mark.parametrize("name", REAL)
def test_thinned_real_bundles_are_named(name: str, shared_data: Path) -> None:
    data = read_expression(read_section(shared_data / "xenium_bundle" / name))
    kinds = {finding.kind for finding in data.findings}
    assert kinds == {"pseudo-spots", "bundle-totals", "panel-foreign"}  # see its SOURCE.txt


@pytest.mark.parametrize("name", REAL)
def test_names_and_categories_agree_in_real_bundles(name: str, shared_data: Path) -> None:
    table = pd.read_parquet(shared_data / "xenium_bundle" / name / "transcripts.parquet")
    features = table.drop_duplicates("feature_name")
    named = np.array([is_control(feature) for feature in features["feature_name"]])
    np.testing.assert_array_equal(named, ~features["is_gene"])
    category = features["codeword_category"].str.endswith("_gene")
    np.testing.assert_array_equal(category, features["is_gene"])


@pytest.mark.parametrize("name", REAL)
def test_real_bundles_are_recognised(name: str, shared_data: Path) -> None:
    spots = sb.read_spots(shared_data / "xenium_bundle" / name)
    assert (spots.uns["sample_id"], spots.uns["technology"]) == (name, "Xenium")
    wide = read_section(shared_data / "xenium_bundle" / name, pooling=Pooling(spot_um=200))
    assert read_expression(wide).values.sum() == spots.X.sum()


def test_unknown_software_and_a_missing_experiment_are_said(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x", version=3)
    path = bundle / "experiment.xenium"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"analysis_sw_version": "xenium-4.1.0.2"}))
    found = {f.kind: f.text for f in read_expression(read_section(bundle)).findings}
    assert "xenium-4.1.0.2" in found["software-unknown"]
    path.unlink()
    found = {f.kind: f.text for f in read_expression(read_section(bundle)).findings}
    assert "experiment-missing" in found
