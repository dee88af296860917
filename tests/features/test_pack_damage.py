"""Damaged packs: what a disk changes never becomes a number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.errors import DataError
from spade_bench.extraction.feature_bags import encode_bags
from spade_bench.features import bagfiles
from spade_bench.features import packs as pack_module
from spade_bench.features.bags import find_bags, read_bag, write_features
from spade_bench.features.casebags import CaseBags, scan_bags
from spade_bench.features.packing import pack_features
from spade_bench.features.packs import HEADER, MAGIC, TRAILER, is_pack, open_pack
from spade_bench.files import hash_obj
from spade_bench.types import EncoderCard

N, D = 5, 6


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A pack of three slides with coordinates, `a`, `b` and `c`, one behind the other."""
    rng = np.random.default_rng(0)
    for i, name in enumerate("abc"):
        x, xy = rng.normal(size=(N, D)), np.arange(2 * N).reshape(N, 2) + i
        write_features(tmp_path / "f" / f"{name}.h5", x, xy, slide_id=name, encoder="uni")
    return pack_features(tmp_path / "f", tmp_path / "x.pack", dtype="float32").path


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


def _rewrite(path: Path, change: Callable[[dict[str, Any]], object], version: int = 2) -> None:
    """Write the index of a pack anew, as another program would."""
    content = path.read_bytes()
    _, offset, length, _ = TRAILER.unpack(content[-TRAILER.size :])
    index = json.loads(content[offset : offset + length])
    seal = index.pop("seal")
    change(index)
    if "seal" not in index and version > 1:
        index["seal"] = seal if hash_obj(index) == seal else hash_obj(index)
    text = json.dumps(index).encode()
    trailer = TRAILER.pack(version, offset, len(text), MAGIC)
    path.write_bytes(content[:offset] + text + trailer)


ROWS = N * D * 4
PLACES = {
    "features": (HEADER + ROWS + 9, "the features of slide 'b' are damaged"),
    "coordinates": (HEADER + 3 * ROWS + N * 16 + 9, "the coordinates of slide 'b' are damaged"),
}


@pytest.mark.parametrize("part", PLACES)
def test_a_damaged_slide_is_named_and_the_others_read(packed: Path, part: str) -> None:
    _flip(packed, PLACES[part][0])
    assert sorted(find_bags(packed)) == ["a", "b", "c"]
    with pytest.raises(DataError, match=rf"x\.pack: {PLACES[part][1]}.*Pack it again"):
        read_bag(packed / "b.bag")
    for name in "ac":
        assert read_bag(packed / f"{name}.bag").features.shape == (N, D)
    found = scan_bags(find_bags(packed), whole=True)
    problems = {slide: info.problem for slide, info in found.items()}
    if part == "features":
        assert "x.pack: the features of slide 'b' are damaged" in problems.pop("b")
        with pytest.raises(DataError, match="slide 'b' are damaged"):
            CaseBags.from_files([[packed / "b.bag"]], D)[0]
    assert set(problems.values()) == {""}


def test_a_damaged_index_is_refused_wherever_it_is_damaged(packed: Path) -> None:
    content = packed.read_bytes()
    _, offset, length, _ = TRAILER.unpack(content[-TRAILER.size :])
    for place in range(offset, offset + length):
        packed.write_bytes(content)
        _flip(packed, place)
        with pytest.raises(DataError, match=r"x\.pack: a damaged pack.*Pack it again"):
            pack_module.Pack(packed)


ODD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no rows": lambda index: index.pop("rows"),
    "rows in words": lambda index: index.update(rows="many"),
    "negative rows": lambda index: index.update(rows=-1),
    "huge rows": lambda index: index.update(rows=10**30),
    "no such dtype": lambda index: index.update(dtype="floaty"),
    "slides are text": lambda index: index.update(slides="abc"),
    "unknown fields": lambda index: index["slides"][0].update(colour="red"),
    "a name that is none": lambda index: index["slides"][0].update(slide_id=7),
    "beyond the rows": lambda index: index["slides"][2].update(stop=99),
    "backwards": lambda index: index["slides"][2].update(start=99),
    "coordinates beyond the end": lambda index: index["slides"][2].update(coords_start=9999),
}  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("odd", ODD)
def test_an_index_that_cannot_be_is_refused(packed: Path, odd: str, version: int) -> None:
    _rewrite(packed, ODD[odd], version)
    with pytest.raises(DataError, match=r"a damaged pack.*Pack it again"):
        open_pack(packed)


@pytest.mark.parametrize("dtype", ["<f8", "<u2", "|b1", "<c8", "|O"])
def test_packs_of_other_numbers_are_refused(packed: Path, dtype: str) -> None:
    _rewrite(packed, lambda index: index.update(dtype=dtype, slides=[], rows=0))
    with pytest.raises(DataError, match=r"a pack of \w+ numbers.*Pack it again"):
        open_pack(packed)


