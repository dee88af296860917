"""The folder loads strictly; the encoder refuses foreign features and works from the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from spade_bench.cli.encode import encode
from spade_bench.cli.main import main
from spade_bench.doctor import check_encoder
from spade_bench.encoders.tangle.pretraining.tangleconfig import TangleConfig
from spade_bench.encoders.tangle.pretraining.tanglepipeline import run_tangle
from spade_bench.errors import ConfigError, DataError, WeightsError
from spade_bench.features.bags import find_bags, read_bag, write_features
from spade_bench.files import hash_file, write_sealed
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions, SlideEncoder


@pytest.fixture(scope="module")
def trained(
    planted: Callable[..., TangleConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TangleConfig, Path]:
    config = planted(n=20, epochs=2)
    out = tmp_path_factory.mktemp("trained") / "tangle"
    run_tangle(config, out, device="cpu")
    return config, out


@pytest.fixture
def folder(trained: tuple[TangleConfig, Path], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained[1], tmp_path / "model"))


def _main(*argv: str) -> int:
    """Run the command line; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


def load(folder: Path, **options: object) -> SlideEncoder:
    loaded: SlideEncoder = encoders.get("tangle").load(LoadOptions(folder, "cpu", options=options))
    return loaded


def test_the_encoder_does_not_mind_the_order_and_knows_what_it_saw(
    trained: tuple[TangleConfig, Path],
) -> None:
    config, out = trained
    encoder = load(out)
    assert encoder.card.upstream == "base"
    assert (encoder.card.patch_px, encoder.card.mpp) == (224, 0.5)
    assert encoder.card.dim == encoder.dim == 32
    assert len(encoder.training_patients) == 14  # type: ignore[attr-defined]
    assert config.features is not None
    bag = read_bag(next(iter(find_bags(config.features).values())))
    first = encoder.encode_slide(bag.features)
    assert first.shape == (32,)
    turned = encoder.encode_slide(bag.features[::-1].copy())
    np.testing.assert_allclose(turned, first, atol=1e-5)
    assert not [f for f in check_encoder("tangle", LoadOptions(out, "cpu")) if f.status == "fail"]


def test_every_change_of_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="no weights of its own"):
        encoders.get("tangle").load(LoadOptions())
    with pytest.raises(ConfigError, match="no options, got tau"):
        load(folder, tau=1)
    genes = (folder / "genes.csv").read_text()
    (folder / "genes.csv").write_text(genes + "X\n")
    with pytest.raises(WeightsError, match=r"genes\.csv is not the file"):
        load(folder)
    (folder / "genes.csv").write_text(genes)
    state = load_file(folder / "tangle.safetensors")
    state["slide.extra"] = state.pop("slide.gate.bias")
    save_file(state, folder / "tangle.safetensors")
    with pytest.raises(WeightsError, match=r"tangle\.safetensors is not the file"):
        load(folder)
    described = json.loads((folder / "tangle.json").read_text())
    described["files"]["tangle.safetensors"] = hash_file(folder / "tangle.safetensors")
    write_sealed(folder / "tangle.json", described)
    with pytest.raises(WeightsError, match=r"keys: slide\.gate\.bias; unex.*: slide\.extra"):
        load(folder)
    write_sealed(folder / "tangle.json", {**described, "schema": "tangle-9"})
    with pytest.raises(WeightsError, match="schema"):
        load(folder)


def test_other_features_are_refused(trained: tuple[TangleConfig, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="width 16"):
        load(trained[1]).encode_slide(np.ones((3, 17), dtype=np.float32))
    kinds = {"other": ({"mpp": 0.5, "patch_size": 224}, "other"),
             "large": ({"mpp": 0.5, "patch_size": 512}, "base")}  # fmt: skip
    for name, (attrs, encoder) in kinds.items():
        path = tmp_path / name / f"features_{encoder}" / "s.h5"
        x = np.ones((3, 16), dtype=np.float32)
        write_features(path, x, slide_id="s", encoder=encoder, attrs=attrs)
        with pytest.raises(DataError, match=r"only of other|could not be encoded"):
            encode(tmp_path / name, tmp_path / "out", encoder="tangle", weights=trained[1])
    assert not (tmp_path / "out").exists()


def test_encode_writes_a_vector_for_each_slide(
    trained: tuple[TangleConfig, Path], tmp_path: Path
) -> None:
    config, out = trained
    assert config.features is not None
    encode(config.features, tmp_path, encoder="tangle", weights=out, device="cpu")
    written = find_bags(tmp_path, "tangle")
    assert set(written) == set(find_bags(config.features))
    encoder = load(out)
    for slide, path in find_bags(config.features).items():
        want = encoder.encode_slide(read_bag(path).features)
        np.testing.assert_array_equal(read_bag(written[slide]).features[0], want)


def test_the_command_trains_by_name_and_refuses_what_is_spades(
    trained: tuple[TangleConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, _ = trained
    argv = ["pretrain", "--config", "tangle", "--features", str(config.features),
            "--table", str(config.table), "--out", "out", "--device", "cpu",
            "--set", "training.epochs=1", "--set", "training.hidden=8"]  # fmt: skip
    assert _main(*argv) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "tangle.json", "tangle.safetensors", "genes.csv", "retrieval.json", "training.csv"
    }  # fmt: skip
    assert _main(*argv, "--experts", "1") == 2
    assert _main(*argv, "--set", "training.epoch=1") == 2
    assert _main("pretrain", "--table", str(config.table), "--out", "out") == 2
