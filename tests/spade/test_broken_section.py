"""A section that is broken anywhere is dropped by name; the others are prepared without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from toy_pretraining import config, write_hest

from spade_bench.encoders.spade.pretraining.prepare import gather as collect
from spade_bench.encoders.spade.pretraining.prepare.basefeatures import BaseEncoder
from spade_bench.encoders.spade.pretraining.prepare.preparation import prepare
from spade_bench.spatial import read_hest
from spade_bench.spatial.sectionchecks import check_section


def cut(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])

    return damage


def text(name: str, content: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)

    return damage


def stored(key: str, value: Any) -> Callable[[Path], None]:
    """Replace a part of S1.h5ad; without a value it is left out."""

    def damage(root: Path) -> None:
        with h5py.File(root / "st" / "S1.h5ad", "r+") as handle:
            attrs = dict(handle[key].attrs)
            del handle[key]
            if value is not None:
                handle[key] = value
                handle[key].attrs.update(attrs)

    return damage


def first_place(value: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        with h5py.File(root / "st" / "S1.h5ad", "r+") as handle:
            handle["X/indices"][0] = value

    return damage


def image(content: bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / "wsis").mkdir()
        (root / "wsis" / "S1.tif").write_bytes(content)

    return damage


def half_an_image(root: Path) -> None:
    (root / "wsis").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    path = root / "wsis" / "S1.tif"
    Image.fromarray(pixels).save(path, compression="tiff_lzw")
    path.write_bytes(path.read_bytes()[:-9000])


def chunk_of_features(root: Path) -> None:
    path = root / "features" / "S1.h5"
    with h5py.File(path, "r+") as handle:
        values, attrs = handle["features"][:], dict(handle["features"].attrs)
        del handle["features"]
        made = handle.create_dataset("features", data=values, chunks=(8, 5), compression="gzip")
        made.attrs.update(attrs)
        offset = made.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = b"\xaa" * 20
    path.write_bytes(bytes(data))


def patch_file(**content: Any) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / "patches").mkdir()
        with h5py.File(root / "patches" / "S1.h5", "w") as handle:
            for name, value in content.items():
                if isinstance(value, dict):
                    handle.create_group(name)
                else:
                    handle[name] = value

    return damage


PATCHES = np.zeros((2, 8, 8, 3), np.uint8)
DAMAGE: dict[str, Callable[[Path], None]] = {
    "h5ad cut": cut("st/S1.h5ad"),
    "h5ad empty": text("st/S1.h5ad", ""),
    "h5ad is a page": text("st/S1.h5ad", "<html>404</html>"),
    "no X": stored("X", None),
    "X is text": stored("X", np.array([[b"a"] * 60] * 48)),
    "X is complex": stored("X", np.ones((48, 60), complex)),
    "X short": stored("X/data", np.ones(3, np.float32)),
    "X beyond its genes": first_place(9999),
    "X before its genes": first_place(-5),
    "no obs": stored("obs", None),
    "no obsm": stored("obsm", None),
    "no positions": stored("obsm/spatial", None),
    "positions short": stored("obsm/spatial", np.zeros((3, 2))),
    "positions text": stored("obsm/spatial", np.array([[b"a", b"b"]] * 48)),
    "metadata cut": text("metadata/S1.json", '{"organ": '),
    "metadata list": text("metadata/S1.json", "[1]"),
    "metadata binary": text("metadata/S1.json", "\0\1"),
    "pixel size with a comma": text(
        "metadata/S1.json", json.dumps({"pixel_size_um_estimated": "0,5"})
    ),
    "image page": image(b"<html>404</html>"),
    "image tags": image(b"II*\0\x08\0\0\0\xff\xff" + b"\x01\x02" * 500),
    "image png": image(b"\x89PNG\r\n\x1a\n" + b"\0" * 50),
    "image cut": half_an_image,
    "patches cut": text("patches/S1.h5", "half a download"),
    "patches groups": patch_file(img={}, coords={}, barcode={}),
    "patches numbers": patch_file(img=PATCHES, coords=np.zeros((2, 2)), barcode=np.arange(2)),
    "patches lengths": patch_file(img=PATCHES, coords=np.zeros((1, 2)), barcode=[b"b0", b"b1"]),
    "features cut": cut("features/S1.h5"),
    "features empty": text("features/S1.h5", ""),
    "features chunk": chunk_of_features,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_it_is_dropped_and_the_others_go_on(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hest = write_hest(tmp_path)
    DAMAGE[kind](hest)
    for _ in range(2):  # also when it is found again
        prepared = prepare(config(hest), tmp_path / "out", BaseEncoder("toy"))
        assert [r.sample.sample_id for r in prepared.records] == ["S0", "S2", "S3"]
    said = capsys.readouterr().err
    assert said.count("S1: dropped: ") == 1


@pytest.mark.parametrize("fault", [AssertionError, NameError, ZeroDivisionError])
def test_faults_of_the_program_are_not_hidden(
    fault: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise fault("a bug")

    (sample, *_) = read_hest(write_hest(tmp_path))
    for name in ("check_pixel_size", "read_expression"):
        with monkeypatch.context() as patch:
            patch.setattr(f"spade_bench.spatial.sectionchecks.{name}", broken)
            with pytest.raises(fault):
                check_section(sample)


@pytest.mark.parametrize("suffix", [".json", ".prints.npy", ".genes"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe half"])
def test_damaged_notes_of_earlier_checks_are_made_again(
    suffix: str, content: bytes, tmp_path: Path
) -> None:
    cohort = config(write_hest(tmp_path))
    samples, _ = collect.gather(cohort.samples, "toy")
    before = collect.check_all(samples, cohort, tmp_path / "checks")
    (tmp_path / "checks" / f"S1{suffix}").write_bytes(content)
    after = collect.check_all(samples, cohort, tmp_path / "checks")
    assert [r.findings for r in after] == [r.findings for r in before]
    assert [r.genes() for r in after] == [r.genes() for r in before]
