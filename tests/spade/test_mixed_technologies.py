"""Cohorts of several technologies: panels, split, training, validation and prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from toy_sections import write_bundle, write_visium_hd

import spade_bench as sb
from spade_bench.config import build
from spade_bench.encoders.spade.genepredictor import GenePredictor, training_spots
from spade_bench.encoders.spade.genes import panel_matrix
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.preparedspots import Spots
from spade_bench.encoders.spade.pretraining.pipeline import run_pretrain
from spade_bench.encoders.spade.pretraining.prepare.basefeatures import BaseEncoder
from spade_bench.encoders.spade.pretraining.prepare.preparation import prepare
from spade_bench.encoders.spade.pretraining.prepare.split import Member, split_samples
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig, SplitConfig
from spade_bench.errors import ConfigError, DataError
from spade_bench.features.bags import write_features
from spade_bench.spatial import read_manifest
from spade_bench.spatial.expression import read_expression

WHOLE = [f"G{i}" for i in range(80)]
SMALL = [f"G{i}" for i in range(70, 80)] + [f"X{i}" for i in range(10)]  # ten genes of its own
DIM, N = 5, 40
BASE = BaseEncoder("toy")


def write_sample(root: Path, name: str, genes: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 3, N)
    # A rate per gene by its name, so that a gene means the same in every technology.
    gamma = {g: np.random.default_rng(sum(map(ord, g))).gamma(0.5, 4.0, 3) for g in genes}
    rate = np.stack([gamma[g] for g in genes], axis=1)[state] + 0.2
    place = np.stack(np.divmod(np.arange(N), 7), axis=1)
    data = anndata.AnnData(
        sp.csr_matrix(rng.poisson(rate).astype(np.float32)),
        obs=pd.DataFrame(index=[f"b{i}" for i in range(N)]),
        var=pd.DataFrame(index=genes),
        obsm={"spatial": 200.0 * place + 100},
    )
    data.write_h5ad(root / f"{name}.h5ad")
    values = np.eye(3, DIM)[state] * 3 + rng.normal(size=(N, DIM))
    write_features(root / f"{name}.h5", values, slide_id=name, encoder="toy",
                   barcodes=list(data.obs_names))  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four Visium samples of a whole transcriptome and three of a panel of twenty genes."""
    root = tmp_path_factory.mktemp("mixed")
    lines = ["sample_id,h5ad,features,organ,patient,technology"]
    for i in range(7):
        small = i >= 4
        write_sample(root, f"S{i}", SMALL if small else WHOLE, i)
        lines.append(f"S{i},S{i}.h5ad,S{i}.h5,Skin,P{i},{'Xenium' if small else 'Visium'}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def settings(root: Path, **changes: Any) -> PretrainConfig:
    plain: dict[str, Any] = {
        "encoder": "toy",
        "samples": {"manifest": root / "manifest.csv"},
        "genes": {"n_top": 6, "panel": "union"},
        "clustering": {"k_organ": 4, "k_experts": 2},
        "training": {"epochs": 2, "lr": 1e-4, "init": "none", "batch_size": 16, "proj_dim": 8},
        "controls": {"untrained_seeds": 1},
        "split": {"validation": "samples", "val_fraction": 0.3, "test_fraction": 0},
    }
    return build(PretrainConfig, {**plain, **changes})


@pytest.fixture(scope="module")
def trained(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_pretrain(settings(mixed), tmp_path_factory.mktemp("union"), device="cpu")


def test_the_union_holds_what_each_sample_measures(mixed: Path, trained: Path) -> None:
    spots = Spots(trained / "spots.h5ad")
    assert set(spots.genes) & {f"X{i}" for i in range(10)}
    assert set(spots.genes) - set(SMALL)
    names = [str(name) for name in spots.obs["sample"].cat.categories]
    for sample in read_manifest(mixed / "manifest.csv"):
        data = read_expression(sample)
        wanted = panel_matrix(data, spots.genes, "lognorm", partial=True)
        rows = np.flatnonzero(spots.obs["sample"] == sample.sample_id)
        np.testing.assert_allclose(spots.expression[rows].toarray(), wanted.toarray(), rtol=1e-5)
        has = np.isin(spots.genes, data.genes)
        assert spots.measured is not None
        np.testing.assert_array_equal(spots.measured[:, names.index(sample.sample_id)], has)
        assert not spots.expression[rows][:, ~has].nnz
    assert spots.panel_group is not None
    small = (spots.obs["technology"] == "Xenium").to_numpy()
    assert len(set(spots.panel_group[small])) == len(set(spots.panel_group[~small])) == 1
    assert len(set(spots.panel_group)) == 2
    data = anndata.read_h5ad(trained / "spots.h5ad")  # opens in scanpy
    np.testing.assert_array_equal(data.varm["measured"], spots.measured)


def test_technology_goes_into_spots_table_and_card(trained: Path) -> None:
    wanted = {f"S{i}": "Xenium" if i >= 4 else "Visium" for i in range(7)}
    table = pd.read_csv(trained / "samples.csv").set_index("sample")
    assert table["technology"].to_dict() == wanted
    extra = SpadeModel.load(trained, device="cpu").info.extra
    assert extra["technologies"] == wanted
    lacking = {len(columns) for columns in extra["lacking"]}
    assert len(lacking) == 2
    assert min(lacking) > 0


def test_validation_is_stratified_and_shown_apart(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(trained / "samples.csv").set_index("sample")
    report = json.loads((trained / "validation.json").read_text())["splits"]["val"]
    of_val = table[table["split"] == "val"]["technology"].value_counts().to_dict()
    assert of_val == {"Visium": 1, "Xenium": 1}
    assert {t: row["n_samples"] for t, row in report["technologies"].items()} == of_val
    spots = sum(row["n_spots"] for row in report["technologies"].values())
    assert spots == report["n_spots"]
    mean = sum(
        row["n_spots"] * row["spade"]["image_to_expression"]["mean_percentile"]["value"]
        for row in report["technologies"].values()
    )
    whole = report["methods"]["spade"]["image_to_expression"]["mean_percentile"]["value"]
    assert mean / spots == pytest.approx(whole)


def test_genes_are_predicted_from_spots_that_measure_them(trained: Path) -> None:
    model = SpadeModel.load(trained, device="cpu")
    spots = training_spots(model, trained)
    predictor, names = GenePredictor(model, *spots), spots.samples
    own = next(gene for gene in model.genes if gene.startswith("X"))
    shared = next(gene for gene in model.genes if gene in WHOLE and gene in SMALL)
    foreign = next(gene for gene in model.genes if gene not in SMALL)
    features = np.asarray(Spots(trained / "spots.h5ad").features[:9])
    found = predictor.predict(features, [own, shared, foreign], nearest=7)
    xenium = {name for name in names if int(name[1:]) >= 4}
    only = predictor.predict(features, [own], nearest=7, without=set(names) - xenium)
    np.testing.assert_allclose(found[:, :1], only)
    only = predictor.predict(features, [foreign], nearest=7, without=xenium)
    np.testing.assert_allclose(found[:, 2:], only)
    assert (found[:, 1] > 0).any()
    with pytest.raises(DataError, match=f"left to predict {own} from"):
        predictor.predict(features, [own], without=xenium)


def test_an_intersection_leaves_small_panels_out_and_says_so(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(mixed, genes={"n_top": 6})
    prepared = prepare(config, tmp_path / "half", BASE)
    assert set(prepared.split) == {"S0", "S1", "S2", "S3"}
    assert "genes.panel=union keeps them" in capsys.readouterr().err
    config = settings(mixed, genes={"n_top": 6, "min_shared": 5})
    prepared = prepare(config, tmp_path / "all", BASE)
    assert len(prepared.split) == 7
    assert set(prepared.spots.genes) <= set(WHOLE) & set(SMALL)
    assert prepared.spots.panel_group is None
    assert "of 10 genes shared" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"clustering": {"space": "joint"}},
        {"genes": {"panel": "union", "min_shared": 50}},
    ],
)
def test_what_a_union_cannot_do_is_refused(mixed: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"with genes\.panel=union"):
        settings(mixed, **changes)


def test_strata_are_organs_of_a_technology() -> None:
    members = [Member(f"V{i}", "Skin", f"V{i}", "Visium") for i in range(12)]
    members += [Member(f"X{i}", "Skin", f"X{i}", "Xenium") for i in range(6)]
    for seed in range(10):
        split = split_samples(members, SplitConfig(val_fraction=0.34), seed).split
        chosen = [name for name, where in split.items() if where == "val"]
        assert sum(name.startswith("X") for name in chosen) == 2
        alike = [Member(m.sample_id, m.organ, m.patient, "Visium") for m in members]
        bare = [Member(m.sample_id, m.organ, m.patient) for m in members]
        config = SplitConfig(val_fraction=0.34)
        assert split_samples(alike, config, seed).split == split_samples(bare, config, seed).split


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two Xenium bundles and a Visium HD section, with features of their pseudo-spots."""
    from toy_sections import transcripts

    root = tmp_path_factory.mktemp("folders")
    for seed, name in enumerate(("XA", "XB")):
        write_bundle(root / name, transcripts(6000, seed))
    hd = write_visium_hd(root / "HD", side=28)
    for name, path in (("XA", root / "XA"), ("XB", root / "XB"), ("HD", hd)):
        spots = sb.read_spots(path, spot_um=80)
        values = np.random.default_rng(0).normal(size=(spots.n_obs, DIM))
        write_features(root / "features" / f"{name}.h5", values, slide_id=name, encoder="toy",
                       barcodes=list(spots.obs_names))  # fmt: skip
    return root / "XA", root / "XB", hd


def test_pretraining_reads_what_read_spots_reads(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    first, second, hd = folders
    sb.pretrain(
        xenium=[first, second],
        spaceranger=hd,
        encoder="toy",
        out=tmp_path / "out",
        device="cpu",
        features=first.parent / "features",
        experts=[0],
        settings={
            "samples.spot_um": 80,
            "genes.panel": "union",
            "genes.n_top": 4,
            "split.val_fraction": 0,
            "training.epochs": 1,
            "training.proj_dim": 8,
            "clustering.k_experts": 2,
            "clustering.k_organ": 2,
        },
    )
    spots = Spots(tmp_path / "out" / "spots.h5ad")
    assert spots.obs["technology"].value_counts().to_dict() == {
        "Xenium": (spots.obs["sample"] != "HD").sum(),
        "Visium HD": (spots.obs["sample"] == "HD").sum(),
    }
    for name, path in (("XA", first), ("HD", hd)):
        wanted = sb.read_spots(path, spot_um=80)
        rows = np.flatnonzero(spots.obs["sample"] == name)
        assert list(spots.obs["barcode"].iloc[rows]) == list(wanted.obs_names)
        np.testing.assert_allclose(spots.spatial[rows], wanted.obsm["spatial"])
    model = SpadeModel.load(tmp_path / "out", device="cpu")
    assert model.info.extra["technologies"] == {
        "HD": "Visium HD", "XA": "Xenium", "XB": "Xenium"
    }  # fmt: skip


def test_folders_of_the_wrong_kind_are_named(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(sb.SpadeBenchError, match="this is xenium"):
        sb.pretrain(spaceranger=folders[0], encoder="toy", out=tmp_path / "a", device="cpu")
    with pytest.raises(sb.SpadeBenchError, match=r"no transcripts\.parquet"):
        sb.pretrain(xenium=folders[2], encoder="toy", out=tmp_path / "b", device="cpu")


def test_a_model_of_an_older_version_is_left_alone(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that did not exist when a folder was made count as their defaults."""
    config = settings(mixed, genes={"n_top": 6}, training={"epochs": 1, "proj_dim": 4})
    out = run_pretrain(config, tmp_path / "out", device="cpu")
    stored = out / "config.yaml"
    text = stored.read_text()
    later = ("panel:", "xenium:", "spot_um:", "spot_grid:", "spot_pitch_um:")
    lines = [line for line in text.splitlines() if not line.strip().startswith(later)]
    assert len(lines) == len(text.splitlines()) - len(later)
    stored.write_text("\n".join(lines) + "\n")
    before = (out / "spade.json").read_bytes()
    capsys.readouterr()
    run_pretrain(config, out, device="cpu")
    assert (out / "spade.json").read_bytes() == before
    assert "model: done before" in capsys.readouterr().err