def test_packs_of_version_1_stay_readable(packed: Path) -> None:
    new = {name: read_bag(packed / f"{name}.bag") for name in "abc"}

    def older(index: dict[str, Any]) -> None:
        for slide in index["slides"]:
            slide.pop("coords_digest", None)
            slide.pop("source", None)

    _rewrite(packed, older, version=1)
    assert is_pack(packed)
    for name, bag in new.items():
        old = read_bag(packed / f"{name}.bag")
        assert np.array_equal(old.features, bag.features)
        assert np.array_equal(old.coords, bag.coords)  # type: ignore[arg-type]
    _flip(packed, HEADER + 1)
    with pytest.raises(DataError, match="slide 'a' are damaged"):  # features had digests then too
        read_bag(packed / "a.bag")


def test_checksums_are_compared_once_per_process_and_slide(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    hash_array = pack_module.hash_array
    monkeypatch.setattr(
        pack_module, "hash_array", lambda x: (counted.append(len(x)), hash_array(x))[1]
    )
    files = find_bags(packed)
    scan_bags(files)
    assert not counted  # a pack may be larger than memory: a start reads none of its slides
    for _ in range(3):
        scan_bags(files, whole=True)
        bags = CaseBags.from_files([[path] for path in files.values()], D)
        assert [bags[i].shape for i in range(3)] == [(N, D)] * 3
        assert bagfiles._Source(files["a"]).read()[0].shape == (N, D)
    assert counted == [N] * 3


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, list[str]]:
    """A pack of 24 slides of which one is damaged, and the words of a run over it."""
    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,label"]
    for i in range(24):
        x = rng.normal(size=(N, D)) + i % 2
        write_features(tmp_path / "f" / f"s{i:02d}.h5", x, slide_id=f"s{i:02d}", encoder="mine")
        lines.append(f"c{i},s{i:02d},{'tumor' if i % 2 else 'normal'}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    pack = pack_features(tmp_path / "f", tmp_path / "x.pack", dtype="float32").path
    _flip(pack, HEADER + 3 * ROWS + 5)
    words = ["run", "--encoder", "mine", "--task", "demo", "--table", tmp_path / "t.csv",
             "--features", pack, "--shots", "2", "--draws", "1", "--head", "logistic",
             "--no-controls", "--device", "cpu", "--out", tmp_path / "o"]  # fmt: skip
    return pack, [str(word) for word in words]


def test_a_run_makes_no_number_of_a_damaged_slide_and_goes_on_once_packed_again(
    cohort: tuple[Path, list[str]], tmp_path: Path
) -> None:
    pack, words = cohort

    def rows() -> set[tuple[str, str]]:
        lines = (tmp_path / "o" / "results.jsonl").read_text().splitlines()
        return {(row["status"], row.get("error", "")) for row in map(json.loads, lines)}

    assert CliRunner().invoke(app, words).exit_code != 0
    ((status, said),) = rows()
    assert status == "failed"
    for part in ("x.pack", "slide 's03' are damaged", "Pack it again", "--allow-missing"):
        assert part in said
    pack_features(tmp_path / "f", pack, dtype="float32")
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "ok" in {status for status, _ in rows()}


def test_packing_and_validating_read_a_pack_in_full(
    cohort: tuple[Path, list[str]], tmp_path: Path
) -> None:
    pack, words = cohort
    told = CliRunner().invoke(
        app, ["validate", "--table", str(tmp_path / "t.csv"), "--features", str(pack)]
    )
    assert "slide 's03' are damaged" in told.output
    with pytest.raises(DataError, match="1 of 24 slides cannot be packed"):
        pack_features(pack, tmp_path / "y.pack")
    again = pack_features(pack, tmp_path / "y.pack", allow_missing=True)
    assert list(again.left_out) == ["s03"]
    words = [str(again.path) if word == str(pack) else word for word in words]
    assert CliRunner().invoke(app, [*words, "--allow-missing"]).exit_code == 0


class _Same:
    card = EncoderCard("same", "features", D, "Changes nothing.", upstream="uni")
    dim = D

    def encode(self, features: np.ndarray) -> np.ndarray:
        return features


def test_encoding_a_pack_goes_on_without_the_damaged_slide(packed: Path, tmp_path: Path) -> None:
    _flip(packed, PLACES["features"][0])
    done = encode_bags(_Same(), packed, tmp_path / "out", recipe={})
    assert sorted(done.written) == ["a", "c"]
    assert ["slide 'b' are damaged" in line for line in done.failed] == [True]


@pytest.mark.parametrize("content", [b"", b"PACK", b"\x00" * 5000])
def test_a_file_that_is_no_whole_pack_is_called_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "features.pack"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no whole pack"):
        find_bags(path)
