"""The preparation: right numbers in the right rows, all losses counted, resumable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp

from spade_bench.encoders.spade.preparedspots import Spots, content_digest
from spade_bench.encoders.spade.pretraining.prepare import align, panel, sampleworkers, writer
from spade_bench.encoders.spade.pretraining.prepare import gather as collect
from spade_bench.encoders.spade.pretraining.prepare import preparation as running
from spade_bench.encoders.spade.pretraining.prepare.basefeatures import BaseEncoder
from spade_bench.encoders.spade.pretraining.prepare.preparation import PreparedSpots, prepare
from spade_bench.encoders.spade.pretraining.pretrainconfig import (
    GenesConfig,
    PretrainConfig,
    SamplesConfig,
    SplitConfig,
)
from spade_bench.errors import DataError
from spade_bench.features.bags import write_features

BASE = BaseEncoder("toy")
DIM, N_GENES = 6, 300
SIZES = {"S1": 30, "S2": 25, "S3": 36, "S4": 20}  # spots per sample


def lattice(n: int) -> np.ndarray:
    side = int(np.ceil(np.sqrt(n)))
    rows, columns = np.divmod(np.arange(n), side)
    return np.stack([200.0 * (columns + 0.5 * (rows % 2)), 173.2 * rows], axis=1) + 100


class Cohort:
    """A manifest cohort on disk whose parts can be spoilt before it is prepared."""

    def __init__(self, root: Path, sizes: dict[str, int]) -> None:
        self.root = root
        self.rows: list[dict[str, Any]] = []
        for seed, (name, n) in enumerate(sizes.items()):
            self.add(name, n, seed, patient=f"P{seed // 2}")

    def add(self, name: str, n: int, seed: int, *, patient: str, genes: int = N_GENES) -> None:
        rng = np.random.default_rng(seed)
        rate = rng.gamma(0.3, 2.0, size=(1, genes)) * rng.uniform(0.5, 2.0, size=(n, genes))
        data = anndata.AnnData(
            sp.csr_matrix(rng.poisson(rate).astype(np.float32)),
            obs=pd.DataFrame(index=[f"bc{i}" for i in range(n)]),
            var=pd.DataFrame(index=rng.permutation([f"G{i:03}" for i in range(genes)])),
            obsm={"spatial": lattice(n)},
        )
        self.root.mkdir(parents=True, exist_ok=True)
        data.write_h5ad(self.root / f"{name}.h5ad")
        order = rng.permutation(n)  # features in another order than the spots
        self.write_features(name, rng.normal(size=(n, DIM)), [f"bc{i}" for i in order])
        self.rows.append(
            {
                "sample_id": name,
                "h5ad": f"{name}.h5ad",
                "features": f"{name}.features.h5",
                "pixel_size_um": 0.5,
                "organ": "Skin",
                "patient": patient,
                "technology": "Visium",
            }
        )

    def write_features(self, name: str, values: np.ndarray, barcodes: list[str]) -> None:
        path = self.root / f"{name}.features.h5"
        write_features(path, values, slide_id=name, encoder="toy", barcodes=barcodes)

    def config(self, **changes: Any) -> PretrainConfig:
        pd.DataFrame(self.rows).to_csv(self.root / "manifest.csv", index=False)
        samples = SamplesConfig(manifest=self.root / "manifest.csv")
        base = PretrainConfig(
            encoder="toy",
            samples=samples,
            genes=GenesConfig(n_top=8),
            split=SplitConfig(validation="samples", test_fraction=0.0),
        )
        return replace(base, **changes)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "data", SIZES)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, PreparedSpots]:
    """A cohort that no test spoils, and what comes of it in one go."""
    root = tmp_path_factory.mktemp("untouched")
    cohort = Cohort(root / "data", SIZES)
    return cohort, prepare(cohort.config(), root / "whole", BASE)


def features_of(cohort: Cohort, name: str, barcode: str) -> np.ndarray:
    with h5py.File(cohort.root / f"{name}.features.h5") as handle:
        names = [b.decode() for b in handle["barcode"][:]]
        return np.asarray(handle["features"][names.index(barcode)])


def test_every_spot_has_its_own_features_and_its_own_expression(
    cohort: Cohort, tmp_path: Path
) -> None:
    prepared = prepare(cohort.config(), tmp_path / "out", BASE)
    spots = prepared.spots
    assert len(spots) == 111
    for row in (0, 29, 30, 60, 110):
        line = spots.obs.iloc[row]
        name, barcode = str(line["sample"]), str(line["barcode"])
        np.testing.assert_allclose(spots.features[row], features_of(cohort, name, barcode))
        data = anndata.read_h5ad(cohort.root / f"{name}.h5ad")
        scanpy.pp.normalize_total(data, target_sum=1e4)
        scanpy.pp.log1p(data)
        wanted = data[barcode, list(spots.genes)].X.toarray()[0]
        np.testing.assert_allclose(spots.expression[row].toarray()[0], wanted, rtol=1e-5)
        np.testing.assert_allclose(spots.spatial[row], data[barcode].obsm["spatial"][0])


def test_anndata_reads_the_same_and_arrays_are_one_block(cohort: Cohort, tmp_path: Path) -> None:
    spots = prepare(cohort.config(), tmp_path / "out", BASE).spots
    data = scanpy.read_h5ad(spots.path)
    np.testing.assert_array_equal(data.obsm["features"], spots.features)
    assert (spots.expression != data.X).nnz == 0
    assert list(data.var_names) == list(spots.genes)
    pd.testing.assert_frame_equal(data.obs.astype(str), spots.obs.astype(str))
    assert set(data.obs["split"].unique()) == {"train", "val"}
    assert {"sample", "organ", "patient", "split", "cluster", "expert"} <= set(data.obs)
    assert isinstance(spots.features, np.memmap)
    with h5py.File(spots.path) as handle:
        for name in ("X/data", "X/indices", "obsm/features"):
            assert handle[name].chunks is None
    rewritten = tmp_path / "again.h5ad"
    data.write_h5ad(rewritten)
    assert anndata.read_h5ad(rewritten).shape == data.shape


def test_panel_is_the_union_of_scanpys_choice_over_the_intersection(
    cohort: Cohort, tmp_path: Path
) -> None:
    cohort.add("S5", 30, 9, patient="P9", genes=280)
    config = cohort.config(split=SplitConfig(validation="samples", test_samples=("S1",)))
    spots = prepare(config, tmp_path / "out", BASE).spots
    shared = {f"G{i:03}" for i in range(280)}
    wanted: set[str] = set()
    for name in ("S2", "S3", "S4", "S5"):  # the test sample has no say
        data = anndata.read_h5ad(cohort.root / f"{name}.h5ad")
        data = data[:, [g for g in data.var_names if g in shared]].copy()
        scanpy.pp.normalize_total(data)
        scanpy.pp.log1p(data)
        scanpy.pp.highly_variable_genes(data, n_top_genes=8)
        wanted |= set(data.var_names[data.var["highly_variable"]])
    assert set(spots.genes) == wanted


def test_intersection_leaves_out_what_would_shrink_it_too_far() -> None:
    genes = {"a": list("ABCDEF"), "b": list("XYABC"), "c": list("FEDCBA"), "d": list("ABCDE")}
    shared, dropped = panel.intersect_genes(list(genes), genes.__getitem__, 4)
    assert shared == list("ABCDE")
    assert set(dropped) == {"b"}
    assert "from 5 to 3, not above 4" in dropped["b"]
    assert panel.gene_floor([20, 30, 40], "auto") == 15
    assert panel.gene_floor([50_000] * 3, "auto") == 10_000
    assert panel.gene_floor([50_000] * 3, 7) == 7


def test_raw_counts_are_kept_as_they_are(cohort: Cohort, tmp_path: Path) -> None:
    spots = prepare(cohort.config(expression="raw"), tmp_path / "out", BASE).spots
    data = anndata.read_h5ad(cohort.root / "S1.h5ad")
    wanted = data[:, list(spots.genes)].X.toarray()
    np.testing.assert_array_equal(spots.expression[:30].toarray(), wanted)


def test_what_is_lost_is_counted(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(5).normal(size=(29, DIM))
    values[3, 2] = np.nan
    values[4, 0] = np.inf
    names = [f"bc{i}" for i in range(27)] + ["only-here", "and-here"]
    cohort.write_features("S1", values, names)
    spots = prepare(cohort.config(), tmp_path / "out", BASE).spots
    assert (spots.obs["sample"] == "S1").sum() == 25
    found = {f["kind"]: f["count"] for f in spots.provenance["findings"]["S1"]}
    assert found == {"expression-only": 3, "nan-features": 2, "features-only": 2}
    assert "S1: 2 of 30 spots have NaN or infinite features" in capsys.readouterr().err


def test_unusable_samples_are_dropped_with_their_reason(cohort: Cohort, tmp_path: Path) -> None:
    twin = dict(cohort.rows[0], sample_id="S1 again")
    cohort.rows.append(twin)
    cohort.write_features("S2", np.full((25, DIM), np.nan), [f"bc{i}" for i in range(25)])
    (cohort.root / "S3.h5ad").write_bytes(b"broken")
    out = tmp_path / "out"
    prepare(cohort.config(), out, BASE)
    table = pd.read_csv(out / "samples.csv").set_index("sample")
    assert table["status"].to_dict() == {
        "S1": "kept", "S4": "kept", "S2": "dropped", "S3": "dropped", "S1 again": "dropped",
    }  # fmt: skip
    assert "duplicate of S1: 30 of 30" in table.loc["S1 again", "reason"]
    assert "no spot has features" in table.loc["S2", "reason"]
    assert "S3.h5ad" in table.loc["S3", "reason"]


def test_a_trusted_sample_is_used_in_spite_of_a_doubt(cohort: Cohort, tmp_path: Path) -> None:
    cohort.rows[1]["pixel_size_um"] = 2.0
    assert "S2" not in prepare(cohort.config(), tmp_path / "a", BASE).split
    config = cohort.config()
    config = replace(config, samples=replace(config.samples, trust=("S2",)))
    prepared = prepare(config, tmp_path / "b", BASE)
    assert "S2" in prepared.split
    assert "used because it is trusted" in (tmp_path / "b" / "samples.csv").read_text()


def test_features_without_barcodes_or_of_another_encoder_are_refused(
    cohort: Cohort, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="encoder 'toy', not 'uni'"):
        prepare(cohort.config(), tmp_path / "a", BaseEncoder("uni"))
    for row in cohort.rows:
        name = row["sample_id"]
        path = cohort.root / f"{name}.features.h5"
        write_features(path, np.zeros((3, DIM)), slide_id=name, encoder="toy")
    with pytest.raises(DataError, match="No sample has spots"):
        prepare(cohort.config(), tmp_path / "b", BASE)


def test_features_of_two_widths_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    cohort.write_features("S2", np.zeros((25, DIM + 1)), [f"bc{i}" for i in range(25)])
    with pytest.raises(DataError, match="different widths"):
        prepare(cohort.config(), tmp_path / "out", BASE)


class KillError(Exception):
    """Stands for a kill at one place."""


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (collect, "check_section", 2),
        (panel, "variable_genes", 3),
        (running, "collect_features", 1),
        (running, "align_sample", 3),
        (align, "remember", 2),
        (writer, "read_part", 3),
        (running, "split_samples", 1),
    ],
)
def test_killed_anywhere_it_ends_at_the_same_file(
    untouched: tuple[Cohort, PreparedSpots], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    module: Any, name: str, call: int,
) -> None:  # fmt: skip
    cohort, whole = untouched
    config = cohort.config()
    original: Callable[..., Any] = getattr(module, name)
    calls = {"n": 0}

    def fatal(*args: Any, **kwargs: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == call:
            raise KillError
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, fatal)
    with pytest.raises(KillError):
        prepare(config, tmp_path / "cut", BASE)
    monkeypatch.setattr(module, name, original)
    again = prepare(config, tmp_path / "cut", BASE)
    assert same(whole.spots, again.spots)
    assert whole.split == again.split
    assert not list((tmp_path / "cut").rglob(".*tmp*"))


def edit_json(path: Path) -> None:
    content = json.loads(path.read_text())
    for name, value in content.items():
        if isinstance(value, int):
            content[name] = value - 1
        elif name == "genes":
            content[name] = value[1:]
    path.write_text(json.dumps(content))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 2
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *((f"{folder}/S1.json", spoil) for folder in ("checks", "genes", "parts")
          for spoil in (edit_json, flip)),
        ("checks/S1.genes", flip),
        ("checks/S1.prints.npy", flip),
        ("parts/S1.h5", flip),
    ],
)  # fmt: skip
def test_what_is_remembered_and_was_edited_is_named_and_made_again(
    untouched: tuple[Cohort, PreparedSpots], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], name: str, spoil: Callable[[Path], None],
) -> None:  # fmt: skip
    cohort, whole = untouched
    config, out = cohort.config(), tmp_path / "out"

    def fatal(*args: Any, **kwargs: Any) -> Any:
        raise KillError

    with monkeypatch.context() as patch:
        patch.setattr(running, "write_spots", fatal)
        with pytest.raises(KillError):
            prepare(config, out, BASE)
    shutil.rmtree(out / "prepare" / "stages")  # each stage asks what it remembers of each sample
    spoil(out / "prepare" / name)
    capsys.readouterr()
    again = prepare(config, out, BASE)
    told = [line for line in capsys.readouterr().err.splitlines() if "made again" in line]
    assert len(told) == 1
    assert str(out / "prepare" / name) in told[0]
    assert same(whole.spots, again.spots)


def same(one: Spots, other: Spots) -> bool:
    return bool(
        np.array_equal(one.features, other.features)
        and (one.expression != other.expression).nnz == 0
        and one.genes == other.genes
        and one.obs.astype(str).equals(other.obs.astype(str))
    )


def run_twice(
    cohort: Cohort, out: Path, second: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> tuple[PreparedSpots, set[str]]:
    """Prepares, then prepares with other settings; returns the stages the second run skipped."""
    prepare(cohort.config(), out, BASE)
    capsys.readouterr()
    prepared = prepare(second, out, BASE)
    lines = capsys.readouterr().err.splitlines()
    return prepared, {line.split(":")[0] for line in lines if "done before" in line}


def test_a_second_run_does_nothing(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, skipped = run_twice(cohort, tmp_path / "out", cohort.config(), capsys)
    assert skipped == {"samples", "panel", "features", "align", "split"}


def test_a_changed_setting_redoes_its_stage_and_those_after_it(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = cohort.config(genes=GenesConfig(n_top=3))
    prepared, skipped = run_twice(cohort, tmp_path / "a", changed, capsys)
    assert skipped == {"samples"}
    assert same(prepared.spots, prepare(changed, tmp_path / "b", BASE).spots)
    other_seed = cohort.config(seed=7)
    _, skipped = run_twice(cohort, tmp_path / "c", other_seed, capsys)
    assert skipped == {"samples", "panel", "features", "align"}


def test_a_changed_file_is_noticed(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    prepare(cohort.config(), out, BASE)
    new = np.ones((20, DIM), dtype=np.float32)
    cohort.write_features("S4", new, [f"bc{i}" for i in range(20)])
    spots = prepare(cohort.config(), out, BASE).spots
    np.testing.assert_array_equal(spots.features[-20:], new)


def test_columns_are_set_in_place(cohort: Cohort, tmp_path: Path) -> None:
    spots = prepare(cohort.config(), tmp_path / "out", BASE).spots
    assert set(spots.obs["expert"]) == {-1}
    n = len(spots)
    spots = spots.with_experts(np.arange(n), np.arange(n) % 3)
    assert spots.obs["expert"].tolist() == [i % 3 for i in range(n)]
    assert anndata.read_h5ad(spots.path).obs["cluster"].tolist() == list(range(n))


def test_spots_are_not_begun_where_they_cannot_end(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left") as full:
        prepare(cohort.config(), tmp_path / "out", BASE)
    assert str(tmp_path / "out" / "spots.h5ad") in str(full.value)
    assert not list((tmp_path / "out").glob("*spots*"))
    monkeypatch.undo()
    assert prepare(cohort.config(), tmp_path / "out", BASE).spots.path.is_file()


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples are worth two processes."""
    monkeypatch.setattr(sampleworkers, "_WORTH", 1)
    monkeypatch.setattr(sampleworkers, "MOST_WORKERS", 2)


@pytest.mark.slow
def test_the_prepared_spots_are_those_of_one_process(
    tmp_path: Path, two_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort(tmp_path / "data", SIZES)
    spoilt = cohort.root / "S4.h5ad"
    spoilt.write_bytes(spoilt.read_bytes()[:3000])
    alone = prepare(cohort.config(), tmp_path / "alone", BaseEncoder("toy", workers=1))

    def never(*_: object) -> None:
        raise AssertionError("done ahead by another process")

    monkeypatch.setattr(panel, "variable_genes", never)
    several = prepare(cohort.config(), tmp_path / "several", BaseEncoder("toy", workers=2))
    assert content_digest(several.spots.path) == content_digest(alone.spots.path)
    assert several.refused == alone.refused
    assert list(several.refused) == ["S4"]


def test_processes_that_end_at_once_cost_nothing_but_their_help(
    tmp_path: Path, two_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampleworkers, "_MODULE", "no.such.module")
    cohort = Cohort(tmp_path / "data", SIZES)
    prepared = prepare(cohort.config(), tmp_path / "out", BaseEncoder("toy", workers=2))
    assert len(prepared.records) == len(SIZES)
