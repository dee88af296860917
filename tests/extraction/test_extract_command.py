"""`spade-bench extract` from the command line: inputs, exit codes, the table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from spade_bench.cli.main import main
from spade_bench.features.bags import find_bags
from spade_bench.registry import encoders

_PLUGIN = '''
"""A light encoder for this test."""
import numpy as np
import torch
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, Normalisation

NORM = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CARD = EncoderCard("test-colour", "image", 3, "d", patch_px=32, mpp=0.5, normalisation=NORM)

class Colour:
    card = CARD
    def encode(self, images):
        return torch.as_tensor(np.asarray(images)).float().mean(dim=(1, 2))

@encoders.register(CARD)
def load(options):
    return Colour()
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[list[str]]:
    """Arguments that load the light encoder; it is unregistered afterwards."""
    from spade_bench import plugins

    plugins.install()
    encoders.names()
    before = dict(encoders._plugins)
    path = tmp_path / "test_colour_plugin.py"
    path.write_text(_PLUGIN)
    yield ["--plugin", str(path), "--encoder", "test-colour", "--out", str(tmp_path / "out")]
    encoders._plugins = before
    sys.modules.pop(f"spade_bench_plugin_{path.stem}", None)


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["extract", *arguments])
    return int(done.value.code or 0)


def _patches(root: Path) -> Path:
    for name in ("A/s1/0", "A/s1/1", "B/s2/0", "B/s3/0"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 100, np.uint8)).save(path)
    return root


def test_patches_with_table(
    tmp_path: Path,
    plugin: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.csv"
    folder = _patches(tmp_path / "p")
    assert _run(*plugin, "--patches", str(folder), "--write-table", str(table)) == 0
    assert list(find_bags(tmp_path / "out", "test-colour")) == ["s1", "s2", "s3"]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [
        ("s1", "s1", "A"), ("s2", "s2", "B"), ("s3", "s3", "B"),
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert "3 extracted (4 patches" in printed.out
    assert "4 patches make 3 slides by folder" in printed.err


def test_a_bad_slide_gives_two_and_the_rest_go_on(
    tmp_path: Path,
    plugin: list[str],
    monkeypatch: pytest.MonkeyPatch,
    write_slide: Callable[..., Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels = np.array([170, 90, 150]) + rng.integers(-30, 31, (200, 200, 3))
    write_slide(tmp_path / "s" / "good.tif", pixels.astype(np.uint8))
    (tmp_path / "s" / "bad.svs").write_bytes(b"x")
    assert _run(*plugin, "--slides", str(tmp_path / "s"), "--workers", "1") == 2
    assert list(find_bags(tmp_path / "out")) == ["good"]


def test_several_magnifications_and_plain_images(
    tmp_path: Path,
    plugin: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    rng = np.random.default_rng(0)
    pixels = np.array([170, 90, 150]) + rng.integers(-30, 31, (256, 256, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "s" / "x.png")
    assert _run(*plugin, "--slides", "s") == 2
    assert "failed: x.png: has no usable resolution" in capsys.readouterr().out
    registered = plugin[2:]  # once is enough
    both = ["--slides", "s", "--assume-mpp", "0.5", "--mpp", "0.5", "--mpp", "1.0"]
    code = _run(*registered, *both, "--drop-pen", "--drop-blur")
    assert code == 0, capsys.readouterr().err
    sizes = {}
    for path in (tmp_path / "out").rglob("x.h5"):
        with h5py.File(path) as file:
            sizes[path.parts[-3]] = len(file["features"])
    assert sizes == {"20x_32px_0px_overlap": 64, "10x_32px_0px_overlap": 16}
    assert len(list((tmp_path / "out").rglob("visualization/x.jpg"))) == 2
    assert _run(*registered, *both, "--overlap", "32") == 2
    assert "--overlap: 32 px is not in 0..31" in capsys.readouterr().err


@pytest.mark.parametrize(("mpp", "patches"), [("0.5", 52 * 49), ("1.0", 13 * 49)])
def test_real_and_broken_slides(
    tmp_path: Path,
    plugin: list[str],
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mpp: str,
    patches: int,
) -> None:
    """Each broken file costs its line and the Aperio slide is taken; 32 px are 1/49 of 224 px."""
    monkeypatch.chdir(tmp_path)
    assert _run(*plugin, "--slides", str(shared_data / "wsi_fixtures"), "--mpp", mpp) == 2
    taken = find_bags(tmp_path / "out")
    assert list(taken) == ["cmu-1-small-region"]
    with h5py.File(taken["cmu-1-small-region"]) as file:
        assert 0.7 * patches < len(file["features"]) < 1.3 * patches
    lines = [
        line.split("failed: ")[1]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("  failed: ")
    ]
    small = "is too small: 16 x 16 px"
    for line, (name, reason) in zip(
        lines,
        [
            ("boxes.tiff", "has no usable resolution"),
            ("boxes_0", small),
            ("broken.svs", "cannot be opened as a slide"),
            ("small", small),
            ("unopenable.tiff", "Unsupported TIFF compression"),
            ("unreadable", "cannot be decoded at level 0"),
        ],
        strict=True,
    ):
        assert line.startswith(f"{name}: ")
        assert reason in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "0 kinds of input are given"),
        (["--slides", "a", "--patches", "b"], "2 kinds of input are given"),
        (["--slides", "absent"], "no such slide folder"),
        (["--hest", "absent"], "no such HEST folder"),
        (["--slides", "a", "--write-table", "t.csv"], "goes with --patches only"),
        (["--slides", "a", "--shard", "3/2"], "'3/2' is not i/n"),
        (["--slides", "a", "--precision", "fp8"], "Unknown precision 'fp8'"),
        (["--patches", "a", "--drop-blur"], "--drop-blur: goes with --slides only"),
        (["--slides", "a", "--trust", "s"], "--trust: goes with --hest and --manifest only"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path,
    plugin: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(*plugin, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
